from __future__ import annotations

import pytest

from tests.mutations import MUTATIONS, Mutation, mutated


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.guard)
def test_every_mutation_still_changes_the_code(mutation: Mutation):
    """Where a text moved on, follow it in `tests/mutations.py`."""
    assert mutated(mutation)
