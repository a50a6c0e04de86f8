"""Policies that do as the test says."""

from __future__ import annotations

from preble.core.copies import Copy
from preble.core.fleet import Fleet
from preble.core.policy import Decision, Query
from preble.tree import RadixTree


class To:
    """Sends requests to these slots in turn, whoever is there, and all that follow to the last of them."""

    def __init__(self, *slots: int, relieves: bool = False) -> None:
        self.slots = list(slots)
        self.relieves = relieves
        self.asked: list[Query] = []

    def place(self, query: Query, fleet: Fleet, now: float) -> Decision:
        self.asked.append(query)
        return Decision(self.slots.pop(0) if len(self.slots) > 1 else self.slots[0], "told to")


class First:
    """Sends everything to the first worker that takes requests, or to the one at `index`; proposes `proposed` once."""

    relieves = True

    def __init__(self, index: int = 0) -> None:
        self.index = index
        self.asked = 0
        self.proposed: list[Copy] = []

    def place(self, query: Query, fleet: Fleet, now: float) -> Decision:
        self.asked += 1
        return Decision(fleet.require_live()[self.index], "first")

    def copies(self, tree: RadixTree, now: float) -> list[Copy]:
        proposed, self.proposed = self.proposed, []
        return proposed
