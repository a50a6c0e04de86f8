"""The radix tree of prefixes: which worker holds which prefix, and in which order it would evict them.

`RadixTree` stands on three small parts: `nodes` (the columns with the data of a node), `holding` (what one worker
holds) and `recency` (its order of eviction). `Namespaces` makes keys such that prompts of two namespaces share no
prefix. Everything is pure. The scheduler, engines and the simulator import it; it imports only
`tokens` and `errors`.
"""

from preble.tree.match import Match
from preble.tree.namespaces import Namespaces, cache_salt
from preble.tree.radix import Eviction, RadixTree

__all__ = ["Eviction", "Match", "Namespaces", "RadixTree", "cache_salt"]
