"""The radix tree of prefixes: who holds which, and in what order they were used. Pure: no I/O, no clock.

`RadixTree` stands on three small parts: `nodes` (the columns that belong to a node), `holding` (what one worker
holds) and `recency` (in which order it would give it up). `Namespaces` makes keys such that namespaces share nothing.
"""

from preble.tree.match import Match
from preble.tree.namespaces import Namespaces, cache_salt
from preble.tree.radix import Eviction, RadixTree

__all__ = ["Eviction", "Match", "Namespaces", "RadixTree", "cache_salt"]
