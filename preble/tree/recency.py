"""The order in which one worker would evict what it holds: the least recently used leaf first."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import chain

SLACK = 64
"""A log of no more entries than this, beyond those that count, is never compacted."""

SPARSE = 4
"""How many entries the log may have for each that counts; fewer would cost more work and save little memory."""

SQUEEZE = 4
"""How many old entries are compacted for each new one."""


class Recency:
    """Nodes from the least to the most recently used.

    `log` has an entry per use, and only the last entry of each node counts; `order` says which that is. The garbage
    collector visits neither of them, as it would visit an OrderedDict. A use of a path is logged from the leaf up, so a
    held child is always older than its parent, and the oldest node is a leaf of what the worker holds.

    Entries that no longer count are removed a few at a time, which avoids pauses: entries that count move from `read`
    down to `written`, and what lies between the two is a gap.

    A held node may have no entry. Then it stands directly after its only held child, and was used with it. So a split
    costs nothing here, however many workers hold the node.
    """

    __slots__ = ("head", "log", "order", "read", "written")

    def __init__(self) -> None:
        self.order: dict[int, int] = {}
        self.log = array("i")
        self.head = self.written = self.read = 0

    def touch(self, path: list[int]) -> None:
        """Make the nodes of `path`, leaf first, the most recently used. O(path), amortized."""
        order, log = self.order, self.log
        position = end = len(log)
        first = self.head if self.head > self.read else self.read
        for node in reversed(path):  # what paths share was often used last: move its entries, they need not die
            if position == first or log[position - 1] != node:
                break
            position -= 1
        if position != end:
            del log[position:]
        for node in path:
            order[node] = position
            log.append(node)
            position += 1
        if self.written != self.read or position > SPARSE * len(order) + SLACK:
            self._squeeze(SQUEEZE * len(path))

    def __iter__(self) -> Iterator[int]:
        """Yield the nodes that have a place of their own, from the least recently used on. Changes nothing."""
        order, log = self.order, self.log
        outside = chain(range(self.head, self.written), range(max(self.head, self.read), len(log)))
        return (log[position] for position in outside if order.get(log[position]) == position)

    def oldest(self) -> int | None:
        """Return the least recently used node, or None if there is none. O(1), amortized."""
        order, log, position = self.order, self.log, self.head
        while position < len(log):
            if self.written <= position < self.read:
                position = self.read
                continue
            if order.get(log[position]) == position:
                self.head = position
                return log[position]
            position += 1
        return None

    def replace(self, node: int, heir: int) -> None:
        """Forget `node`; `heir` takes its place if it has none. The root (0) is no heir."""
        position = self.order.pop(node, None)
        if heir and position is not None and heir not in self.order:
            self.order[heir] = position
            self.log[position] = heir

    def _squeeze(self, entries: int) -> None:
        order, log, written = self.order, self.log, self.written
        start = max(self.read, self.head)
        stop = min(start + entries, len(log))
        for position in range(start, stop):
            node = log[position]
            if order.get(node) == position:
                order[node], log[written] = written, node
                written += 1
        if written > self.written:
            self.head = min(self.head, self.written)
        self.written, self.read = written, stop
        if stop == len(log):
            del log[written:]
            self.written = self.read = 0

    def check(self) -> None:
        """Raise AssertionError unless the log and the order agree."""
        for node, position in self.order.items():
            assert self.log[position] == node, f"node {node}: the log has another at its place"
            assert position >= self.head, f"node {node}: before the oldest"
            assert not self.written <= position < self.read, f"node {node}: in the gap"
