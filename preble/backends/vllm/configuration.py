"""From the worker's options to vLLM's configuration, and from a running engine to what it can do."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preble.backends import EngineInfo
from preble.errors import ConfigurationError, ModelError
from preble.types import STRUCTURES
from preble.wait_queue.disciplines import Discipline

TOPIC = "kv"

_OURS = {
    "data_parallel_size": "start more workers instead",
    "kv_events_config": "the worker reads the events itself",
    "model": "it is given beside the engine's options",
}


def check_options(options: Mapping[str, Any]) -> None:
    """Raise ConfigurationError for options that only the adapter may set. vLLM checks the others when it starts."""
    for name, why in _OURS.items():
        if name in options:
            raise ConfigurationError(f"{name}: not an option of the vllm engine, {why}")


def configure(model: str, options: Mapping[str, Any], events: Path) -> Any:
    """Return the VllmConfig. `events` is the folder for the sockets of the KV events.

    Raises ConfigurationError with vLLM's own message, and ModelError if it finds no model.
    """
    from vllm.config import KVEventsConfig
    from vllm.engine.arg_utils import AsyncEngineArgs

    given: dict[str, Any] = {
        "enable_prefix_caching": True,
        "scheduling_policy": "priority",
        "disable_log_stats": True,
        "seed": secrets.randbits(31),  # vLLM's own 0 would let all workers draw alike
        "enable_logging_iteration_details": True,  # they go to our `LastStep`, and are not logged
        "kv_events_config": KVEventsConfig(
            enable_kv_cache_events=True,
            publisher="zmq",
            endpoint=f"ipc://{events}/events",
            replay_endpoint=f"ipc://{events}/replay",
            topic=TOPIC,
        ),
    }
    try:
        return AsyncEngineArgs(model=model, **given | dict(options)).create_engine_config()
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"vllm: {error}") from error
    except OSError as error:
        raise ModelError(f"{model}: {error}") from error


def describe(config: Any, discipline: Discipline) -> EngineInfo:
    """Return what an engine that was started with `config` can do, with a wait queue in front of it.

    vLLM has put the sizes that it found while it started into `config`.
    """
    blocks, size = config.cache_config.num_gpu_blocks, config.cache_config.block_size
    return EngineInfo(
        model=config.model_config.model,
        vocab_size=config.model_config.get_vocab_size(),
        context_limit=config.model_config.max_model_len,
        kv_tokens=(blocks - 1) * size,  # vLLM keeps one block as its null block
        block_size=size,
        max_running=config.scheduler_config.max_num_seqs,
        eos_token_ids=_eos_token_ids(config.model_config),
        cost="small-cpu" if config.device_config.device_type == "cpu" else "mistral-7b-a6000",
        max_batched_tokens=config.scheduler_config.max_num_batched_tokens,
        discipline=discipline,
        structures=STRUCTURES,
    )


def _eos_token_ids(model: Any) -> tuple[int, ...]:
    found: list[int] = []
    for given in (model.try_get_generation_config().get("eos_token_id"), model.hf_text_config.eos_token_id):
        found += given if isinstance(given, list) else [given] if given is not None else []
    return tuple(dict.fromkeys(found))
