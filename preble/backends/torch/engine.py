"""`TorchEngine`: a real model in the worker's own process, with the same batching as the simulated engine."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
import traceback
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Literal, get_args

import torch

from preble.backends import Delta, EngineInfo, EngineRequest, Evicted, Load, StepTiming
from preble.backends.batching import Batcher, SampledToken, TokenSpan
from preble.backends.stepping import StepLoop
from preble.backends.torch.attention import PagedAttention, block_bytes
from preble.backends.torch.batch import Batch, arrange
from preble.backends.torch.config import ModelConfig, read_config
from preble.backends.torch.dummy import dummy_weights
from preble.backends.torch.forms import Form, Forms
from preble.backends.torch.linear import packs
from preble.backends.torch.model import Model
from preble.backends.torch.sampling import Draw, Scored, draw_for, sample, score, scored_by
from preble.backends.torch.weights import Weights, load_weights
from preble.errors import ConfigurationError, EngineError, InvalidRequestError, ModelError, NotStartedError
from preble.types import STRUCTURES, TokenLogprob
from preble.wait_queue.disciplines import DEFAULT, Discipline
from preble.wait_queue.local import LocalScheduler

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
LoadFormat = Literal["auto", "dummy"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_CONTEXTS = 16
_CPU_BYTES = 2 << 30
_CPU_SHARE = 0.25
_CUDA_SHARE = 0.85


class TorchEngine:
    """Serves a Llama-family model.

    `model` is a folder with config.json and *.safetensors, or a GGUF file. `dtype="auto"` takes the model's own dtype
    if the device computes quickly in it, and float32 otherwise; that of quantized weights is float32. `device` is
    "auto", "cpu" or "cuda". With `load_format="dummy"` random weights are drawn on the device, and the folder needs
    only config.json. `kv_tokens` is the size of the KV cache in tokens; by default it is 16 contexts, or less if that
    would take too much memory. A step computes at most `max_running` requests and `max_batched_tokens` tokens.
    `threads` is the number of threads for arithmetic on a CPU; with 0, nothing is changed for this process.
    `discipline` is the order of the wait queue. Requests that bring no seed draw by `seed` and their id; without it the
    system gives one. The model is computed in a thread of its own, so that the event loop stays free.
    """

    def __init__(
        self,
        *,
        model: str | None = None,
        discipline: Discipline = DEFAULT,
        dtype: Dtype = "auto",
        device: str = "auto",
        load_format: LoadFormat = "auto",
        context_limit: int | None = None,
        kv_tokens: int | None = None,
        block_size: int = 16,
        max_running: int = 64,
        max_batched_tokens: int = 512,
        threads: int = 0,
        seed: int | None = None,
    ) -> None:
        if not model:
            raise ConfigurationError("model: the torch engine needs the path of a model folder")
        for name, chosen, kinds in (("dtype", dtype, Dtype), ("load_format", load_format, LoadFormat)):
            if chosen not in get_args(kinds):
                raise ConfigurationError(f"{name}: must be one of {', '.join(get_args(kinds))}, not {chosen!r}")
        for name, value, least in (("threads", threads, 0), ("block_size", block_size, 1)):
            if value < least:
                raise ConfigurationError(f"{name}: must be at least {least}, not {value}")
        self._path = Path(model)
        self._local = LocalScheduler(discipline, block_size=block_size)
        self._dtype = dtype
        self._device = _device(device)
        self._load_format = load_format
        self._context_limit = context_limit
        self._kv_tokens = kv_tokens
        self._block_size = block_size
        self._max_running = max_running
        self._max_batched_tokens = max_batched_tokens
        self._threads = threads
        self._seed = secrets.randbits(63) if seed is None else seed
        self._eos_token_ids: tuple[int, ...] = ()
        self._model: Model | None = None
        self._steps: StepLoop | None = None
        self._forms: Forms | None = None
        self._formed: dict[int, Form | None] = {}
        self._executor = ThreadPoolExecutor(
            1, thread_name_prefix="preble-torch", initializer=_set_threads, initargs=(threads,)
        )

    async def start(self) -> EngineInfo:
        """Load the model. Raises ModelError naming the file, and ConfigurationError naming the option."""
        loop = asyncio.get_running_loop()
        config = await loop.run_in_executor(self._executor, self._read)
        batcher = await loop.run_in_executor(self._executor, self._load, config)
        self._steps = StepLoop(batcher, self._execute, time.monotonic)
        self._steps.start()
        self._forms = Forms(self._path, config.eos_token_ids, config.vocab_size)
        return EngineInfo(
            model=str(self._path),
            vocab_size=config.vocab_size,
            context_limit=batcher.limit,
            kv_tokens=batcher.cache.total * self._block_size,
            block_size=self._block_size,
            max_running=self._max_running,
            eos_token_ids=config.eos_token_ids,
            max_batched_tokens=self._max_batched_tokens,
            discipline=self._local.discipline,
            cost="small-cpu" if self._device.type == "cpu" else "mistral-7b-a6000",
            structures=STRUCTURES,
        )

    def generate(self, request: EngineRequest) -> AsyncIterator[Delta]:
        """Yield deltas until one has a `finish_reason`. Closing the iterator aborts the request.

        Raises InvalidRequestError for an adapter, since it applies none, and for a schema or grammar that is malformed.
        """
        if request.lora:
            raise InvalidRequestError(f"the torch engine applies no adapters, asked for {request.lora!r}", field="lora")
        steps = self._started()
        return steps.generate(request) if request.sampling.structure is None else self._generate_formed(request)

    async def _generate_formed(self, request: EngineRequest) -> AsyncIterator[Delta]:
        """Compile the form of the output, queue the request, and fail it if the form cannot be followed."""
        assert self._forms is not None
        self._formed[request.id] = None
        try:
            form = await self._forms.form(request.sampling)
            if request.id not in self._formed:
                yield Delta(b"", finish_reason="abort")
                return
            self._formed[request.id] = form
            async with aclosing(self._started().generate(request)) as deltas:  # type: ignore[type-var]
                async for delta in deltas:
                    if form.error:
                        raise EngineError(f"{request.sampling.structure}: {form.error}")
                    yield delta
        finally:
            self._formed.pop(request.id, None)

    def abort(self, id: int) -> None:
        """End a request after the step it is in. Unknown ids are ignored."""
        if id in self._formed and self._formed[id] is None:
            del self._formed[id]
        self._started().abort(id)

    def cache_events(self) -> list[Evicted]:
        """Return and forget the evictions since the last call, in order."""
        return self._started().cache_events()

    def timings(self) -> list[StepTiming]:
        """Return and forget the steps since the last call, as far as they are kept."""
        return self._started().timings()

    def load(self) -> Load:
        """Return the present load."""
        return self._started().load()

    async def reset_cache(self) -> None:
        """Forget all cached prefixes that no running request uses."""
        await self._started().reset_cache()

    async def close(self) -> None:
        """Abort everything, wait for the step in progress, and free the model. May be called twice."""
        if self._steps is not None:
            await self._steps.close()
        await asyncio.to_thread(self._executor.shutdown)
        self._model = None

    def check(self) -> None:
        """Raise AssertionError if sequences, queue and blocks disagree."""
        self._started().batcher.check()

    def _started(self) -> StepLoop:
        if self._steps is None:
            raise NotStartedError("the engine has not been started")
        return self._steps

    def _read(self) -> ModelConfig:
        if not self._path.exists():
            hint = "; names of the Hugging Face hub are not taken, only folders and GGUF files"
            named = not self._path.is_absolute() and len(self._path.parts) == 2
            raise ModelError(f"{self._path}: no such folder or file{hint if named else ''}")
        return read_config(self._path, self._context_limit)

    def _load(self, config: ModelConfig) -> Batcher:
        dtype = _dtype(self._dtype, config.dtype, self._device)
        weights = self._weights(config, dtype)
        batcher = self._batcher(config, self._kv_tokens or _kv_tokens(config, self._block_size, dtype, self._device))
        attention = PagedAttention(
            config, blocks=batcher.cache.total, block_size=self._block_size, dtype=dtype, device=self._device
        )
        self._eos_token_ids = config.eos_token_ids
        self._model = Model(config, weights, attention)
        return batcher

    def _weights(self, config: ModelConfig, dtype: torch.dtype) -> Weights:
        if self._load_format == "dummy":
            return dummy_weights(config, dtype, self._device)
        return load_weights(self._path, config, dtype, self._device)

    def _batcher(self, config: ModelConfig, kv_tokens: int) -> Batcher:
        return Batcher(
            kv_tokens=kv_tokens,
            block_size=self._block_size,
            max_running=self._max_running,
            max_batched_tokens=self._max_batched_tokens,
            context_limit=config.context_limit,
            local=self._local,
            eos_token_ids=config.eos_token_ids,
            vocab_size=config.vocab_size,
        )

    async def _execute(self, spans: list[TokenSpan]) -> list[SampledToken]:
        # All that is needed of the sequences is read here, because the loop may abort one while the thread computes.
        batch = arrange(spans, self._block_size)
        draws = [
            draw_for(
                span.sequence,
                seed=self._seed,
                eos_token_ids=self._eos_token_ids,
                form=self._formed.get(span.sequence.id) if self._formed else None,
            )
            for span in spans
            if span.samples
        ]
        scored = [scored_by(span) for span in spans if span.scored]
        loop = asyncio.get_running_loop()
        sampled, entries = await loop.run_in_executor(self._executor, self._compute, batch, draws, scored)
        for part, found in zip(scored, entries, strict=True):
            part.into.extend(found)
        return sampled

    def _compute(
        self, batch: Batch, draws: list[Draw], scored: list[Scored]
    ) -> tuple[list[SampledToken], list[list[TokenLogprob]]]:
        try:
            return self._forward(batch, draws, scored)
        except Exception as error:
            _let_go(error)
            raise

    def _forward(
        self, batch: Batch, draws: list[Draw], scored: list[Scored]
    ) -> tuple[list[SampledToken], list[list[TokenLogprob]]]:
        if self._model is None:
            raise NotStartedError("the engine has no model")
        logits = self._model.forward(batch)
        return sample(logits[: len(draws)], draws), score(logits[len(draws) :], scored)


def _set_threads(threads: int) -> None:
    if threads:
        torch.set_num_threads(threads)


def _let_go(error: Exception) -> None:
    """Free the tensors of a step that failed, which its error holds, and what torch keeps of memory that ran out."""
    traceback.clear_frames(error.__traceback__)
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise ConfigurationError(f"device: must be auto, cpu or cuda, not {name!r}")
    if name != "cpu" and not torch.cuda.is_available():
        raise ConfigurationError("device: this machine has no CUDA device")
    return torch.device(name)


def _dtype(name: Dtype, own: str, device: torch.device) -> torch.dtype:
    if name != "auto":
        return _DTYPES[name]
    dtype = _DTYPES.get(own, torch.float32)
    quick = device.type == "cuda" or (dtype == torch.bfloat16 and packs(dtype))
    return dtype if quick else torch.float32


def _kv_tokens(config: ModelConfig, block_size: int, dtype: torch.dtype, device: torch.device) -> int:
    token = block_bytes(config, block_size, dtype) * config.layers // block_size
    return min(_CONTEXTS * config.context_limit, int(_kv_bytes(device)) // token)


def _kv_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] * _CUDA_SHARE
    return min(_CPU_BYTES, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * _CPU_SHARE)
