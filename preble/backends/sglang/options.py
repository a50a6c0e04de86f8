"""The arguments of `sglang.Engine`: the user's options, those that the adapter needs, and those that a CPU needs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preble.errors import ConfigurationError

TOPIC = "kv"
"""The topic under which SGLang publishes KV events."""

_NEEDED = {
    "incremental_streaming_output": True,
    "enable_cache_report": True,
    "enable_priority_scheduling": True,
    "schedule_low_priority_values_first": True,
}
"""The values that the adapter relies on; other values are refused."""

_OURS = {
    "model_path": "pass it as the cluster's model",
    "server_args": "pass the options themselves",
    "kv_events_config": "the worker reads these events itself",
    "tokenizer_worker_num": "a worker has one",
    "dp_size": "start one worker per replica",
    "nnodes": "start one worker per replica",
}
"""Options that only the adapter may set, and what to do instead."""

_DEFAULTS = {
    "sleep_on_idle": True,
    "skip_server_warmup": True,
    "disable_priority_preemption": True,
    "log_level": "error",
    "load_snapshot_publish_interval": 1,  # decode steps from one publication to the next: the worker looks after each
}

_CPU_DEFAULTS = {
    "device": "cpu",
    "attention_backend": "torch_native",
    "sampling_backend": "pytorch",
    "grammar_backend": "none",
    "disable_cuda_graph": True,
    "disable_overlap_schedule": True,
    "page_size": 16,
    "chunked_prefill_size": 512,
    "max_running_requests": 64,
}
_CPU_KV_TOKENS = 32_768
"""By default SGLang would take most of the memory and touch all of it, which takes minutes."""


def check_options(options: Mapping[str, Any]) -> None:
    """Raise ConfigurationError for options that only the adapter may set. SGLang checks the others when it starts."""
    for name, reason in _OURS.items():
        if name in options:
            raise ConfigurationError(f"{name}: {reason}")
    for name, value in _NEEDED.items():
        if options.get(name, value) != value:
            raise ConfigurationError(f"{name}: must be {value}")


def arguments(model: str, options: Mapping[str, Any], *, cpu: bool, events: str, replay: str) -> dict[str, Any]:
    """Return the keyword arguments of `sglang.Engine`. `events` and `replay` are addresses for its KV events."""
    publisher = {"publisher": "zmq", "endpoint": events, "replay_endpoint": replay, "topic": TOPIC}
    defaults = _DEFAULTS | (_CPU_DEFAULTS if cpu else {})
    if cpu and "mem_fraction_static" not in options:
        defaults["max_total_tokens"] = _CPU_KV_TOKENS
    return {
        **defaults,
        **options,
        **_NEEDED,
        "model_path": model,
        "kv_events_config": json.dumps(publisher),
    }


def set_environment(model: str) -> None:
    """Set what SGLang and its libraries read once, when imported, unless the user did."""
    # Log-probabilities before temperature, top_k and top_p are applied, as the other engines return them.
    os.environ.setdefault("SGLANG_RETURN_ORIGINAL_LOGPROB", "1")
    if Path(model).is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
