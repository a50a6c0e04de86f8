"""The sizes of an engine as each backend names them, so that benchmarks can ask any of them for the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Sizes = Mapping[str, int]

TIMED = ("sim", "torch")
"""Backends that report what each of their steps takes, so that a cost model can be fitted to them."""

SIMULATED: dict[str, dict[str, Any]] = {"sim": {"cost": "small-cpu", "time_scale": 1.0}}
"""Backends that compute nothing, and the options with which they take the time of a small model on a CPU."""

_VLLM_BLOCK = 32
"""On a CPU, vLLM's blocks are multiples of this."""


def engine_options(backend: str, **sizes: int) -> dict[str, Any]:
    """Return the options for an engine of these sizes, in tokens and requests, that computes in float32.

    `sizes` are those of the `torch` engine: kv_tokens, context_limit, block_size, max_running, max_batched_tokens. What
    is not given is left to the engine. Backends that are not in TRANSLATED get them as they are.
    """
    translate = TRANSLATED.get(backend, dict[str, Any])
    return translate(sizes)


def _vllm(sizes: Sizes) -> dict[str, Any]:
    """In the worker's process: on few cores vLLM's own ones would take them from the other workers."""
    options: dict[str, Any] = {"mode": "inline", "dtype": "float32", "enforce_eager": True}
    block = options["block_size"] = -(-sizes.get("block_size", _VLLM_BLOCK) // _VLLM_BLOCK) * _VLLM_BLOCK
    if "kv_tokens" in sizes:
        blocks = sizes["kv_tokens"] // block
        options["num_gpu_blocks_override"] = blocks + 1  # one stands for "no block"
        options["max_model_len"] = blocks * block  # a context that the cache has no room for is refused
    if "context_limit" in sizes:
        options["max_model_len"] = min(sizes["context_limit"], options.get("max_model_len", sizes["context_limit"]))
    return options | _renamed(sizes, max_running="max_num_seqs", max_batched_tokens="max_num_batched_tokens")


def _sglang(sizes: Sizes) -> dict[str, Any]:
    """SGLang keeps six tokens of the context for itself: more than the model's own would be refused."""
    return {"dtype": "float32"} | _renamed(
        sizes,
        context_limit="context_length",
        kv_tokens="max_total_tokens",
        block_size="page_size",
        max_running="max_running_requests",
        max_batched_tokens="chunked_prefill_size",
    )


TRANSLATED: dict[str, Callable[[Sizes], dict[str, Any]]] = {"vllm": _vllm, "sglang": _sglang}
"""Backends that have names of their own for sizes, and what puts sizes into these."""


def _renamed(sizes: Sizes, **names: str) -> dict[str, Any]:
    return {theirs: sizes[ours] for ours, theirs in names.items() if ours in sizes}
