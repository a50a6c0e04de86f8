"""Dynamo's KV cost: blocks still to be prefilled plus blocks of unfinished requests."""

from __future__ import annotations

from preble.core.fleet import Fleet
from preble.core.policies.baselines.ties import least
from preble.core.policies.baselines.unfinished import Unfinished
from preble.core.policy import Decision, Query
from preble.core.request import Request


class DynamoKv:
    """The default selector of Dynamo (ai-dynamo/dynamo, `lib/kv-router`, 07a6c9ce; defaults 0243c51b).

    Least `max(0, (A + isl) / b - o) + D + new` in blocks of `b` tokens, exact ties drawn: A is the prompt tokens still
    to be computed there, isl this prompt's, o its leading blocks that the engine has; D is the distinct prompt blocks
    of unfinished requests there, new those that this request would add (a block that is cached but idle is new too).
    Constants: scale 1, credit 1, no credit for shared or lower tiers, no weight on requests, no decay, temperature 0.
    `b` only rounds, since all terms are in blocks: 16, whatever the engine's. Output blocks do not count.
    State: what engines report, so computed prefixes only, not those in flight; A as the scheduler accounts it (charged
    when placed, released at the first token or the end); D by its own tree of unfinished prompts.
    """

    def __init__(self, *, block_size: int = 16) -> None:
        """`block_size` is in tokens."""
        self.unfinished = Unfinished(block_size=block_size)

    def place(self, query: Query, fleet: Fleet, now: float) -> Decision:
        """Return the live slot of least cost."""
        live, block_size = fleet.require_live(), self.unfinished.block_size
        waiting = ((fleet.uncached[live] + query.length) / block_size).tolist()
        active = self.unfinished.match(query.match.prompt)
        costs = [
            max(0.0, tokens - query.match.computed_length(slot) // block_size)
            + (self.unfinished.tokens(slot) - active.length(slot)) // block_size
            + query.length // block_size
            for slot, tokens in zip(live, waiting, strict=True)
        ]
        return Decision(least(live, costs, fleet), "least blocks")

    def placed(self, request: Request, now: float) -> None:
        """Book the prompt's blocks."""
        self.unfinished.add(request)

    def finished(self, request: Request, output: bytes, now: float) -> None:
        """Release them."""
        self.unfinished.remove(request)

    def check(self) -> None:
        """Raise AssertionError if booked blocks are not those of unfinished requests."""
        self.unfinished.check()
