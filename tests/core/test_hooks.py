"""Which methods of a policy are called, and that a misspelt one is an error."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from preble.core.hooks import PolicyHooks, bind_hooks
from preble.core.policy import Decision
from preble.core.scheduler import Scheduler
from preble.errors import ConfigurationError

NewScheduler = Callable[..., Scheduler]


class Only:
    """All that a policy must have; what it has besides is no method."""

    rounds = 3
    key = dict

    def __init__(self) -> None:
        self.clock = lambda: 0.0

    def place(self, query: Any, fleet: Any, now: float) -> Decision:
        return Decision(self._first(fleet), "first")

    def _first(self, fleet: Any) -> int:
        return fleet.require_live()[0]


class Hearing(Only):
    """Writes down which hooks are called, with what."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[Any, ...]] = []

    def attached(self, fleet):
        self.heard.append(("attached",))

    def placed(self, request, now):
        self.heard.append(("placed", request.id, now))

    def computed(self, request, now):
        self.heard.append(("computed", request.id, now))

    def finished(self, request, output, now):
        self.heard.append(("finished", request.id, len(output), now))

    def evicted(self, slot, tokens, keep, now):
        self.heard.append(("evicted", slot, len(tokens), keep, now))

    def copies(self, tree, now):
        self.heard.append(("copies", now))
        return []

    def worker_added(self, slot, now):
        self.heard.append(("worker_added", slot, now))

    def worker_removed(self, slot, now):
        self.heard.append(("worker_removed", slot, now))

    def check(self):
        self.heard.append(("check",))


def live(policy: Any) -> Scheduler:
    """Run a scheduler through all that a policy may hear of; its worker has room for the first prompt alone."""
    scheduler = Scheduler(policy)
    scheduler.add_worker("a", kv_tokens=10, now=1.0)
    scheduler.submit("one", [1] * 8, max_tokens=2, now=2.0)
    scheduler.first_token("one", now=3.0)
    scheduler.finish("one", output=[7, 7], now=4.0)
    scheduler.submit("two", [2] * 8, max_tokens=2, now=5.0)
    scheduler.copies(6.0)
    scheduler.check()
    scheduler.remove_worker("a", now=7.0)
    return scheduler


def test_every_hook_is_called():
    policy = Hearing()
    live(policy)
    assert policy.heard == [
        ("attached",),
        ("worker_added", 0, 1.0),
        ("placed", "one", 2.0),
        ("computed", "one", 3.0),
        ("finished", "one", 8, 4.0),
        ("evicted", 0, 36, 2, 5.0),
        ("placed", "two", 5.0),
        ("copies", 6.0),
        ("check",),
        ("finished", "two", 0, 7.0),
        ("worker_removed", 0, 7.0),
    ]


@pytest.mark.parametrize("policy", [Only(), SimpleNamespace(place=lambda query, fleet, now: Decision(0, "first"))])
def test_none_of_them_is_needed(policy: Any):
    scheduler = live(policy)
    assert scheduler.rebalance(8.0) == []
    assert scheduler.explain("two").reason == "first"


def test_who_does_not_hear_evictions_needs_no_paths():
    assert bind_hooks(Hearing()).hears_evictions
    assert not bind_hooks(Only()).hears_evictions


def test_what_one_policy_has_no_other_gets():
    bind_hooks(Hearing())
    assert bind_hooks(Only()).copies(None, 0.0) == PolicyHooks().copies(None, 0.0) == []


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("finish", "did you mean 'finished'"),
        ("worker_add", "did you mean 'worker_added'"),
        ("on_evicted", "did you mean 'evicted'"),
        ("Check", "did you mean 'check'"),
        ("score", "not one of attached, check, computed, copies, evicted, finished, place, placed, worker_added, "),
    ],
)
def test_a_misspelt_hook_is_refused_at_the_start(name: str, nearest: str):
    policy = type("Misspelt", (Only,), {name: lambda self, *arguments: None})()
    with pytest.raises(ConfigurationError, match=rf"^policy: Misspelt\.{name} is no hook, {nearest}"):
        Scheduler(policy)


@pytest.mark.parametrize("wrap", [staticmethod, classmethod])
def test_a_static_method_is_a_method_too(wrap: Any):
    with pytest.raises(ConfigurationError, match="did you mean 'placed'"):
        Scheduler(type("Misspelt", (Only,), {"place_d": wrap(lambda *arguments: None)})())


def test_a_policy_without_place_is_refused():
    with pytest.raises(ConfigurationError, match=r"object has no method place\(query, fleet, now\)"):
        Scheduler(object())  # type: ignore[arg-type]


def test_a_hook_that_is_no_method_is_refused():
    policy = Only()
    policy.copies = 3  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match=r"Only\.copies must be a method"):
        Scheduler(policy)
