"""One worker as policies see it: what it is, and what its work costs."""

from __future__ import annotations

from preble.core.cost import Coefficients
from preble.core.fit import Fit

_DECODE_SHARE = 0.5
"""The part of decodes that counts as load: they go on beside prefills, and nobody has to wait for their end."""
_OUTPUT_GUESS = 64.0


class Slot:
    """What does not change with every request: a worker's name, its cache in tokens, its prices in seconds.

    Its engine computes at most `max_batched_tokens` in a step, None for any number. It `accepts_requests` if a worker
    is here and is not drained, of `namespaces` only unless that is None. `short_first` says that its wait queue lets
    shorter requests pass. `fit` learns from its steps; the prices are those of `leader`, its own or that of a worker
    like it. `output` is the running mean of output tokens, `reuse` the running share of prompt tokens that were cached.
    """

    __slots__ = (
        "accepts_requests", "block_size", "fit", "kv_tokens", "leader", "max_batched_tokens", "namespaces", "output",
        "prices", "reuse", "short_first", "worker",
    )  # fmt: skip

    def __init__(self, worker: str | None, kv_tokens: int, block_size: int, prices: Coefficients) -> None:
        self.worker = worker
        self.accepts_requests = worker is not None
        self.namespaces: frozenset[str] | None = None
        self.max_batched_tokens: int | None = None
        self.short_first = False
        self.kv_tokens = kv_tokens
        self.block_size = block_size
        self.prices = prices
        self.fit = self.leader = Fit(prices)
        self.output = _OUTPUT_GUESS
        self.reuse = 0.0

    def serves(self, namespace: str | None) -> bool:
        """Whether it may be sent requests of `namespace`; None stands for one that no worker names."""
        return self.namespaces is None or namespace in self.namespaces

    def price_by(self, leader: Fit) -> None:
        """Take the prices of `leader` from now on."""
        self.leader, self.prices = leader, leader.prices

    def prefill_seconds(self, uncached: int, length: int) -> float:
        """Seconds to prefill the last `uncached` tokens of a prompt of `length` tokens."""
        prices = self.prices
        linear = prices.base + prices.context * length + (prices.new + prices.product * length) * uncached
        return linear if linear > prices.least else prices.least

    def chunked_seconds(self, uncached: int, length: int) -> float:
        """Seconds to prefill them in steps of `max_batched_tokens`, each over what is there by then; in one if None."""
        step = self.max_batched_tokens
        if step is None or uncached <= step:
            return self.prefill_seconds(uncached, length)
        before = (uncached - 1) // step  # whole steps before the last
        contexts = before * (length - uncached) + step * before * (before + 1) // 2
        prices, last = self.prices, uncached - before * step
        linear = (before + 1) * prices.base + prices.new * uncached + prices.context * (contexts + length)
        return linear + prices.product * (step * contexts + last * length)

    def work_seconds(self, uncached: int, length: int) -> float:
        """What that prefill adds to the steps of the engine, which take their base time anyway."""
        return (self.prices.new + self.prices.product * length) * uncached

    def decode_seconds(self, length: int, max_tokens: float) -> float:
        """What one more decoding sequence of that length adds to the load, over its expected output.

        The seconds that it adds to the steps of everyone, times the part of them that counts as load.
        """
        output = self.output if self.output < max_tokens else max_tokens
        return _DECODE_SHARE * (self.prices.decode_new + self.prices.decode_context * length) * output
