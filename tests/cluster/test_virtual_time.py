"""A whole cluster in virtual time: every run with the same seeds decides the same."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

from preble import Generation, PrebleCluster, SamplingParams
from preble.testing import VirtualTimeLoop

REQUESTS = 1000
PER_SECOND = 40.0
ENGINE = {"time_scale": 1.0, "kv_tokens": 8000, "context_limit": 4000}
"""A simulated GPU in the loop's time; its cache holds some of the prefixes, not all."""


def requests(seed: int, count: int) -> Iterator[tuple[float, list[int], int]]:
    """Yield the time, the prompt and the output tokens of each request; 20 prefixes are shared."""
    draw = random.Random(seed)
    prefixes = [_tokens(draw, draw.randint(50, 600)) for _ in range(20)]
    now = 0.0
    for _ in range(count):
        now += draw.expovariate(PER_SECOND)
        yield now, draw.choice(prefixes) + _tokens(draw, draw.randint(5, 60)), draw.randint(1, 16)


def run(log: Path, *, seed: int = 0, count: int = REQUESTS) -> tuple[list[Generation], float]:
    """Serve the requests on four workers; return what came out and when it was over, in seconds of virtual time."""

    async def ask(cluster: PrebleCluster, at: float, prompt: list[int], length: int) -> Generation:
        await asyncio.sleep(at)
        return await cluster.generate(prompt, SamplingParams(max_tokens=length, temperature=0.0))

    async def main() -> tuple[list[Generation], float]:
        async with PrebleCluster(
            backend="sim", workers=4, processes=False, engine_options=ENGINE, decision_log=log
        ) as cluster:
            outs = await asyncio.gather(*(ask(cluster, *request) for request in requests(seed, count)))
            cluster.check()
            return outs, asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main())


def test_the_same_seed_gives_the_same_decisions_byte_for_byte(tmp_path: Path) -> None:
    outs, ended = run(tmp_path / "first")
    assert len(outs) == REQUESTS
    assert {choice.finish_reason for out in outs for choice in out.choices} == {"length"}
    assert {out.worker for out in outs} == {"w0", "w1", "w2", "w3"}
    assert sum(out.usage.cached_tokens for out in outs) > 0.3 * sum(out.usage.prompt_tokens for out in outs)
    assert REQUESTS / PER_SECOND * 0.8 < ended < REQUESTS / PER_SECOND * 1.5, "as a real cluster would take"

    assert run(tmp_path / "second") == (outs, ended)
    assert (tmp_path / "second").read_bytes() == (tmp_path / "first").read_bytes()


def test_an_hour_passes_in_a_moment_and_threads_still_answer() -> None:
    async def main() -> tuple[float, int]:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(3600.0)
        return loop.time(), await loop.run_in_executor(None, len, "done")

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert runner.run(main()) == (3600.0, 4)


def test_another_seed_gives_other_decisions(tmp_path: Path) -> None:
    """What the test above stands on: the log is not of nothing."""
    for seed in (1, 2):
        run(tmp_path / str(seed), seed=seed, count=50)
    assert (tmp_path / "1").read_bytes() != (tmp_path / "2").read_bytes()


def _tokens(draw: random.Random, count: int) -> list[int]:
    return [draw.randrange(10, 30_000) for _ in range(count)]
