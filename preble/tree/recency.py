"""The order in which one worker would give up what it holds: least recently used leaf first."""

from __future__ import annotations

from array import array

SLACK = 64
"""Entries of the log that are never worth compacting away."""


class Recency:
    """Nodes from least to most recently used.

    A log of uses, in which only each node's last entry counts; `order` says which that is. Both are invisible to the
    garbage collector, which an OrderedDict is not. A use of a path is logged leaf first, so a held child is always
    older than its parent, and the oldest node is a leaf of what the worker holds.

    A held node may be missing: it then stands directly after its only held child, whose use was its own. That is how
    a split costs nothing here, however many workers hold the node.
    """

    __slots__ = ("head", "log", "order")

    def __init__(self) -> None:
        self.order: dict[int, int] = {}
        self.log = array("i")
        self.head = 0

    def touch(self, path: list[int]) -> None:
        """Make the nodes of `path`, leaf first, the most recently used. O(path), amortized."""
        order, log = self.order, self.log
        position = len(log)
        for node in path:
            order[node] = position
            log.append(node)
            position += 1
        if position > 2 * len(order) + SLACK:
            self._compact()

    def oldest(self) -> int | None:
        """Return the least recently used node, or None if there is none. O(1), amortized."""
        order, log = self.order, self.log
        for position in range(self.head, len(log)):
            if order.get(log[position]) == position:
                self.head = position
                return log[position]
        return None

    def replace(self, node: int, heir: int) -> None:
        """Forget `node`; `heir` takes its place if it has none. The root (0) is no heir."""
        position = self.order.pop(node, None)
        if heir and position is not None and heir not in self.order:
            self.order[heir] = position
            self.log[position] = heir

    def _compact(self) -> None:
        self.log = array("i", sorted(self.order, key=self.order.__getitem__))
        self.order = {node: position for position, node in enumerate(self.log)}
        self.head = 0

    def check(self) -> None:
        """Raise AssertionError unless the log and the order agree."""
        for node, position in self.order.items():
            assert self.log[position] == node, f"node {node}: the log has another at its place"
            assert position >= self.head, f"node {node}: before the oldest"
