"""llm-d's default: a weighted sum of queue, KV use and prefix scores."""

from __future__ import annotations

from preble.core.fleet import Fleet
from preble.core.policies.baselines.ties import least
from preble.core.policies.baselines.unfinished import Unfinished
from preble.core.policy import Decision, Query
from preble.core.request import Request
from preble.tokens import TOKEN_BYTES
from preble.tree import RadixTree

BLOCK_SIZE = 64
"""Tokens of a block of the index; the original's least, whatever smaller block the engine has."""
LONGEST = 131_072
"""Prompt tokens that are looked at."""
_UNKNOWN = 31_250 * BLOCK_SIZE
"""The index's limit for a worker that was never a candidate."""


class LlmDWeighted:
    """The built-in default of llm-d's endpoint picker (llm-d/llm-d-router ebab6879).

    Highest `queue * q + kv * (1 - use) + prefix * x`, weights 2, 2 and 3, ties drawn: q is 1 for the fewest waiting
    requests of all, 0 for the most, linear between, 1 for all if they are equal; use is the share of KV tokens in use;
    x is the share of the prompt's whole blocks of 64 tokens believed cached.
    State: own guess index, entered after the decision, per worker the most recently used as many blocks as its engine
    has (but of 64 tokens, and 31 250 if unknown); waiting requests from the scheduler, at once rather than as scraped;
    KV use, which engines do not report here, from the distinct prompt tokens of requests past their first token.
    Where the original forgets the head of a prompt before its tail, and then counts what is not contiguous, this index
    forgets tails first.
    """

    def __init__(self, *, queue: float = 2.0, kv: float = 2.0, prefix: float = 3.0) -> None:
        """Weights of the three scores, each between 0 and 1."""
        self.queue = queue
        self.kv = kv
        self.prefix = prefix
        self.index = RadixTree(block_size=BLOCK_SIZE)
        self.running = Unfinished(block_size=1)
        self._limits: dict[int, int] = {}

    def place(self, query: Query, fleet: Fleet, now: float) -> Decision:
        """Return the live slot of the highest score."""
        live = fleet.require_live()
        waiting = fleet.waiting[live].tolist()
        most, spread = max(waiting), max(waiting) - min(waiting)
        match = self.index.match(query.match.prompt[: LONGEST * TOKEN_BYTES])
        whole = max(1, min(query.length, LONGEST) // BLOCK_SIZE) * BLOCK_SIZE
        costs = []
        for slot, count in zip(live, waiting, strict=True):
            kv_tokens = fleet.slots[slot].kv_tokens
            self._limits[slot] = kv_tokens // fleet.slots[slot].block_size * BLOCK_SIZE
            short_queue = (most - count) / spread if spread else 1.0
            free = 1.0 - min(1.0, self.running.tokens(slot) / kv_tokens)
            costs.append(-(self.queue * short_queue + self.kv * free + self.prefix * match.length(slot) / whole))
        return Decision(least(live, costs, fleet), "highest score")

    def placed(self, request: Request, now: float) -> None:
        """Enter the prompt."""
        self.index.insert(request.tokens[: LONGEST * TOKEN_BYTES], request.slot, pin=False, computed=True)
        held = self.index.held_tokens(request.slot)
        self.index.evict(request.slot, held - self._limits.get(request.slot, _UNKNOWN))

    def computed(self, request: Request, now: float) -> None:
        """The prompt is in use from now on."""
        self.running.add(request)

    def finished(self, request: Request, output: bytes, now: float) -> None:
        """The prompt is no longer in use."""
        self.running.remove(request)

    def worker_removed(self, slot: int, now: float) -> None:
        """Forget the worker."""
        self.index.remove_worker(slot)
        self._limits.pop(slot, None)

    def check(self) -> None:
        """Raise AssertionError if a tree is not consistent."""
        self.index.check()
        self.running.check()
