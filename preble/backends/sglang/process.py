"""SGLang itself, which runs in this process with threads and child processes: how it is started and ended."""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from preble.backends import EngineInfo
from preble.backends.scratch import scratch_folder
from preble.backends.sglang.options import arguments, set_environment
from preble.backends.sglang.response import aborted
from preble.backends.sglang.sampling import Limits
from preble.errors import ConfigurationError, EngineError, ModelError
from preble.wait_queue.disciplines import Discipline

_RESERVED = 6
"""SGLang refuses prompts of so many tokens less than a sequence may have."""

_FLUSH_PATIENCE = 5.0


class Process:
    """One `sglang.Engine` and its temporary files. The constructor blocks for 10 seconds or more.

    Make it in the main thread, in the running event loop, in a process that has no other children, because `close`
    kills all of them. SGLang replaces the loop's handlers of SIGTERM and SIGQUIT. `events` and `replay` are the
    addresses of its KV events. Raises ConfigurationError and ModelError with SGLang's own message.
    """

    def __init__(self, model: str, options: Mapping[str, Any]) -> None:
        set_environment(model)
        sglang, platforms = _imported("sglang"), _imported("sglang.srt.platforms")
        self.cpu = options.get("device", platforms.current_platform.device_type) == "cpu"
        self._folder = scratch_folder()
        self.events, self.replay = (f"ipc://{self._folder}/{name}" for name in ("events", "replay"))
        keywords = arguments(model, options, cpu=self.cpu, events=self.events, replay=self.replay)
        try:
            self._engine = _launched(sglang, keywords, self._folder)
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self._manager = self._engine.tokenizer_manager
        self._request_type: Any = _imported("sglang.srt.managers.io_struct").GenerateReqInput
        # Starts the task that reads what SGLang's scheduler sends, which otherwise the first request would start.
        self._manager.auto_create_handle_loop()
        # Both ends have mapped the file after the first read, so its name can go; SGLang would not remove it.
        self._manager.load_snapshot_reader.read_all()
        with suppress(OSError):
            os.unlink(self._manager.load_snapshot_reader.path)

    @property
    def max_prefill_tokens(self) -> int:
        """The most prompt tokens that one step computes."""
        return self._chunked_prefill_size or int(self._manager.config_value("max_prefill_tokens"))

    @property
    def _chunked_prefill_size(self) -> int | None:
        """SGLang's `chunked_prefill_size`; None if it does not split prompts."""
        size = int(self._manager.config_value("chunked_prefill_size") or 0)
        return size if size > 0 else None

    async def limits(self, model: str, discipline: Discipline) -> Limits:
        """Return the limits of requests, and what the engine can do with a wait queue in front of it."""
        manager = self._manager
        (state,) = await manager.get_internal_state()
        kv_tokens = int(self._engine._scheduler_init_result.scheduler_infos[0]["max_total_num_tokens"])
        block_size = int(manager.config_value("page_size"))
        info = EngineInfo(
            model=model,
            vocab_size=manager.model_config.vocab_size,
            # SGLang never starts a request that needs the whole KV cache: two blocks must stay free.
            context_limit=min(manager.context_len - _RESERVED, kv_tokens - 2 * block_size),
            kv_tokens=kv_tokens,
            block_size=block_size,
            max_running=int(state["effective_max_running_requests_per_dp"]),
            eos_token_ids=_eos_token_ids(manager),
            cost="small-cpu" if self.cpu else "mistral-7b-a6000",
            max_batched_tokens=self._chunked_prefill_size,
            discipline=discipline,
        )
        return Limits(info, bool(manager.config_value("enable_deterministic_inference")), manager.tokenizer is not None)

    def generate(self, **request: Any) -> Any:
        """Return an asynchronous generator of outputs; the arguments are the fields of SGLang's request."""
        return self._manager.generate_request(self._request_type(stream=True, **request))

    def abort(self, rid: str) -> None:
        """End a request's outputs at once with an abort; SGLang's scheduler ends the request a little later."""
        self._manager.abort_request(rid)
        state = self._manager.rid_to_state.pop(rid, None)
        if state is not None:
            state.out_list.append(aborted(len(state.output_ids)))
            state.finished = True
            state.event.set()

    def published(self) -> Any:
        """Return the LoadSnapshot that SGLang's scheduler published last; None if there is none yet."""
        loads = self._manager.load_snapshot_reader.read_all()
        return loads[0] if loads else None

    async def flush(self) -> None:
        """Forget all cached prefixes. Raises EngineError if requests run."""
        result = await self._manager.flush_cache(timeout_s=_FLUSH_PATIENCE)
        if not result.success:
            raise EngineError(f"SGLang: {result.message}")

    def close(self) -> None:
        """End SGLang's processes, and every other child of this one, and remove its files."""
        for task in self._manager.asyncio_tasks:
            task.cancel()
        try:
            self._engine.shutdown()
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigurationError(f'SGLang cannot be imported: {error}; pip install "sglang==0.5.23"') from error


def _launched(sglang: Any, keywords: Mapping[str, Any], folder: Path) -> Any:
    usual, tempfile.tempdir = tempfile.tempdir, str(folder)  # where SGLang makes its sockets, and leaves them
    try:
        return sglang.Engine(**keywords)
    except OSError as error:
        raise ModelError(f"SGLang cannot load {keywords['model_path']}: {error}") from error
    except (TypeError, ValueError, AssertionError, NotImplementedError, KeyError) as error:
        raise ConfigurationError(f"SGLang: {type(error).__name__}: {error}") from error
    finally:
        tempfile.tempdir = usual


def _eos_token_ids(manager: Any) -> tuple[int, ...]:
    found = set(manager.model_config.hf_eos_token_id or ())
    if manager.tokenizer is not None:
        found |= {manager.tokenizer.eos_token_id, *(manager.tokenizer.additional_stop_token_ids or ())}
    return tuple(sorted(found - {None}))
