"""The engine from outside: what it generates is what transformers generates, whatever is cached, batched or aborted."""

from __future__ import annotations

import asyncio
import weakref
from contextlib import aclosing, asynccontextmanager

import pytest
import torch

from preble import PrebleCluster
from preble.backends import EngineRequest, Evicted
from preble.backends.torch.engine import TorchEngine
from preble.errors import (
    ConfigurationError,
    ContextLengthError,
    EngineError,
    InvalidRequestError,
    ModelError,
    NotStartedError,
)
from preble.tokens import unpack
from preble.types import SamplingParams
from tests.backends.torch.network import pack, prompt

GREEDY = {"temperature": 0.0, "ignore_eos": True, "max_tokens": 12}


class Output:
    """Everything one request's deltas said."""

    def __init__(self):
        self.tokens, self.logprobs = [], []
        self.cached = self.finish = self.stop = self.prompt_logprobs = None

    def take(self, delta):
        self.tokens += unpack(delta.tokens)
        self.logprobs += delta.logprobs or ()
        if delta.prompt_logprobs is not None:
            assert self.prompt_logprobs is None, "those of the prompt are told once"
            self.prompt_logprobs = delta.prompt_logprobs
        if delta.cached_tokens is not None:
            assert self.cached is None, "cached tokens are told once"
            self.cached = delta.cached_tokens
        self.finish, self.stop = delta.finish_reason, delta.stop_reason


@asynccontextmanager
async def running(folder, **options):
    engine = TorchEngine(**{"model": str(folder), "device": "cpu", "kv_tokens": 4096} | options)
    await engine.start()
    try:
        yield engine
        engine.check()
    finally:
        await engine.close()


async def generate(engine, tokens, id=1, priority=0, **sampling):
    output = Output()
    request = EngineRequest(id, pack(tokens), SamplingParams(**GREEDY | sampling), priority)
    async for delta in engine.generate(request):
        output.take(delta)
    return output


def expected(model, tokens, count=12):
    """Greedy tokens by transformers, each from a whole forward pass."""
    output = []
    for _ in range(count):
        output.append(following(model, tokens + output)[-1])
    return output


def following(model, tokens):
    """For each token, the most likely one after it, by transformers."""
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0].argmax(-1).tolist()


def is_greedy(model, tokens, output):
    """Whether each token of `output` is the most likely one after those before it."""
    return following(model, tokens + output)[len(tokens) - 1 : -1] == output


@pytest.mark.parametrize("shape", ["llama", "llama3-rope", "qwen2", "qwen3", "mistral"])
async def test_greedy_cold_warm_and_in_small_chunks(build, reference, shape):
    tokens = prompt(100)
    wanted = expected(reference(shape), tokens)
    async with running(build(shape), max_batched_tokens=24, max_running=8) as engine:
        cold, warm = await generate(engine, tokens, 1), await generate(engine, tokens, 2)
        longer = await generate(engine, tokens + wanted[:5], 3, max_tokens=7)
    assert (cold.tokens, cold.cached, cold.finish) == (wanted, 0, "length")
    assert (warm.tokens, warm.cached) == (wanted, 96)
    assert (longer.tokens, longer.cached) == (wanted[5:], 96)


async def test_batched_equals_alone(build, reference):
    prompts = [prompt(length, seed) for seed, length in enumerate((1, 5, 16, 17, 60, 200, 33, 90))]
    prompts += [prompts[5][:150] + prompt(9, 50), prompts[5][:64]]
    async with running(build("llama")) as engine:
        outputs = await asyncio.gather(*(generate(engine, tokens, index) for index, tokens in enumerate(prompts)))
    for tokens, output in zip(prompts, outputs, strict=True):
        assert len(output.tokens) == 12
        assert is_greedy(reference("llama"), tokens, output.tokens)


async def test_a_small_cache_evicts_and_preempts_without_changing_tokens(build, reference):
    """Twelve sequences in room for about three: blocks are evicted, sequences preempted and computed again."""
    shared = prompt(40, 99)
    prompts = [shared + prompt(20, seed) for seed in range(12)]
    async with running(build("qwen3"), kv_tokens=256, max_running=8, max_batched_tokens=32) as engine:
        outputs = await asyncio.gather(
            *(generate(engine, tokens, index, max_tokens=30) for index, tokens in enumerate(prompts))
        )
        events = engine.cache_events()
    for tokens, output in zip(prompts, outputs, strict=True):
        assert len(output.tokens) == 30
        assert is_greedy(reference("qwen3"), tokens, output.tokens)
    histories = [tokens + output.tokens for tokens, output in zip(prompts, outputs, strict=True)]
    assert events, "nothing was evicted: the test does not test"
    for event in events:
        evicted = list(unpack(event.tokens))
        assert event.keep < len(evicted)
        assert any(history[: len(evicted)] == evicted for history in histories)


async def test_evicted_prefixes_are_computed_again(build):
    async with running(build("llama"), kv_tokens=160, max_running=2) as engine:
        await generate(engine, prompt(100, 1), 1)
        assert (await generate(engine, prompt(100, 1), 2)).cached == 96
        assert engine.cache_events() == []
        await generate(engine, prompt(120, 2), 3)
        keeps = [
            event.keep for event in engine.cache_events() if unpack(event.tokens)[:16] == tuple(prompt(100, 1)[:16])
        ]
        assert (await generate(engine, prompt(100, 1), 4)).cached == min(keeps, default=96) < 96


async def test_reset_cache(build):
    async with running(build("llama")) as engine:
        await generate(engine, prompt(50), 1)
        await engine.reset_cache()
        assert engine.cache_events() == [Evicted(b"", 0)]
        assert (await generate(engine, prompt(50), 2)).cached == 0


async def test_seeds(build):
    sampling = {"temperature": 1.0, "max_tokens": 16}
    async with running(build("llama")) as engine:
        first = await generate(engine, prompt(30), 1, seed=7, **sampling)
        crowd = await asyncio.gather(
            generate(engine, prompt(30), 2, seed=7, **sampling),
            *(generate(engine, prompt(30 + n, n), n, seed=n, top_k=9, **sampling) for n in range(10, 20)),
        )
        other = await generate(engine, prompt(30), 3, seed=8, **sampling)
        unseeded = [await generate(engine, prompt(30), number, **sampling) for number in (4, 5)]
        resumed = await generate(engine, prompt(30) + first.tokens[:6], 6, seed=7, temperature=1.0, max_tokens=10)
    assert crowd[0].tokens == first.tokens
    assert other.tokens != first.tokens
    assert unseeded[0].tokens != unseeded[1].tokens
    assert resumed.tokens == first.tokens[6:], "a request resumed with its tokens goes on as it would have"


async def test_stop_tokens(build, reference):
    wanted = expected(reference("llama"), prompt(40))
    stop = wanted[5]
    at = wanted.index(stop)
    async with running(build("llama")) as engine:
        stopped = await generate(engine, prompt(40), 1, stop_token_ids=(stop,))
        later = await generate(engine, prompt(40), 2, stop_token_ids=(stop,), min_tokens=at + 3)
    assert (stopped.tokens, stopped.finish, stopped.stop) == (wanted[: at + 1], "stop", stop)
    assert stop not in later.tokens[: at + 2]
    assert len(later.tokens) >= at + 3


async def test_end_token_of_the_model(build, reference, tmp_path):
    wanted = expected(reference("llama"), prompt(40))
    for file in build("llama").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "generation_config.json").write_text(f'{{"eos_token_id": [0, {wanted[3]}]}}')
    async with running(tmp_path) as engine:
        ended = await generate(engine, prompt(40), 1, ignore_eos=False)
        ignored = await generate(engine, prompt(40), 2)
    assert (ended.tokens, ended.finish, ended.stop) == (wanted[: wanted.index(wanted[3]) + 1], "stop", None)
    assert ignored.tokens == wanted


async def test_logprobs(build, reference):
    async with running(build("llama")) as engine:
        output = await generate(engine, prompt(40), logprobs=4, temperature=0.7, seed=1)
    with torch.inference_mode():
        logits = reference("llama")(torch.tensor([prompt(40) + output.tokens])).logits[0, 39:-1]
    raw = logits.log_softmax(-1)
    assert [logprob.token_id for logprob in output.logprobs] == output.tokens
    for row, logprob in zip(raw, output.logprobs, strict=True):
        assert logprob.logprob == pytest.approx(float(row[logprob.token_id]), abs=5e-3)
        assert [token for token, _ in logprob.top] == row.topk(4).indices.tolist()
        assert [value for _, value in logprob.top] == pytest.approx(row.topk(4).values.tolist(), abs=5e-3)


@pytest.mark.parametrize("options", [{}, {"max_batched_tokens": 24, "max_running": 8}], ids=["at once", "in chunks"])
async def test_prompt_logprobs_are_those_of_the_whole_prompt_whatever_is_cached(build, reference, options):
    tokens = prompt(60)
    async with running(build("llama"), **options) as engine:
        await generate(engine, tokens, 1)
        others = asyncio.create_task(generate(engine, prompt(33, 5), 3, prompt_logprobs=0))
        output = await generate(engine, tokens, 2, prompt_logprobs=3, logprobs=2)
        again = await generate(engine, tokens, 4)
        other = await others
    with torch.inference_mode():
        raw = reference("llama")(torch.tensor([tokens])).logits[0].log_softmax(-1)
    first, *rest = output.prompt_logprobs
    assert (first, output.cached, again.cached) == (None, 0, 48)
    assert [entry.token_id for entry in rest] == tokens[1:]
    for row, entry in zip(raw, rest, strict=False):
        assert entry.logprob == pytest.approx(float(row[entry.token_id]), abs=5e-3)
        assert [value for _, value in entry.top] == pytest.approx(row.topk(3).values.tolist(), abs=5e-3)
    assert output.tokens == again.tokens
    assert [len(entry.top) for entry in output.logprobs] == [2] * 12
    assert [entry.token_id for entry in other.prompt_logprobs[1:]] == prompt(33, 5)[1:]
    assert {entry.top for entry in other.prompt_logprobs[1:]} == {()}


async def test_a_bias_is_about_tokens_that_there_are(build):
    async with running(build("llama")) as engine:
        assert (await generate(engine, prompt(9), logit_bias={319: 100})).tokens == [319] * 12
        with pytest.raises(InvalidRequestError, match=r"logit_bias: token id 320 is outside \[0, 320\)"):
            await generate(engine, prompt(9), logit_bias={320: 1})


async def test_context_limit_ends_generation(build):
    async with running(build("llama"), context_limit=64) as engine:
        output = await generate(engine, prompt(60), 1, max_tokens=50)
        assert (len(output.tokens), output.finish) == (4, "length")
        with pytest.raises(ContextLengthError):
            await generate(engine, prompt(64), 2)


async def test_abort_between_steps_leaves_others_alone(build, reference):
    async with running(build("llama")) as engine:
        other = asyncio.create_task(generate(engine, prompt(70, 4), 2, max_tokens=40))
        output = Output()
        async for delta in engine.generate(
            EngineRequest(1, pack(prompt(50)), SamplingParams(**GREEDY | {"max_tokens": 400}))
        ):
            output.take(delta)
            if len(output.tokens) >= 3:
                engine.abort(1)
        assert output.finish == "abort"
        assert len(output.tokens) < 100
        assert (await other).tokens == expected(reference("llama"), prompt(70, 4), 40)
        engine.abort(12345)
        assert engine.load().running == 0


async def test_closing_the_iterator_aborts_also_during_prefill(build, reference):
    async with running(build("llama"), max_batched_tokens=16, max_running=4) as engine:
        request = EngineRequest(1, pack(prompt(400)), SamplingParams(**GREEDY))
        async with aclosing(engine.generate(request)) as deltas:
            assert (await anext(deltas)).cached_tokens == 0
        assert engine.load().running == 0
        assert (await generate(engine, prompt(400), 2)).tokens == expected(reference("llama"), prompt(400))


async def test_bad_requests_harm_nobody(build):
    async with running(build("llama"), kv_tokens=128, max_running=4) as engine:
        for tokens in ([], [320], [-1], prompt(200)):
            with pytest.raises(InvalidRequestError, match="prompt"):
                await generate(engine, tokens)
        with pytest.raises(InvalidRequestError, match="lora: the torch engine applies no adapters, asked for 'sql'"):
            engine.generate(EngineRequest(1, pack(prompt(5)), SamplingParams(), lora="sql"))
        assert len((await generate(engine, prompt(20), 2)).tokens) == 12


async def test_the_event_loop_is_free_while_a_step_computes(build):
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async with running(build("llama"), max_batched_tokens=512) as engine:
        ticking = asyncio.create_task(tick())
        await generate(engine, prompt(500), max_tokens=1)
        ticking.cancel()
    assert ticks > 10


async def test_memory_that_runs_out_is_given_back_before_the_next_step(build, reference, monkeypatch):
    emptied, held = [], []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append([tensor() is None for tensor in held]))
    async with running(build("llama")) as engine:
        forward = engine._model.forward

        def full(batch):
            activations = torch.zeros(8)
            held.append(weakref.ref(activations))
            raise torch.OutOfMemoryError("out of memory")

        engine._model.forward = full
        with pytest.raises(EngineError, match="a step failed: OutOfMemoryError: out of memory") as caught:
            await generate(engine, prompt(40))
        assert emptied == [[True]], "the tensors of the step are free by then"
        assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
        engine._model.forward = forward
        assert is_greedy(reference("llama"), prompt(40), (await generate(engine, prompt(40))).tokens)


@pytest.mark.parametrize(("options", "set_to"), [({}, []), ({"threads": 2}, [2])])
async def test_torchs_threads_in_this_process_are_left_alone_unless_asked_for(build, monkeypatch, options, set_to):
    calls = []
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    async with running(build("llama"), **options) as engine:
        await generate(engine, prompt(5))
    assert calls == set_to


@pytest.mark.parametrize(("options", "set_to"), [({}, []), ({"threads": 2}, [2])])
async def test_a_cluster_in_this_process_leaves_torchs_threads_alone_unless_asked_for(
    build, monkeypatch, options, set_to
):
    calls = []
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    async with PrebleCluster(build("llama"), workers=1, processes=False, **options) as cluster:
        await cluster.generate(prompt(5), SamplingParams(max_tokens=2))
    assert calls == set_to


async def test_information(build):
    engine = TorchEngine(model=str(build("llama")), device="cpu", kv_tokens=1000, max_running=3, discipline="lpm")
    info = await engine.start()
    await engine.close()
    assert (info.vocab_size, info.context_limit, info.kv_tokens, info.block_size) == (320, 512, 992, 16)
    assert (info.max_running, info.eos_token_ids, info.reports_evictions) == (3, (2,), True)
    assert info.discipline == "lpm"


async def test_default_cache_holds_sixteen_contexts(build):
    engine = TorchEngine(model=str(build("llama")), device="cpu")
    info = await engine.start()
    await engine.close()
    assert info.kv_tokens == 16 * 512


@pytest.mark.parametrize("discipline", ["fcfs", "lpm", "shortest-prefill"])
async def test_every_discipline_serves_everyone(build, discipline):
    async with running(build("llama"), discipline=discipline, max_running=2) as engine:
        outputs = await asyncio.gather(*(generate(engine, prompt(30, n), n, max_tokens=3) for n in range(7)))
    assert [len(output.tokens) for output in outputs] == [3] * 7


async def test_bfloat16(build):
    async with running(build("qwen3"), dtype="bfloat16") as engine:
        first, second = [await generate(engine, prompt(60), number) for number in (1, 2)]
    assert len(first.tokens) == len(second.tokens) == 12
    assert second.cached == 48


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"model": None}, "model"),
        ({"dtype": "int8"}, "dtype"),
        ({"device": "toaster"}, "device"),
        ({"threads": -1}, "threads"),
        ({"discipline": "chaos"}, "discipline"),
        ({"block_size": 0}, "block_size"),
    ],
)
def test_bad_options(options, word):
    with pytest.raises(ConfigurationError, match=word):
        TorchEngine(**{"model": "somewhere"} | options)


@pytest.mark.parametrize(
    ("options", "word"),
    [({"kv_tokens": 16}, "kv_tokens"), ({"max_running": 0}, "max_running"), ({"context_limit": 513}, "context_limit")],
)
async def test_options_that_the_model_decides(build, options, word):
    engine = TorchEngine(**{"model": str(build("llama")), "device": "cpu"} | options)
    with pytest.raises(ConfigurationError, match=word):
        await engine.start()
    await engine.close()


async def test_model_paths(tmp_path):
    for folder, reason in (
        (tmp_path / "nowhere", "nowhere: no such folder"),
        (tmp_path, r"config\.json: no such file"),
    ):
        engine = TorchEngine(model=str(folder))
        with pytest.raises(ModelError, match=reason):
            await engine.start()
        await engine.close()


def test_cuda_without_a_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match="device"):
        TorchEngine(model="somewhere", device="cuda")


async def test_before_start_and_after_close(build):
    engine = TorchEngine(model=str(build("llama")), device="cpu", kv_tokens=512)
    with pytest.raises(NotStartedError):
        engine.load()
    await engine.start()
    deltas = engine.generate(EngineRequest(1, pack(prompt(50)), SamplingParams(**GREEDY)))
    await anext(deltas)
    await engine.close()
    assert [delta.finish_reason async for delta in deltas][-1] == "abort"
    await engine.close()


async def test_dummy_weights_need_no_file_and_are_the_same_every_time(build, tmp_path):
    (tmp_path / "config.json").write_bytes((build("llama-tied") / "config.json").read_bytes())
    outputs = []
    for _ in range(2):
        async with running(tmp_path, load_format="dummy") as engine:
            cold = await generate(engine, prompt(100))
            cached = await generate(engine, prompt(100), id=2)
            other = await generate(engine, prompt(101), id=3)
        assert (cold.cached, cached.cached, cold.tokens) == (0, 96, cached.tokens)
        assert other.tokens != cold.tokens
        outputs.append(cold.tokens)
    assert outputs[0] == outputs[1]


def test_an_unknown_load_format_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="load_format"):
        TorchEngine(model=str(tmp_path), load_format="sharded")
