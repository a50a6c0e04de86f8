"""Text, chat and stop strings through a real model: the `torch` engine with small random weights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from msgspec import structs

pytest.importorskip("torch", reason="the torch engine needs torch")

from preble import InvalidRequestError, NotStartedError, PrebleCluster, SamplingParams
from preble.testing import make_model
from preble.text import ChatTemplate, Tokenizer

pytestmark = pytest.mark.asyncio(loop_scope="module")

GREEDY = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)
BLOCK = 16
"""Tokens of a block of the cache, which holds whole blocks only."""
TEXT = "def quicksort(items: list[int]) -> list[int]:\n    " * 12
CHAT = [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": "Which worker are you?"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), hidden=64, layers=2, heads=4, kv_heads=2, intermediate=128)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(model: Path) -> AsyncIterator[PrebleCluster]:
    async with PrebleCluster(model, workers=2) as cluster:
        yield cluster
        cluster.check()


async def test_text_in_text_out(cluster: PrebleCluster, model: Path) -> None:
    tokenizer = Tokenizer.load(model)
    out = await cluster.generate(TEXT, GREEDY)
    assert out.usage.prompt_tokens == len(tokenizer.encode(TEXT))
    assert out.text == tokenizer.decode(out.token_ids)
    by_ids = await cluster.generate(tokenizer.encode(TEXT), GREEDY)
    assert by_ids.token_ids == out.token_ids


async def test_callers_may_use_the_tokenizer(cluster: PrebleCluster, model: Path) -> None:
    tokenizer = cluster.tokenizer
    assert tokenizer is not None
    out = await cluster.generate(CHAT, GREEDY)
    assert out.usage.prompt_tokens == tokenizer.count(CHAT)
    assert out.text == tokenizer.decode(out.token_ids)
    with pytest.raises(NotStartedError):
        _ = PrebleCluster(model).tokenizer


async def test_special_tokens_are_shown_if_asked_for(cluster: PrebleCluster, model: Path) -> None:
    sampling = SamplingParams(
        max_tokens=200, temperature=5.0, seed=7, ignore_eos=True, skip_special_tokens=False, stop=("<|unseen|>",)
    )
    out = await cluster.generate(TEXT, sampling)
    tokenizer = Tokenizer.load(model)
    assert out.text == tokenizer.decode(out.token_ids, skip_special_tokens=False)
    plain = await cluster.generate(TEXT, structs.replace(sampling, skip_special_tokens=True))
    assert plain.token_ids == out.token_ids
    assert plain.text == tokenizer.decode(out.token_ids) != out.text


async def test_a_cached_prefix_changes_nothing_but_the_work(cluster: PrebleCluster) -> None:
    fresh = "class Scheduler:\n    " * 20
    cold = await cluster.generate(fresh, GREEDY)
    warm = await cluster.generate(fresh, GREEDY)
    assert cold.usage.cached_tokens == 0
    assert warm.usage.cached_tokens >= warm.usage.prompt_tokens - BLOCK
    assert warm.text == cold.text
    assert warm.token_ids == cold.token_ids


async def test_all_workers_generate_the_same(model: Path) -> None:
    async with PrebleCluster(model, workers=2, policy="round-robin") as cluster:
        outs = await cluster.generate_many([TEXT] * 4, GREEDY)
        assert {out.worker for out in outs} == {"w0", "w1"}
        assert len({out.token_ids for out in outs}) == 1


async def test_the_pieces_of_a_stream_are_the_text(cluster: PrebleCluster) -> None:
    sampling = SamplingParams(max_tokens=80, temperature=1.5, seed=11, ignore_eos=True)
    pieces = [chunk.text async for chunk in cluster.stream(TEXT, sampling)]
    whole = await cluster.generate(TEXT, sampling)
    assert len(pieces) > 1
    assert "".join(pieces) == whole.text
    assert not any("\ufffd" in piece for piece in pieces[:-1] if "\ufffd" not in whole.text)


async def test_a_stop_string_ends_text_and_tokens_wherever_they_part(cluster: PrebleCluster, model: Path) -> None:
    tokenizer = Tokenizer.load(model)
    whole = await cluster.generate(TEXT, GREEDY)
    for begin, end in ((5, 8), (9, 11), (12, 17)):
        stop = whole.text[begin:end]
        first = whole.text.index(stop)
        cut = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True, stop=(stop,))
        out = await cluster.generate(TEXT, cut)
        assert out.text == whole.text[:first]
        assert (out.finish_reason, out.choices[0].stop_reason) == ("stop", stop)
        assert out.token_ids == whole.token_ids[: len(out.token_ids)]
        assert len(tokenizer.decode(out.token_ids[:-1])) < first + len(stop) <= len(tokenizer.decode(out.token_ids))
        assert out.usage.output_tokens == len(out.token_ids)
    kept = SamplingParams(
        max_tokens=24, temperature=0.0, ignore_eos=True, stop=(stop,), include_stop_str_in_output=True
    )
    streamed = "".join([chunk.text async for chunk in cluster.stream(TEXT, kept)])
    assert streamed == whole.text[: first + len(stop)]


async def test_a_stop_string_frees_the_worker(cluster: PrebleCluster) -> None:
    whole = await cluster.generate(TEXT, GREEDY)
    endless = SamplingParams(max_tokens=4000, temperature=0.0, ignore_eos=True, stop=(whole.text[4:8],))
    out = await cluster.generate(TEXT, endless)
    assert out.finish_reason == "stop"
    assert cluster.stats().in_flight == 0
    async with asyncio.timeout(10):
        while any(worker.running for worker in cluster.stats().workers):
            await asyncio.sleep(0.02)


async def test_chat_goes_through_the_model_s_template(cluster: PrebleCluster, model: Path) -> None:
    tokenizer, template = Tokenizer.load(model), ChatTemplate.load(model)
    ids = tokenizer.encode(template.render(CHAT), add_special_tokens=False)
    by_chat, by_ids = await asyncio.gather(cluster.generate(CHAT, GREEDY), cluster.generate(ids, GREEDY))
    assert by_chat.usage.prompt_tokens == len(ids)
    assert by_chat.token_ids == by_ids.token_ids


async def test_arguments_of_the_template_change_the_prompt(cluster: PrebleCluster, model: Path) -> None:
    template, tokenizer = ChatTemplate.load(model), Tokenizer.load(model)
    unfinished = [*CHAT, {"role": "assistant", "content": "I am"}]
    ids = tokenizer.encode(template.render(unfinished, continue_final_message=True), add_special_tokens=False)
    options = {"continue_final_message": True}
    out = await cluster.generate(unfinished, GREEDY, chat_template_kwargs=options)
    streamed = [chunk async for chunk in cluster.stream(unfinished, GREEDY, chat_template_kwargs=options)]
    assert out.usage.prompt_tokens == streamed[-1].usage.prompt_tokens == len(ids)
    assert out.token_ids == (await cluster.generate(ids, GREEDY)).token_ids


@pytest.mark.parametrize("options", [{"tools": []}, {"messages": CHAT}, ["x"], {"x": object()}])
async def test_arguments_that_are_not_the_template_s_are_refused(cluster: PrebleCluster, options: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await cluster.generate(CHAT, GREEDY, chat_template_kwargs=options)
    assert caught.value.field == "chat_template_kwargs"


@pytest.mark.parametrize("option", ["tools", "chat_template_kwargs"])
@pytest.mark.parametrize("prompt", [TEXT, [1, 2, 3]])
async def test_what_is_for_chats_is_refused_elsewhere(cluster: PrebleCluster, prompt: Any, option: str) -> None:
    given: dict[str, Any] = {"tools": {"tools": [{"type": "function"}]}, "chat_template_kwargs": {option: {"a": 1}}}
    with pytest.raises(InvalidRequestError) as caught:
        await cluster.generate(prompt, GREEDY, **given[option])
    assert caught.value.field == option


async def test_malformed_chat_is_refused(cluster: PrebleCluster) -> None:
    with pytest.raises(InvalidRequestError, match="messages"):
        await cluster.generate([{"content": "no role"}], GREEDY)


async def test_a_text_too_long_for_the_model_is_refused(cluster: PrebleCluster) -> None:
    with pytest.raises(InvalidRequestError, match="no room"):
        await cluster.generate(TEXT * 100, GREEDY)


async def test_seeds_repeat_and_differ(cluster: PrebleCluster) -> None:
    def sampling(seed: int) -> SamplingParams:
        return SamplingParams(max_tokens=16, temperature=1.0, seed=seed, ignore_eos=True)

    first, again, other = [await cluster.generate(TEXT, sampling(seed)) for seed in (1, 1, 2)]
    assert first.token_ids == again.token_ids != other.token_ids


async def drawn(model: Path, backend: str, **options: Any) -> list[str]:
    async with PrebleCluster(model, backend=backend, workers=2, processes=False, **options) as cluster:
        out = await cluster.generate(TEXT, SamplingParams(max_tokens=8, n=4, ignore_eos=True))
        return [choice.text for choice in out.choices]


@pytest.mark.parametrize("backend", ["sim", "torch"])
async def test_without_a_seed_samples_differ_and_the_cluster_s_seed_repeats_them(model: Path, backend: str) -> None:
    first, again = await drawn(model, backend, seed=5), await drawn(model, backend, seed=5)
    assert len(set(first)) == 4
    assert first == again
    other = await drawn(model, backend, seed=6)
    own = await drawn(model, backend, seed=6, engine_options={"seed": 5})
    assert (set(first) & set(other), own) == (set(), first)


async def test_without_any_seed_torch_draws_anew_and_sim_does_not(model: Path) -> None:
    assert await drawn(model, "torch") != await drawn(model, "torch")
    assert await drawn(model, "sim") == await drawn(model, "sim")


async def test_sim_writes_words_of_the_model(model: Path) -> None:
    async with PrebleCluster(model, backend="sim", workers=1, processes=False) as cluster:
        pieces = [chunk.text async for chunk in cluster.stream("hello", SamplingParams(max_tokens=30))]
        assert "".join(pieces).replace(" ", "").isalpha()
        assert len("".join(pieces).split()) == 30
        assert all(pieces)


async def test_chats_go_on_until_the_model_ends_them_or_the_context_is_full(model: Path) -> None:
    options = {"context_limit": 400, "time_scale": 0.0}
    async with PrebleCluster(model, backend="sim", processes=False, engine_options=options) as cluster:
        chats, text = [await cluster.generate(CHAT) for _ in range(40)], await cluster.generate("hello")
        ended = [chat for chat in chats if chat.finish_reason == "stop"]
        full = [chat.usage for chat in chats if chat.finish_reason == "length"]
        assert {usage.prompt_tokens + usage.output_tokens for usage in full} == {400}
        assert {chat.token_ids[-1] for chat in ended} == {cluster.tokenizer.encode("<|end|>")[0]}
        assert (text.usage.output_tokens, text.finish_reason) == (128, "length")
        whole = await cluster.generate("hello", SamplingParams(max_tokens=None, ignore_eos=True))
        assert whole.usage.prompt_tokens + whole.usage.output_tokens == 400
        short = await cluster.generate(CHAT, SamplingParams(max_tokens=3))
        assert short.usage.output_tokens == 3
