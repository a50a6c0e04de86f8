"""The prompts that every row of the benchmark is measured with."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

COMMON, SHARED = 0.05, 0.85
REQUESTS_PER_GROUP = 40
VOCABULARY = 32_000


class Prompts:
    """Endless prompts of `length` tokens for a run of `requests` requests, as packed bytes."""

    def __init__(self, length: int, requests: int, seed: int = 1) -> None:
        self.length = length
        self.rng = np.random.default_rng(seed)
        self.groups = max(1, requests // REQUESTS_PER_GROUP)
        weights = 1.0 / np.arange(1, self.groups + 1) ** 1.1
        self.share = weights / weights.sum()
        self.common = self.tokens(int(COMMON * length))
        self.prefixes: dict[int, bytes] = {}

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield from (self._prompt(int(group)) for group in self.rng.choice(self.groups, 1000, p=self.share))

    def take(self, count: int) -> list[bytes]:
        """Return the next prompts."""
        return list(islice(self, count))

    def share_out(self) -> None:
        """Make the prefixes of all groups now."""
        for group in range(self.groups):
            self.prefix(group)

    def prefix(self, group: int) -> bytes:
        """Return what all prompts of a group begin with."""
        return self.common + (self.prefixes.get(group) or self.prefixes.setdefault(group, self._shared()))

    def misses(self, count: int) -> list[bytes]:
        """Return prompts that share nothing with any other."""
        return [self.tokens(self.length) for _ in range(count)]

    def tokens(self, count: int) -> bytes:
        """Return that many random tokens, packed."""
        return self.rng.integers(0, VOCABULARY, count, dtype="<i4").tobytes()

    def _prompt(self, group: int) -> bytes:
        return self.prefix(group) + self.tokens(self.length - int(SHARED * self.length))

    def _shared(self) -> bytes:
        return self.tokens(int(SHARED * self.length) - int(COMMON * self.length))


def unpacked(prompts: list[bytes]) -> list[list[int]]:
    """Return the prompts as lists, with integers of their own as a tokenizer makes them."""
    return [np.frombuffer(prompt, dtype="<i4").tolist() for prompt in prompts]
