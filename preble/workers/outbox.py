"""What a worker has to say, kept until it is sent: everything of one engine step leaves as one `Step`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from preble.backends import Delta, Evicted, Load, StepTiming
from preble.tokens import TOKEN_BYTES
from preble.transport.schema import MAX_BATCH, Failed, Step

STEP_BYTES = 8 << 20
"""About how many bytes of each kind of news go into one `Step`."""

_LOGPROB_BYTES = 100
"""Bytes of log-probabilities per byte of tokens, at the most likely ones that may be asked for."""

_Item = TypeVar("_Item")


class Outbox:
    """News in order. Add to the lists; `step` makes a message of their beginnings, `sent` removes what it held."""

    def __init__(self) -> None:
        self.evicted: list[Evicted] = []
        self.deltas: list[tuple[int, Delta]] = []
        self.failed: list[Failed] = []

    def __bool__(self) -> bool:
        return bool(self.deltas or self.failed or self.evicted)

    def step(self, load: Load, timings: Iterable[StepTiming] = ()) -> Step:
        """Return as much as one frame should hold. Deltas wait for the evictions that came with or before them.

        Timings are not kept: if the step cannot be sent, nobody misses them.
        """
        evicted = _beginning(self.evicted, _evicted_size)
        rest = len(evicted) < len(self.evicted)
        deltas = () if rest else _beginning(self.deltas, _delta_size)
        rest = rest or len(deltas) < len(self.deltas)
        return Step(evicted, deltas, () if rest else tuple(self.failed[:MAX_BATCH]), load, tuple(timings))

    def sent(self, step: Step) -> None:
        """Forget what the last `step` held."""
        del self.evicted[: len(step.evicted)]
        del self.deltas[: len(step.deltas)]
        del self.failed[: len(step.failed)]


def _beginning(items: list[_Item], size: Callable[[_Item], int]) -> tuple[_Item, ...]:
    if len(items) <= MAX_BATCH and sum(map(size, items)) <= STEP_BYTES:  # nearly always, and quickly
        return tuple(items)
    return tuple(items[: _fitting(map(size, items))])


def _fitting(sizes: Iterable[int]) -> int:
    """Return how many of the first items fit into STEP_BYTES and MAX_BATCH, at least one."""
    total = count = 0
    for count, size in enumerate(sizes, 1):
        total += size
        if total > STEP_BYTES or count > MAX_BATCH:
            return max(1, count - 1)
    return count


def _evicted_size(evicted: Evicted) -> int:
    return len(evicted.tokens) + len(evicted.cache_salt)


def _delta_size(item: tuple[int, Delta]) -> int:
    delta = item[1]
    size = len(delta.tokens) * (_LOGPROB_BYTES if delta.logprobs else 1)
    return size + len(delta.prompt_logprobs or ()) * TOKEN_BYTES * _LOGPROB_BYTES
