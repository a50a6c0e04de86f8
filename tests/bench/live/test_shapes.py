from __future__ import annotations

import pytest

from bench.live.shapes import shapes
from bench.live.traffic import LIVE, workload


def names(requests) -> set[int]:
    return {name for request in requests for name, _ in request.segments}


@pytest.mark.parametrize("name", LIVE)
def test_no_prompt_begins_as_one_of_a_workload_does(name):
    assert not names(workload(name, 60, 0)) & names(shapes(60, 1000, 0))


def test_other_seeds_share_nothing_and_some_of_one_seed_share_heads():
    first, second = shapes(60, 1000, 3), shapes(60, 1000, 4)
    assert not names(first) & names(second)
    heads = [request.segments[0] for request in first if len(request.segments) == 2]
    assert len(set(heads)) < len(heads)
    assert len(names(first)) == len(set(heads)) + len(first), "what is a request's own is shared"
