"""One worker as policies see it: what it is, and how many seconds its work takes."""

from __future__ import annotations

import math

from preble.core.cost import Coefficients
from preble.core.fit import Fit

_DECODE_SHARE = 0.5
"""The share of decodes that counts as load. Decodes run beside prefills, and nobody has to wait for their end."""
_OUTPUT_GUESS = 64.0


class Slot:
    """A worker as it is from request to request: its name, its cache in tokens, and its prices in seconds.

    `accepts_requests` is true if there is a worker and it is not drained. It serves `namespaces`, or all if that is
    None. Its engine computes at most `max_batched_tokens` in a step, None if there is no known limit. `short_first`
    says that its wait queue lets shorter requests go first. Prompt and output have room in `context_limit` tokens.

    A worker that is `paused` gets no new requests for a while. `penalty` is what its recent failures cost, in seconds
    for each request.

    `fit` learns from the worker's steps. `prices` are those of `leader`: its own fit, or that of a similar worker.
    `output` is the running mean of output tokens, `reuse` the running share of prompt tokens that were cached.
    """

    __slots__ = (
        "accepts_requests", "block_size", "context_limit", "fit", "kv_tokens", "leader", "max_batched_tokens",
        "namespaces", "output", "paused", "penalty", "prices", "reuse", "short_first", "worker",
    )  # fmt: skip

    def __init__(self, worker: str | None, kv_tokens: int, block_size: int, prices: Coefficients) -> None:
        self.worker = worker
        self.accepts_requests = worker is not None
        self.namespaces: frozenset[str] | None = None
        self.max_batched_tokens: int | None = None
        self.context_limit = math.inf
        self.paused = False
        self.penalty = 0.0
        self.short_first = False
        self.kv_tokens = kv_tokens
        self.block_size = block_size
        self.prices = prices
        self.fit = self.leader = Fit(prices)
        self.output = _OUTPUT_GUESS
        self.reuse = 0.0

    def serves(self, namespace: str | None) -> bool:
        """Return whether it serves `namespace`; None stands for a namespace that no worker names."""
        return self.namespaces is None or namespace in self.namespaces

    def price_by(self, leader: Fit) -> None:
        """Use the prices of `leader` from now on."""
        self.leader, self.prices = leader, leader.prices

    def prefill_seconds(self, uncached: int, length: int) -> float:
        """Return the seconds to prefill the last `uncached` tokens of a prompt of `length` tokens, in one step."""
        prices = self.prices
        linear = prices.base + prices.context * length + (prices.new + prices.product * length) * uncached
        return linear if linear > prices.least else prices.least

    def chunked_seconds(self, uncached: int, length: int) -> float:
        """Return the seconds to prefill them in steps of `max_batched_tokens`, each with the context it has by then."""
        step = self.max_batched_tokens
        if step is None or uncached <= step:
            return self.prefill_seconds(uncached, length)
        before = (uncached - 1) // step  # whole steps before the last
        contexts = before * (length - uncached) + step * before * (before + 1) // 2
        prices, last = self.prices, uncached - before * step
        linear = (before + 1) * prices.base + prices.new * uncached + prices.context * (contexts + length)
        return linear + prices.product * (step * contexts + last * length)

    def work_seconds(self, uncached: int, length: int) -> float:
        """Return the seconds that this prefill adds to the engine's steps, which take their base time anyway."""
        return (self.prices.new + self.prices.product * length) * uncached

    def decode_seconds(self, length: int, max_tokens: float) -> float:
        """Return the seconds of load that one more decoding sequence adds, over its expected output.

        These are the seconds that it adds to the steps of all, times the share of decodes that counts as load.
        """
        output = self.output if self.output < max_tokens else max_tokens
        return _DECODE_SHARE * (self.prices.decode_new + self.prices.decode_context * length) * output
