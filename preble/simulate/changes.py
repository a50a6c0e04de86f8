"""Workers that crash, drain and join while a simulation runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from preble.errors import ConfigurationError


class Change(msgspec.Struct, frozen=True):
    """What happens to the worker of index `worker`, `at` so many seconds.

    "crash": it is gone; its requests are placed again, with the tokens they have so far. "drain": it takes no more
    requests, and leaves after its last. "join": it takes requests, its cache empty. A worker whose first change is to
    join is not there before; one that crashed may join again.
    """

    at: float
    worker: int
    action: Literal["crash", "drain", "join"]


_FROM = {"join": ("gone",), "drain": ("here",), "crash": ("here", "draining")}
_TO = {"join": "here", "drain": "draining", "crash": "gone"}


def absent(changes: Sequence[Change], workers: int) -> set[int]:
    """Return the workers that are not there at the beginning. `changes` are in order of time.

    Raises ConfigurationError for an unknown worker, or one that cannot do this then: a drained worker does not join.
    """
    states: dict[int, str] = {}
    missing = set()
    for change in changes:
        worker, action = change.worker, change.action
        if action not in _FROM:
            raise ConfigurationError(f"changes: unknown action {action!r}, one of {', '.join(_FROM)}")
        if not 0 <= worker < workers:
            raise ConfigurationError(f"changes: no worker {worker}, there are {workers}")
        if worker not in states and action == "join":
            missing.add(worker)
        if states.get(worker, _FROM[action][0]) not in _FROM[action]:
            raise ConfigurationError(
                f"changes: worker {worker} cannot {action} at {change.at:g}, it is {states[worker]}"
            )
        states[worker] = _TO[action]
    return missing
