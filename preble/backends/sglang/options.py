"""How `sglang.Engine` is constructed: what the user asked for, what we need, what a CPU needs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preble.errors import ConfigurationError

TOPIC = "kv"
"""What SGLang's KV events are published as."""

_NEEDED = {
    "incremental_streaming_output": True,
    "enable_cache_report": True,
    "enable_priority_scheduling": True,
    "schedule_low_priority_values_first": True,
}
"""What the adapter relies on: nobody may set it otherwise."""

_OURS = {
    "model_path": "pass it as the cluster's model",
    "server_args": "pass the options themselves",
    "kv_events_config": "the worker reads these events itself",
    "tokenizer_worker_num": "a worker has one",
    "dp_size": "start one worker per replica",
    "nnodes": "start one worker per replica",
}
"""What only the adapter may set, and why."""

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
"""SGLang would take most of the memory, and touch all of it, which takes minutes."""


def check_options(options: Mapping[str, Any]) -> None:
    """Raise ConfigurationError for options that are ours to set. SGLang checks the others when it starts."""
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
    # Log-probabilities of the model itself, as the other engines give them, before temperature and cuts.
    os.environ.setdefault("SGLANG_RETURN_ORIGINAL_LOGPROB", "1")
    if Path(model).is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
