"""What a caller gets of a request, whatever became of it."""

from __future__ import annotations

import pytest

from preble.dispatch.request import Flight, Sample
from preble.tokens import pack
from preble.types import RequestOptions, SamplingParams


@pytest.mark.parametrize(("computed_at", "ttft"), [(None, 3.0), (2.0, 1.0)])
def test_without_a_token_the_first_one_counts_as_come_at_the_end(computed_at: float | None, ttft: float) -> None:
    sample = Sample(Flight("1", streaming=False), 0, pack([1]), SamplingParams(), RequestOptions(), 1.0)
    if computed_at is not None:
        sample.mark_computed(computed_at)
    sample.end(4.0, reason="stop")
    timings = sample.choice("").timings
    assert (timings.ttft, timings.latency) == (ttft, 3.0)
