"""What no scheduler can beat: each request alone, with every prompt before it cached for ever."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np

from preble.backends.sim import SimOptions
from preble.core.cost import CostModel, cost_model
from preble.simulate.request import Request, segment_tokens
from preble.tokens import TOKEN_BYTES
from preble.tree import RadixTree

RESPONSE_BASE, RESPONSE_TOKEN = 0.05, 0.02
"""Seconds of a nominal response, and of each of its tokens: the order of closed loops without an engine."""


class Bounds(msgspec.Struct, frozen=True):
    """Times in seconds of requests alone, and the part of prompt tokens that an infinite cache would hold."""

    hit_ratio: float
    ttft_mean: float
    ttft_p50: float
    ttft_p99: float
    latency_mean: float
    latency_p99: float


def bounds(workload: Iterable[Request], options: SimOptions | None = None) -> Bounds:
    """Return the bounds of a workload on engines of `options`. Prompts count in their nominal order of arrival."""
    options = options or SimOptions()
    cost, budget = cost_model(options.cost), options.max_batched_tokens
    requests = in_order(list(workload))
    hits = [cached - cached % options.block_size for cached in infinite_cache(requests)]
    pairs = list(zip(requests, hits, strict=True))
    ttft = np.array([_prefill(cost, budget, request.prompt_tokens, hit) for request, hit in pairs])
    decode = np.array([_decode(cost, request) for request in requests])
    return Bounds(
        hit_ratio=sum(hits) / max(1, sum(request.prompt_tokens for request in requests)),
        ttft_mean=float(ttft.mean()),
        ttft_p50=float(np.percentile(ttft, 50)),
        ttft_p99=float(np.percentile(ttft, 99)),
        latency_mean=float((ttft + decode).mean()),
        latency_p99=float(np.percentile(ttft + decode, 99)),
    )


def infinite_cache(requests: Iterable[Request]) -> Iterator[int]:
    """How many tokens of each prompt began an earlier one, but never the last token: that is always computed."""
    tree = RadixTree()
    for request in requests:
        tokens = b"".join(segment_tokens(*segment) for segment in request.segments)
        match = tree.match(tokens)
        yield min(match.tokens, len(tokens) // TOKEN_BYTES - 1)
        tree.insert(tokens, 0, match=match, pin=False, computed=True)


def in_order(requests: Sequence[Request]) -> list[Request]:
    """Return requests by arrival, as if every response of a closed loop took 0.05 s and 20 ms per token."""
    ends: dict[tuple[str | None, int], float] = {}
    order: list[tuple[float, int]] = []
    for index, request in sorted(enumerate(requests), key=lambda pair: pair[1].turn):
        before = ends.get((request.session, request.turn - 1), 0.0)
        time = before + request.gap if request.arrival is None else request.arrival
        end = time + RESPONSE_BASE + RESPONSE_TOKEN * request.output_tokens
        key = request.session, request.turn
        ends[key] = max(end, ends.get(key, 0.0))
        heapq.heappush(order, (time, index))
    return [requests[heapq.heappop(order)[1]] for _ in range(len(order))]


def _prefill(cost: CostModel, budget: int, length: int, cached: int) -> float:
    """Seconds to prefill what is not cached, in chunks of `budget` tokens."""
    ends = [*range(cached + budget, length, budget), length]
    return sum(cost.prefill(end - begin, end) for begin, end in zip([cached, *ends], ends, strict=False))


def _decode(cost: CostModel, request: Request) -> float:
    """Seconds of the tokens after the first; the context is taken as the mean one."""
    steps = request.output_tokens - 1
    return steps * cost.decode(1, request.prompt_tokens + request.output_tokens // 2) if steps > 0 else 0.0
