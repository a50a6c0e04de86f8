from __future__ import annotations

from bench.live.recording import recorded
from bench.live.shapes import looped
from preble.simulate import Request
from tests.bench.live.small_setting import small

SETTING = small("sim")


def one_by_one(*segments: int) -> list[Request]:
    """Requests of one step each."""
    return looped([Request(arrival=0.0, segments=((name, 64),), output_tokens=1) for name in segments], 1)


async def test_a_phase_begins_anew_whatever_the_one_before_it_left_behind():
    # The first three go where the prompt is believed to be; a rule that then sees that worker ahead has others follow.
    phases = [one_by_one(1, 1, 1), one_by_one(2, 3, 4, 5, 1)]
    first, second = await recorded(SETTING, "sglang-cache-aware", phases, bool, seed=0, cold=True)
    assert [record.worker for record in first.records] == ["w0"] * 3
    assert [record.worker for record in second.records[:4]] == ["w0", "w1", "w0", "w1"]
    assert [record.cached_tokens > 0 for record in first.records] == [False, True, True]
    assert second.records[4].cached_tokens == 0
    # Steps of warming up and of making workers even are nobody's.
    assert (len(first.steps), len(second.steps)) == (3, 5)


async def test_round_robin_begins_where_it_began_after_an_odd_number():
    phases = [one_by_one(1, 2, 3), one_by_one(4, 5)]
    for phase in await recorded(SETTING, "round-robin", phases, bool, seed=0, cold=True):
        assert phase.records[0].worker == "w0"
