"""Real engines on a real model in float32: twenty chats, greedy, have the text that transformers gives."""

from __future__ import annotations

import asyncio
import inspect
import json
import textwrap
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

pytest.importorskip("torch", reason="answers are compared with transformers'")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import preble.testing
from preble import Generation, PrebleCluster, SamplingParams
from preble.errors import ModelError
from tests.engines.conformance import ENGINES, missing

pytestmark = pytest.mark.asyncio(loop_scope="module")

LENGTH = 24
GREEDY = SamplingParams(max_tokens=LENGTH, temperature=0.0)
CONTEXT, AT_ONCE = 2048, 8
BLOCK = {"torch": 16, "vllm": 32, "sglang": 16}
OPTIONS: dict[str, dict[str, Any]] = {
    "torch": {"kv_tokens": 8192, "context_limit": CONTEXT},
    "vllm": {"max_model_len": CONTEXT, "block_size": 32, "num_gpu_blocks_override": 257, "enforce_eager": True},
    "sglang": {"context_length": CONTEXT + 6, "page_size": 16, "max_total_tokens": 8192},
}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


CHATS = [
    [user("What is the capital of France?")],
    [user("Name three colours of the rainbow.")],
    [user("Write one sentence about the sea.")],
    [user("How many days has a week?")],
    [user("Translate to French: good morning.")],
    [user("Was ist der größte Planet im Sonnensystem?")],
    [user("¿Qué hora es en Madrid cuando es mediodía en Londres?")],
    [user("用一句话介绍北京。")],
    [user("Explain this joke: 🐔 crossed the road 🛣️ twice.")],
    [user("List the even numbers below ten, separated by commas.")],
    [system("You answer in capital letters."), user("Who wrote Hamlet?")],
    [system("You are a pirate."), user("Where is my ship?")],
    [system("Answer with one word."), user("Is water wet?")],
    [user("My name is Ada."), assistant("Hello Ada!"), user("What is my name?")],
    [user("Pick a number."), assistant("Seven."), user("Double it."), assistant("14"), user("And once more?")],
    [user("What does this function return?\n\n" + inspect.getsource(textwrap.fill))],
    [user("Summarize in ten words:\n\n" + (inspect.getdoc(json.JSONEncoder) or ""))],
    [user("Write a Python function that adds two numbers.")],
    [user("What follows?\n\n1, 1, 2, 3, 5, 8,")],
    [user("Is this sentence polite?\n\nGive me the book, please.")],
]
QUESTIONS = ["What is a cat?", "And what does it eat?", "Does it sleep a lot?", "Name one famous cat."]


@pytest.fixture(scope="module")
def folder() -> Path:
    try:
        return preble.testing.real_model(format="hf")
    except (ModelError, OSError) as error:
        pytest.skip(f"no real model: {error}")


@pytest.fixture(scope="module")
def reference(folder: Path) -> list[str]:
    """What transformers answers, with its own tokenizer and template."""
    torch.set_num_threads(1)  # more would wait for each other wherever cores are shared
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return [_answer(model, tokenizer, chat) for chat in CHATS]


def _answer(model: Any, tokenizer: Any, chat: list[dict[str, str]]) -> str:
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**prompt, max_new_tokens=LENGTH, do_sample=False, pad_token_id=0)
    text: str = tokenizer.decode(out[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    return text


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=list(OPTIONS))
async def cluster(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[PrebleCluster]:
    name = request.param
    if reason := missing(ENGINES[name]):
        pytest.skip(reason)
    options = OPTIONS[name] | {"dtype": "float32"}
    async with PrebleCluster(folder, backend=name, workers=1, engine_options=options, start_timeout=300) as cluster:
        yield cluster


async def together(cluster: PrebleCluster) -> list[str]:
    room = asyncio.Semaphore(AT_ONCE)

    async def ask(chat: list[dict[str, str]]) -> str:
        async with room:
            return (await cluster.generate(chat, GREEDY)).text

    return await asyncio.gather(*map(ask, CHATS))


def differing(texts: list[str], wanted: list[str]) -> list[tuple[int, str, str]]:
    return [
        (number, ours, theirs)
        for number, (ours, theirs) in enumerate(zip(texts, wanted, strict=True))
        if ours != theirs
    ]


async def test_twenty_chats_have_the_text_of_transformers(cluster: PrebleCluster, reference: list[str]):
    cold, cached = [], []
    for chat in CHATS:
        await cluster.reset_cache()
        cold.append(await cluster.generate(chat, GREEDY))
        cached.append(await cluster.generate(chat, GREEDY))
    await cluster.reset_cache()
    texts = {
        "cold": [out.text for out in cold],
        "cached": [out.text for out in cached],
        "eight at once": await together(cluster),
    }
    assert {name: differing(each, reference) for name, each in texts.items()} == {name: [] for name in texts}
    block = BLOCK[cluster.backend]
    assert [out.usage.cached_tokens for out in cold] == [0] * len(CHATS)
    assert [out.usage.cached_tokens for out in cached] == [
        (out.usage.prompt_tokens - 1) // block * block for out in cold
    ]


async def test_a_stream_is_the_whole_text(cluster: PrebleCluster):
    for chat in CHATS[::4]:
        pieces = [chunk.text async for chunk in cluster.stream(chat, GREEDY)]
        assert len(pieces) > 1
        assert "".join(pieces) == (await cluster.generate(chat, GREEDY)).text


async def test_a_chat_that_goes_on_finds_its_earlier_turns_cached(cluster: PrebleCluster):
    await cluster.reset_cache()
    messages: list[dict[str, str]] = []
    outs: list[Generation] = []
    for question in QUESTIONS:
        messages.append(user(question))
        outs.append(await cluster.generate(messages, GREEDY))
        messages.append(assistant(outs[-1].text))
    cached = [out.usage.cached_tokens for out in outs]
    block = BLOCK[cluster.backend]
    assert cached[0] == 0
    for before, after in pairwise(outs):
        assert after.usage.cached_tokens >= before.usage.prompt_tokens // block * block
    assert cached == sorted(set(cached)), cached
