from __future__ import annotations

from preble.backends import Delta, Evicted, Load, StepTiming
from preble.transport.schema import Failed, encode
from preble.workers import outbox
from preble.workers.outbox import Outbox

LOAD = Load(0, 0, 0)


def _steps(box: Outbox):
    while box:
        step = box.step(LOAD)
        box.sent(step)
        yield step


def test_everything_small_is_one_step():
    box = Outbox()
    box.evicted.append(Evicted(b"", 0))
    box.deltas += [(1, Delta(b"abcd")), (2, Delta(b"efgh"))]
    box.failed.append(Failed(3, "reason"))
    (step,) = _steps(box)
    assert step.evicted == (Evicted(b"", 0),)
    assert step.deltas == ((1, Delta(b"abcd")), (2, Delta(b"efgh")))
    assert step.failed == (Failed(3, "reason"),)
    assert not box


def test_what_is_not_sent_stays():
    box = Outbox()
    box.deltas.append((1, Delta(b"abcd")))
    assert box.step(LOAD) == box.step(LOAD)
    step = box.step(LOAD)
    box.deltas.append((2, Delta(b"")))
    box.sent(step)
    assert box.deltas == [(2, Delta(b""))]


def test_large_news_are_split_in_order(monkeypatch):
    monkeypatch.setattr(outbox, "STEP_BYTES", 100)
    box = Outbox()
    box.evicted += [Evicted(bytes(40), number) for number in range(5)]
    box.deltas += [(number, Delta(bytes(40))) for number in range(5)]
    box.failed.append(Failed(9, "reason"))
    steps = list(_steps(box))
    assert all(len(encode(step)) < 300 for step in steps)
    order = [item for step in steps for item in (*step.evicted, *step.deltas, *step.failed)]
    assert order == [
        *(Evicted(bytes(40), number) for number in range(5)),
        *((number, Delta(bytes(40))) for number in range(5)),
        Failed(9, "reason"),
    ]


def test_one_oversized_item_still_leaves(monkeypatch):
    monkeypatch.setattr(outbox, "STEP_BYTES", 100)
    box = Outbox()
    box.evicted += [Evicted(bytes(400), 0), Evicted(b"", 0)]
    assert [len(step.evicted) for step in _steps(box)] == [1, 1]


def test_timings_leave_with_the_step_they_are_given_to_and_are_not_kept():
    box = Outbox()
    timing = StepTiming(1, 5, 0, 0, 1, 0.1)
    assert box.step(LOAD, [timing]).timings == (timing,)
    assert box.step(LOAD).timings == ()
    assert not box
