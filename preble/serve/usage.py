"""Token counts as the engine reports them, and what the scheduler did with the request."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from preble import PrebleCluster
from preble.types import Usage


def usage(cluster: PrebleCluster, request_id: str, samples: Iterable[Usage]) -> dict[str, Any]:
    """Return OpenAI's `usage` of all samples of a request, with our own object `preble` in it."""
    samples = list(samples)
    prompt = samples[0].prompt_tokens if samples else 0
    output = sum(each.output_tokens for each in samples)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": samples[0].cached_tokens if samples else 0},
        "preble": placed(cluster, request_id),
    }


def placed(cluster: PrebleCluster, request_id: str) -> dict[str, Any]:
    """Return why the first sample went where it went, in tokens and seconds; only its id if that is long ago."""
    try:
        receipt = cluster.explain(request_id)
    except KeyError:
        return {"request_id": request_id}
    return {
        "request_id": request_id,
        "worker": receipt.worker,
        "reason": receipt.reason,
        "predicted_cached_tokens": receipt.predicted_cached_tokens,
        "cached_tokens": receipt.cached_tokens,
        "queue_time": receipt.queue_time,
    }


def total(cluster: PrebleCluster, request_id: str, prompts: Iterable[Iterable[Usage]]) -> dict[str, Any]:
    """Return the usage of several prompts together; the object `preble` is about the first one."""
    each = [usage(cluster, request_id, samples) for samples in prompts]
    summed = {name: sum(one[name] for one in each) for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    cached = sum(one["prompt_tokens_details"]["cached_tokens"] for one in each)
    return {**each[0], **summed, "prompt_tokens_details": {"cached_tokens": cached}}
