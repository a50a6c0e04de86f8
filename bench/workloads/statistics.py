"""What a workload shares, in numbers: the same for generators and for traces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np

from preble.simulate import Request
from preble.simulate.bounds import in_order, infinite_cache


class Sharing(msgspec.Struct, frozen=True):
    """`prompt` and `output` are mean tokens; `hit` is the part of prompt tokens that began an earlier prompt.

    A node is a run of tokens shared by the same requests. A request's key node is the deepest on its path with more
    tokens than all before it together; `key` is its part of the prompt, in per cent. `per_key` requests have the same
    one; `top_1` and `top_10` are the shares of requests of the most popular key node, and of the ten most popular.
    """

    requests: int
    prompt: float
    output: float
    hit: float
    key: float
    per_key: float
    top_1: float
    top_10: float


def sharing(requests: Sequence[Request]) -> Sharing:
    """Return the statistics of a workload. Only whole segments count as shared in those of key nodes."""
    keys, parts = _keys(requests)
    counts = [count for _, count in Counter(keys).most_common()]
    prompt = [request.prompt_tokens for request in requests]
    return Sharing(
        requests=len(requests),
        prompt=float(np.mean(prompt)),
        output=float(np.mean([request.output_tokens for request in requests])),
        hit=sum(infinite_cache(in_order(requests))) / sum(prompt),
        key=100 * float(np.mean(parts)),
        per_key=float(np.mean(counts)),
        top_1=counts[0] / len(requests),
        top_10=sum(counts[:10]) / len(requests),
    )


def _keys(requests: Sequence[Request]) -> tuple[list[int], list[float]]:
    """Each request's key node, and its part of the prompt."""
    ids: dict[tuple[int, tuple[int, int]], int] = {}
    paths: list[list[int]] = []
    for request in requests:
        path = [0]
        for segment in request.segments:
            path.append(ids.setdefault((path[-1], segment), len(ids) + 1))
        paths.append(path[1:])
    users = Counter(node for path in paths for node in path)
    found = [_key(path, request, users) for path, request in zip(paths, requests, strict=True)]
    return [key for key, _ in found], [part for _, part in found]


def _key(path: list[int], request: Request, users: Counter[int]) -> tuple[int, float]:
    before = tokens = users_here = node = key = key_tokens = 0
    for segment_node, (_, length) in zip(path, request.segments, strict=True):
        if users[segment_node] != users_here:
            before, tokens, users_here, node = before + tokens, 0, users[segment_node], segment_node
        tokens += length
        if tokens > before:
            key, key_tokens = node, tokens
    return key, key_tokens / request.prompt_tokens
