"""Real engines on one small model in float32 give the same greedy tokens, cold and cached, alone and batched."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.engines.conformance import ENGINES, Running, make_engine, prompt, require

LENGTHS = (1, 31, 33, 200, 500)


async def answers(name: str, model: Path) -> list[list[list[int]]]:
    """The tokens after each prompt: cold and alone, cached, and cold in one batch."""
    case = require(name)
    engine = make_engine(case, model)
    running = Running(case, engine, await engine.start())
    try:
        prompts = [prompt(length, length) for length in LENGTHS]
        cold = [(await running.generate(tokens, max_tokens=24)).tokens for tokens in prompts]
        cached = [(await running.generate(tokens, max_tokens=24)).tokens for tokens in prompts]
        await running.forget()
        together = await asyncio.gather(*(running.generate(tokens, max_tokens=24) for tokens in prompts))
        return [cold, cached, [output.tokens for output in together]]
    finally:
        await engine.close()


OTHERS = [name for name, case in ENGINES.items() if case.computes and not case.server and name != "torch"]
"""Tokens of servers are compared in test_openai."""


@pytest.mark.parametrize("name", OTHERS)
async def test_the_same_tokens_as_the_embedded_engine(name: str, model: Path):
    require("torch")
    other = await answers(name, model)
    own = await answers("torch", model)
    assert own[0] == own[1] == own[2]
    assert other == own
