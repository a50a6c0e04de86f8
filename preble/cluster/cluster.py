"""Several engine replicas as one object in the caller's event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from types import ModuleType, TracebackType
from typing import Any, Literal, Unpack, overload

import msgspec

from preble.backends import Engine, EngineInfo, find_backend
from preble.backends.openai.engine import OpenAIEngine
from preble.backends.openai.forward import Forward
from preble.cluster.arguments import (
    ConnectKeywords,
    check_callback,
    check_known,
    check_model,
    check_numbers,
    check_seconds,
    check_seed,
    check_tokenizer,
    check_unbound,
    class_name,
    engine_maker,
    folder,
)
from preble.cluster.driver import Driver, OnEvent
from preble.cluster.faces import face
from preble.cluster.forgotten import caller, end_when_forgotten
from preble.cluster.gate import Gate
from preble.cluster.intake import Intake, Watch
from preble.cluster.log_file import LogFile
from preble.cluster.many import Batch, Many, ManyKeywords, Progress, check_many, jobs
from preble.cluster.members import Members
from preble.cluster.output import chunks
from preble.cluster.prompt import Prompt, PromptReader
from preble.cluster.state import State
from preble.core.cost import CostModel
from preble.core.fleet import served_namespaces
from preble.core.policy import Policy
from preble.core.receipt import Receipt
from preble.core.scheduler import Scheduler
from preble.dispatch.dispatcher import Dispatcher
from preble.errors import (
    ClosedError,
    PrebleError,
    StateError,
    WorkerLostError,
    WorkerStartError,
    names_checked,
)
from preble.text import ChatTokenizer
from preble.types import (
    Chunk,
    ClusterStats,
    Generation,
    PromptIds,
    RequestKeywords,
    RequestOptions,
    SamplingParams,
    request_options,
)
from preble.workers.binding import Bindings, Device
from preble.workers.engine_options import EngineOptions, one_mapping
from preble.workers.launched import LaunchedPool
from preble.workers.launchers.in_loop import InLoopLauncher
from preble.workers.launchers.local import LocalLauncher
from preble.workers.pool import Pool
from preble.workers.replicas import ReplicaPool


class PrebleCluster:
    """Several workers that serve one model, as one object in your event loop.

    >>> async with PrebleCluster("path/to/model", workers=2) as cluster:
    ...     out = await cluster.generate("def hello():", SamplingParams(max_tokens=16))

    It starts the workers, sends each request to the one that `policy` chooses, and streams the tokens back. It belongs
    to the event loop that started it. Cancelling the task of a request, or closing its stream, cancels the request on
    its worker.
    """

    @names_checked
    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        backend: str | Callable[..., Engine] = "torch",
        workers: int = 2,
        policy: str | Policy = "e2",
        engine_options: EngineOptions | None = None,
        cost: CostModel | str | None = None,
        threads: int | None = None,
        cpus: Sequence[Sequence[int]] | None = None,
        devices: Sequence[Sequence[Device]] | None = None,
        share_devices: bool = False,
        seed: int | None = None,
        max_in_flight: int = 10_000,
        worker_wait: float = 30.0,
        idle_timeout: float = 60.0,
        on_event: OnEvent | None = None,
        start_timeout: float = 120.0,
        close_grace: float = 0.0,
        decision_log: str | os.PathLike[str] | None = None,
        processes: bool = True,
        pool: Pool | None = None,
    ) -> None:
        """Describe a cluster. Nothing is started yet.

        * `model`: a folder in Hugging Face format; `sim` needs none.
        * `backend`: a name of `preble.backends.BACKENDS`, or "module:Class". `engine_options` go to each engine; a list
          has a mapping for each worker.
        * `workers`: how many to start. `threads` bounds the threads that each computes with: by default one in each
          process, and with `processes=False` as many as your own program has. 0 leaves it to the libraries.
        * `cpus`, `devices`: one entry for each worker, the cores that it runs on and the GPUs that it sees, by number
          among those that you see. Several GPUs compute one replica together. A GPU belongs to one worker unless
          `share_devices`.
        * `policy`: a name of `preble.POLICIES`, or an object with `place`.
        * `seed`: breaks ties of the policy, and lets a new cluster draw the same again for requests that bring no seed:
          `sim` and `torch` in any case, vLLM and SGLang if the same requests meet on each worker. None is 0 for the
          policy and for `sim`, and another number every time for the other engines.
        * `cost`: the prices to start from, a preset's name or a CostModel; by default what the engine names.
        * `max_in_flight`: samples that are accepted at once; beyond that, requests raise OverloadedError.
        * `worker_wait`: seconds that a request waits for a worker if none can take it, because all are lost, full or
          failing; then it ends with the error that it met, or with NoWorkersError.
        * `idle_timeout`: a request is tried on another worker if its own says nothing of it for so many seconds,
          or for ten times the predicted time to its first token if that is more.
        * `on_event`: called in the event loop with a `preble.types.WorkerEvent` when a worker is lost or back, and when
          its circuit breaker opens or closes.
        * `start_timeout`, `close_grace`: seconds in which workers must be ready, and in which they must end on close.
        * `decision_log`: a file for all that the scheduler is told and decides, which `preble replay` reads. It holds
          prompts and outputs. A file that exists is overwritten.
        * `processes`: False runs the engines in this event loop, for tests, notebooks and virtual time. `backend` may
          be the class itself then. An engine that computes on the loop keeps your other tasks waiting.
        * `pool`: a `preble.workers.pool.Pool` that reaches engines in its own way. Arguments that describe workers are
          not used then.

        Raises ConfigurationError, which names the argument.
        """
        self.backend = backend if isinstance(backend, str) else class_name(backend, processes)
        if pool is None:
            check_model(model, self.backend)
        threads = int(processes) if threads is None else threads
        check_seconds(worker_wait=(worker_wait, True), idle_timeout=(idle_timeout, False))
        check_callback("on_event", on_event)
        check_numbers(workers=(workers, 1), threads=(threads, 0), max_in_flight=(max_in_flight, 1))
        check_seed(seed)
        self.model = folder(model)
        self._log = None if decision_log is None else LogFile(decision_log)
        self.scheduler = Scheduler(policy, seed=seed or 0, log=None if self._log is None else self._log.write)
        self._start_timeout = start_timeout
        self._close_grace = close_grace
        self._made = caller()
        self._state = State()
        self._prompt_ids: PromptIds | None = None
        self._gate = Gate()
        self._prompts = PromptReader()
        dispatcher = Dispatcher(
            self.scheduler, max_in_flight=max_in_flight, worker_wait=worker_wait, idle_timeout=idle_timeout
        )
        self._driver = Driver(dispatcher, self.scheduler, on_event)
        self._members = Members(self.scheduler, self._driver, cost, self._prompts.bound)
        self._end = partial(_end, self._driver, self._gate, self._log)
        self._call_off: Callable[[], object]
        self._intake = Intake(self._prompts, self._gate, self._driver, self._members, self.backend)
        if find_backend(self.backend).remote or not processes:
            check_unbound(cpus, devices)
        self._pool: Pool = (
            pool
            if pool is not None
            else LaunchedPool(
                LocalLauncher() if processes else InLoopLauncher(engine_maker(backend)),
                backend=self.backend,
                model=self.model,
                options=engine_options,
                seed=seed,
                bindings=Bindings(workers, devices=devices, cpus=cpus, threads=threads, share_devices=share_devices),
            )
        )

    @classmethod
    def connect(
        cls,
        urls: Sequence[str],
        *,
        model: str | os.PathLike[str] | None = None,
        api_key: str | None = None,
        kv_events: Sequence[str | None] | None = None,
        min_replicas: int = 1,
        engine_options: Mapping[str, Any] | None = None,
        **options: Unpack[ConnectKeywords],
    ) -> PrebleCluster:
        """Describe a cluster of servers that run already: vLLM, SGLang, or any server of the OpenAI API.

        * `urls`: their base URLs, which are the names of these workers.
        * `model`: a folder with the tokenizer; without it, prompts are token ids.
        * `api_key`: sent to all of them.
        * `kv_events`: for each URL the ZeroMQ address where the server publishes KV events, or None; without one, its
          evictions are estimated.
        * `min_replicas`: so many must answer within `start_timeout`. The cluster starts with those that do. The others
          are named in the log; they are tried again and again, and join when they answer.
        * `engine_options`: fields of `preble.backends.openai.options.ReplicaOptions`.
        * `options`: the arguments of `PrebleCluster` that do not describe workers, such as `policy` and `worker_wait`.

        Requests of a server that is lost continue on another one, and the server is used again once it answers. Raises
        ConfigurationError, which names the argument, also one that does not exist, and ModelError for a `model` without
        a tokenizer. The start raises ConfigurationError if a server refuses the key or does not have the model.
        """
        check_known(options)
        path = folder(model)
        check_tokenizer(path)
        shared = one_mapping(engine_options or {})

        def connection(**own: Any) -> OpenAIEngine:  # no partial: its repr would show the key
            return OpenAIEngine(model=path, api_key=api_key, **{**shared, **own})

        pool = ReplicaPool(urls, make_engine=connection, kv_events=kv_events, min_replicas=min_replicas)
        return cls(model, backend="openai", pool=pool, **options)

    async def __aenter__(self) -> PrebleCluster:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Start the workers and wait until all are ready. If this fails, nothing is left running.

        Raises ModelError, ConfigurationError, WorkerStartError, ClosedError if the cluster is closed meanwhile, or
        OSError for the decision log.
        """
        if self._state.loop is not None or self._state.closed:
            raise ClosedError("a cluster starts once")
        loop = self._state.loop = asyncio.get_running_loop()
        self._driver.start(loop, self._pool.send, getattr(self._pool, "forward", None))
        self._call_off = end_when_forgotten(
            self, self._pool, loop, partial(self._end, "the cluster was forgotten"), self._made
        )
        try:
            if self._log is not None:
                self._log.open()
            if self.model is not None:
                await asyncio.to_thread(self._prompts.load, self.model)
            self._state.require_unclosed()
            infos = await self._pool.start(
                self._members.listener(self._pool), self._start_timeout, self._prompts.tokenizer
            )
            self._state.require_unclosed()
            self._members.add(infos)
            for worker, reason in self._pool.missing().items():
                self._driver.expect(worker, reason)
        except BaseException as error:
            closed, self._state.closed = self._state.closed, True
            self._call_off()
            self._end("the cluster did not start")
            await self._pool.stop(0.0)
            if closed and isinstance(error, PrebleError):
                raise ClosedError("the cluster was closed") from None
            raise
        self._state.ready = True

    async def close(self) -> None:
        """End open requests with ClosedError, stop the workers, and leave nothing behind. Closing twice is harmless.

        The workers get `close_grace` seconds to end. If this call is cancelled, they are killed at once, and so they
        are if the event loop of the cluster has ended before.
        """
        closed, loop = self._state.closed, self._state.loop
        if closed or loop is None:
            self._state.closed = True
        elif loop.is_closed():
            self._state.closed = True
            self._call_off()
            self._pool.kill()
        else:
            self._state.require_loop()
            self._state.closed = True
            self._call_off()
            self._end("the cluster was closed")
            await self._pool.stop(self._close_grace)

    async def generate(
        self,
        prompt: Prompt,
        sampling: SamplingParams | None = None,
        **options: Unpack[RequestKeywords],
    ) -> Generation:
        """Serve a prompt and return the finished generation. A prompt is text, token ids, or chat messages.

        All `options` are optional:

        * `request_id`: your name for the request, printable text of at most 256 characters; else the cluster makes one.
        * `session`: the name of a conversation, for the policies that read it.
        * `priority`: a lower one goes first in a worker's queue.
        * `namespace`, `tenant`: requests that differ in one of them never share cached prefixes.
        * `lora`: an adapter that the engine has, to compute with. It is the namespace too if none is given.
        * `timeout`: in seconds; `deadline`: a time of the event loop's clock.
        * `tools`: for chat messages, as JSON schemas.
        * `chat_template_kwargs`: for chat messages, variables of the model's template such as `enable_thinking`, and
          `documents`, `add_generation_prompt` and `continue_final_message` of `preble.text.ChatTemplate.render`.
        * `add_special_tokens`: False if the text has the model's begin token already, as after a chat template of your
          own. By default text gets it, and chat messages what their template writes.

        Raises InvalidRequestError, also for an option that does not exist and for a `request_id` in flight;
        DeadlineExceededError, OverloadedError, NoWorkersError, WorkerError, StateError.
        """
        self._state.require_started()
        self._gate.check()
        return await self._generate(prompt, sampling, request_options(options))

    def stream(
        self,
        prompt: Prompt,
        sampling: SamplingParams | None = None,
        **options: Unpack[RequestKeywords],
    ) -> AsyncGenerator[Chunk, None]:
        """Serve a prompt and yield chunks as they are generated. Arguments and errors are those of `generate`.

        The chunks of `n` samples come interleaved; `index` says whose a chunk is. Closing the stream cancels the
        request. The prompt is checked when the first chunk is asked for.
        """
        self._state.require_started()
        self._gate.check()
        return self._stream(prompt, sampling, request_options(options))

    async def forward(
        self,
        exchange: Forward,
        tokens: bytes,
        sampling: SamplingParams,
        *,
        prompt_ids: PromptIds | None = None,
        **options: Unpack[RequestKeywords],
    ) -> AsyncGenerator[bytes, None]:
        """Send a request as it came to the server that the scheduler chooses, and yield the bytes of its response.

        The scheduler knows it by `tokens`, packed ids or `preble.serve.routing.text_ids`; `prompt_ids` says for `stats`
        what they are. Closing the iterator ends the request.
        Until the first byte another server is tried where one fails. Raises StateError for a cluster of workers, and
        what `stream` does.
        """
        self._state.require_started()
        if not self.forwards:
            raise StateError("only servers that run already take a request as it came")
        self._prompt_ids = prompt_ids or self._prompt_ids
        reader = self._intake.forward(exchange, tokens, sampling, request_options(options))
        serving = asyncio.ensure_future(_until_ended(chunks(reader, None, self._driver.stop)))
        serving.add_done_callback(exchange.settle)
        try:
            while (part := await exchange.part()) is not None:
                yield part
        finally:
            serving.cancel()
            self._driver.release(reader.request)

    async def tokenized(self, body: bytes) -> bytes:
        """Return packed token ids as the `/tokenize` of a server has them for this body, nothing if none has."""
        self._state.require_started()
        return await self._pool.tokenized(body) if isinstance(self._pool, ReplicaPool) else b""

    @property
    def forwards(self) -> bool:
        """Whether it is a cluster of servers that run already, to which requests can go as they came."""
        return isinstance(self._pool, ReplicaPool)

    @overload
    def generate_many(
        self,
        prompts: Many[Prompt],
        sampling: SamplingParams | Many[SamplingParams] | None = None,
        *,
        as_completed: Literal[False] = False,
        return_exceptions: Literal[False] = False,
        **keywords: Unpack[ManyKeywords],
    ) -> Coroutine[Any, Any, list[Generation]]: ...
    @overload
    def generate_many(
        self,
        prompts: Many[Prompt],
        sampling: SamplingParams | Many[SamplingParams] | None = None,
        *,
        as_completed: Literal[False] = False,
        return_exceptions: bool,
        **keywords: Unpack[ManyKeywords],
    ) -> Coroutine[Any, Any, list[Generation | PrebleError]]: ...
    @overload
    def generate_many(
        self,
        prompts: Many[Prompt],
        sampling: SamplingParams | Many[SamplingParams] | None = None,
        *,
        as_completed: Literal[True],
        return_exceptions: Literal[False] = False,
        **keywords: Unpack[ManyKeywords],
    ) -> AsyncGenerator[tuple[int, Generation], None]: ...
    @overload
    def generate_many(
        self,
        prompts: Many[Prompt],
        sampling: SamplingParams | Many[SamplingParams] | None = None,
        *,
        as_completed: Literal[True],
        return_exceptions: bool,
        **keywords: Unpack[ManyKeywords],
    ) -> AsyncGenerator[tuple[int, Generation | PrebleError], None]: ...
    def generate_many(
        self,
        prompts: Many[Prompt],
        sampling: SamplingParams | Many[SamplingParams] | None = None,
        *,
        as_completed: bool = False,
        return_exceptions: bool = False,
        concurrency: int = 64,
        progress: Progress | None = None,
        options: Many[RequestKeywords] | None = None,
        **common: Unpack[RequestKeywords],
    ) -> Any:
        """Serve all prompts, at most `concurrency` at a time, and return the results in the order of the prompts.

        * `prompts`: may be an iterable or an asynchronous one, which is read as far as it is needed.
        * `sampling`: for all of them, or an iterable with one for each.
        * `options`: an iterable with a dict for each prompt: its own options of `generate`, which go before the
          `common` ones, that are for all. `timeout` counts from when a prompt has its turn.
        * `return_exceptions`: True puts a PrebleError in the place of a result. By default the first error cancels the
          rest and is raised. It names the prompt, and has its `index` and the finished `results` by index. The error of
          a closed cluster is raised in any case.
        * `as_completed`: True returns an asynchronous iterator instead, which yields `(index, result)` as they end.
          Closing it cancels the rest.
        * `progress`: called after each prompt with the number that is done, or its `update(1)` is, as tqdm has it.

        Where the cluster drains, or has `max_in_flight` samples already, prompts wait. Raises what `generate` does, and
        InvalidRequestError if there are not as many `sampling` or `options` as prompts.
        """
        self._state.require_started()
        check_many(prompts, common, concurrency)
        batch = Batch(
            partial(self._generate, patient=True),
            jobs(prompts, sampling, options),
            common=common,
            concurrency=concurrency,
            progress=progress,
            return_exceptions=return_exceptions,
        )
        return batch.as_completed() if as_completed else batch.listed()

    @property
    def tokenizer(self) -> ChatTokenizer | None:
        """The model's tokenizer and chat template, None if the model has none. The cluster must be started."""
        self._state.require_ready()
        return self._prompts.public

    def stats(self) -> ClusterStats:
        """Return the counters since the start, and the state of every worker now. Any thread may call it.

        Another thread than the event loop's waits until that has a moment: what it gets is the state of one moment.
        """
        self._state.require_ready()
        stats = self._state.call(self._driver.stats)
        return msgspec.structs.replace(stats, prompt_ids=self._prompt_ids)

    def engines(self) -> dict[str, EngineInfo]:
        """Return what each worker's engine can do, by worker name. Any thread may call it."""
        return self._state.call(self._members.infos)

    def explain(self, id: str) -> Receipt:
        """Return the receipt of a recent request, which says why it went where it went.

        `id` is its `Generation.id`, or the `Chunk.request_id` of a stream. Of several samples it is about the first.
        Any thread may call it. Raises KeyError if the request is unknown or too long ago.
        """
        return self._state.call(partial(self.scheduler.explain, f"{id}.0"))

    def check(self) -> None:
        """Raise AssertionError if the books of samples, of worker request ids and of the scheduler disagree.

        Changes nothing. It walks all that is in flight or believed cached, so it is slow: for tests and debugging. Any
        thread may call it.
        """
        self._state.call(self._driver.check)

    def asgi(self, **options: Any) -> Callable[..., Awaitable[None]]:
        """Return an ASGI application that serves this cluster to OpenAI's and Anthropic's clients.

        `options` are those of `preble.serve.create_app`. It may be made before the start. Raises ConfigurationError if
        the packages of the extra `serve` are missing.
        """
        app: Callable[..., Awaitable[None]] = face("serve", extra="serve").create_app(self, **options)
        return app

    @asynccontextmanager
    async def serve_http(
        self, *, host: str = "127.0.0.1", port: int = 0, grace: float = 10.0, **options: Any
    ) -> AsyncGenerator[str, None]:
        """Serve this cluster over HTTP while inside, and yield the URL for clients, which ends with `/v1`.

        Port 0 is any free one. Afterwards requests have `grace` seconds to finish. `options` are those of
        `preble.serve.create_app`, such as `api_key`. Raises OSError if the address is taken, ConfigurationError if the
        packages of the extra `serve` are missing.
        """
        app = self.asgi(**options)
        async with face("serve.listen", extra="serve").listening(app, host=host, port=port, grace=grace) as url:
            yield url

    def openai(self, **options: Any) -> Any:
        """Return an `openai.AsyncOpenAI` that calls this cluster in this process, without a socket.

        `options` are its own. Use it with `async with`. Raises ConfigurationError if openai is not installed.
        """
        return face("client", extra="serve").openai_client(self.asgi(), **options)

    def openai_sync(self, **options: Any) -> Any:
        """Return an `openai.OpenAI` for other threads than this one, whose event loop serves what they ask.

        A call in the thread of the event loop raises WrongLoopError, since it would wait for itself. The cluster must
        be started. Raises ConfigurationError if openai is not installed.
        """
        self._state.require_started()
        return face("client", extra="serve").openai_sync_client(self.asgi(), self._state.loop, **options)

    def anthropic(self, **options: Any) -> Any:
        """Return an `anthropic.AsyncAnthropic` that calls this cluster in this process, without a socket.

        `options` are its own. Use it with `async with`. Raises ConfigurationError if anthropic is not installed.
        """
        return face("client", extra="serve").anthropic_client(self.asgi(), **options)

    def httpx_client(self, module: str | ModuleType = "httpx") -> Any:
        """Return an `AsyncClient` of `httpx` or `httpx2` that calls this cluster in this process, and really streams.

        Paths begin with `/v1`. It is what clients of other packages take as their `http_client`. Raises
        ConfigurationError if the library is not installed.
        """
        return face("client", extra="serve").http_client(self.asgi(), module)

    async def drain(self, *, reopen: bool = True) -> None:
        """Wait until nothing is in flight. Meanwhile new requests raise OverloadedError; later they are accepted.

        With `reopen=False` they are refused until `reopen` is called. So the weights of a model can be replaced between
        two requests. Prompts of `generate_many` wait and are not refused.
        """
        self._state.require_started()
        with self._gate.drain(reopen=reopen):
            await self._driver.idle()

    def reopen(self) -> None:
        """Accept requests again after `drain(reopen=False)`. If the cluster is open, this changes nothing."""
        self._state.require_started()
        self._gate.reopen()

    async def add_worker(
        self,
        url: str | None = None,
        *,
        namespaces: Iterable[str] | None = None,
        cpus: Sequence[int] | None = None,
        devices: Sequence[Device] | None = None,
        engine_options: Mapping[str, Any] | None = None,
    ) -> str:
        """Start one more worker like the others, and return its name when it accepts requests.

        A cluster of servers that run already connects the one at `url` instead. With `namespaces` the worker gets
        requests of these only ("" stands for requests that name none), else of all. It needs `devices`, or
        `engine_options`, if each of the other workers has its own; with `engine_options` of its own it has those alone.
        Raises ConfigurationError for a wrong argument, WorkerStartError, or ClosedError if the cluster is closed
        meanwhile; then nothing is left of the worker.
        """
        self._state.require_started()
        served = served_namespaces(namespaces)
        try:
            worker, info = await self._pool.add(
                self._start_timeout, url=url, cpus=cpus, devices=devices, engine_options=engine_options
            )
        except WorkerStartError:
            self._state.require_started()
            raise
        try:
            self._state.require_started()
            self._members.add({worker: info}, served)
        except PrebleError:
            await self._pool.remove(worker)
            raise
        return worker

    async def drain_worker(self, worker: str) -> None:
        """Give a worker no more requests, and return when those that it has are finished.

        The worker stays drained, also if this call is cancelled; call `remove_worker` next. Raises ConfigurationError
        if there is no such worker.
        """
        self._state.require_started()
        self._members.drain(worker)
        await self._driver.idle(worker)

    async def remove_worker(self, worker: str) -> None:
        """Stop a worker. Its requests are sent to other workers, unless `drain_worker` has waited for them to finish.

        Of a worker that is lost already, what `stats` shows is forgotten. Raises ConfigurationError if there is no such
        worker.
        """
        self._state.require_started()
        if self._pool.awaits(worker) or self._is_lost(worker):
            self._driver.forget(worker)
        else:
            self._driver.on_lost(worker, WorkerLostError("the worker was removed", worker=worker), removed=True)
        self._members.forget(worker)
        await self._pool.remove(worker)

    async def reset_cache(self) -> None:
        """Empty the KV caches of all workers, except for what running requests use, and tell the scheduler."""
        self._state.require_started()
        await asyncio.gather(*map(self._pool.reset_cache, self.scheduler.workers))

    def worker_pids(self) -> dict[str, int]:
        """Return the process id of each worker's supervisor by worker name; workers that are no processes have none.

        Any thread may call it.
        """
        return self._state.call(self._pool.pids)

    def _watch_requests(self, watch: Watch) -> None:
        # For scripted answers, which depend on what was asked and not only on its tokens.
        self._intake.watch = watch

    def _is_lost(self, worker: str) -> bool:
        return any(each.worker == worker and each.status == "lost" for each in self._driver.stats().workers)

    async def _generate(
        self, prompt: Prompt, sampling: SamplingParams | None, options: RequestOptions, *, patient: bool = False
    ) -> Generation:
        texts: dict[int, str] = {}
        reader = await self._intake.submit(prompt, sampling, options, patient=patient)
        try:
            async for chunk in chunks(reader, self._prompts.tokenizer, self._driver.stop):
                texts[chunk.index] = texts.get(chunk.index, "") + chunk.text
            samples = reader.request.samples
            choices = tuple(sample.choice(texts[sample.index]) for sample in samples)
            return Generation(reader.request.id, choices, samples[0].prompt_logprobs)
        finally:
            self._driver.release(reader.request)

    async def _stream(
        self, prompt: Prompt, sampling: SamplingParams | None, options: RequestOptions
    ) -> AsyncGenerator[Chunk, None]:
        reader = await self._intake.submit(prompt, sampling, options, streaming=True)
        try:
            async for chunk in chunks(reader, self._prompts.tokenizer, self._driver.stop):
                yield chunk
        finally:
            self._driver.release(reader.request)


async def _until_ended(told: AsyncGenerator[Chunk, None]) -> None:
    async for _ in told:
        pass


def _end(driver: Driver, gate: Gate, log: LogFile | None, reason: str) -> None:
    driver.close(ClosedError(reason))
    gate.close()
    if log is not None:
        log.close()
