"""The first act: two workers with a real model answer questions about Python's standard library.

Questions on one topic share a prefix, a document or a tool list of some 1,000 to 1,700 tokens. Under each policy, in a
cluster of its own with cold caches, the first questions come one after the other and are shown as they are answered.
The rest arrive at random within the time that all workers together need to compute every prefix once on each worker,
as measured by the first question of all: round robin has to do that, and just about can. Times to the first token
count from the intended arrival. Decoding is greedy in float32, so the texts have to be the same under both policies.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from bench.demo import sides
from bench.demo.questions import Question, questions, topics
from bench.demo.sides import POLICIES, SECONDS_TO_START, Results, differences, gain, table
from bench.live import Record, send, summary, until
from bench.progress import progress
from preble import PrebleCluster, SamplingParams

INTRODUCED = 3
"""Questions that are shown with their answers; all on one topic."""
ENGINE = {"dtype": "float32", "context_limit": 4096, "kv_tokens": 20_480}
"""Every prefix fits into the cache of every worker."""
SAMPLING = SamplingParams(max_tokens=48, temperature=0.0)
# Batching and caching change a log-probability by 2e-5 at most, as measured on the questions about json and heapq; the
# two most likely tokens are never nearer to each other there than 3e-3.
SHOWN = ("requests", "prompt_tokens", "cached_tokens", "ttft_mean", "ttft_p50", "latency_mean")


class Setting(msgspec.Struct, frozen=True):
    """What is the same for both policies."""

    model: str
    questions: list[Question]
    seed: int

    @property
    def prefixes(self) -> int:
        """How many prefixes the questions share."""
        return len({question.topic for question in self.questions})


class Answered(msgspec.Struct, frozen=True):
    """What each policy gave: its records in the order of the questions, their summary, and whose texts differ."""

    questions: list[Question]
    records: dict[str, list[Record]]
    policies: Results
    differing: list[int]


async def run(model: str, console: Console, *, quick: bool, seed: int) -> Answered:
    """Ask all questions under each policy, and show what came."""
    setting = Setting(model, questions(topics(2) if quick else topics(), introduced=INTRODUCED, seed=seed), seed)
    console.print(f"[bold]First act: a real model, {Path(model).stem}[/]")
    console.print(
        f"{len(setting.questions)} questions share {setting.prefixes} documents and tool lists of Python's standard "
        f"library. Workers: {sides.WORKERS}, torch, float32, a thread each."
    )
    records = dict[str, list[Record]]()
    for policy in POLICIES:
        cold = next(iter(records.values()))[0].ttft if records else None
        records[policy] = await ask(policy, setting, cold, console)
    policies = {policy: summary(of) for policy, of in records.items()}
    found = Answered(setting.questions, records, policies, differences(*records.values()))
    show(found, console)
    return found


async def ask(policy: str, setting: Setting, cold: float | None, console: Console) -> list[Record]:
    """Ask a new cluster. `cold` is the time of a prefix that is not cached, in seconds, if it has been measured."""
    console.print(f"\n[bold]{policy}[/]")
    async with PrebleCluster(
        setting.model, workers=sides.WORKERS, policy=policy, engine_options=ENGINE, start_timeout=SECONDS_TO_START
    ) as cluster:
        begin = asyncio.get_running_loop().time()
        records = [await introduce(cluster, question, begin, console) for question in setting.questions[:INTRODUCED]]
        span = setting.prefixes * (records[0].ttft if cold is None else cold)
        rest = setting.questions[INTRODUCED:]
        with progress(f"{len(rest)} more", len(rest)) as done:
            return records + await scattered(cluster, rest, begin, span, setting.seed, done)


async def introduce(cluster: PrebleCluster, question: Question, begin: float, console: Console) -> Record:
    """Ask, and show the answer as it comes, with what it took in a dim line."""
    console.print(f"> {question.words}", markup=False)
    now = asyncio.get_running_loop().time()
    record = await send(
        cluster, question.messages, SAMPLING, begin, now, show=lambda text: console.out(text, end="", highlight=False)
    )
    console.print(f"\n{took(record)}", style="dim", markup=False)
    return record


def took(record: Record) -> str:
    """Return what was cached, the time to the first token, and the worker, in words."""
    cached = f"{record.cached_tokens:,} of {record.prompt_tokens:,} prompt tokens cached"
    return f"[{cached}, first token after {record.ttft:.2f} s, worker {record.worker}]"


async def scattered(
    cluster: PrebleCluster,
    asked: Sequence[Question],
    begin: float,
    span: float,
    seed: int,
    done: Callable[[], None],
) -> list[Record]:
    """Ask at random times within `span` seconds from now; the same seed gives the same parts of it."""
    chance, now = random.Random(seed), asyncio.get_running_loop().time()
    arrivals = sorted(now + span * chance.random() for _ in asked)

    async def one(question: Question, arrival: float) -> Record:
        await until(arrival)
        record = await send(cluster, question.messages, SAMPLING, begin, arrival)
        done()
        return record

    return await asyncio.gather(*map(one, asked, arrivals))


def show(found: Answered, console: Console) -> None:
    """Print the table, whether the texts are the same, what a cached prefix saves, and how much sooner answers came."""
    console.print(table(found.policies, SHOWN))
    for number in found.differing:
        one, other = (found.records[policy][number].text for policy in POLICIES)
        console.print(f"{found.questions[number].words}\n  {one!r}\n  {other!r}", markup=False, soft_wrap=True)
    if found.differing:
        console.print(f"Error: {len(found.differing)} questions, above, got different texts under the two policies.")
    else:
        console.print("Both policies returned the same text for every question.")
    console.print(saved(found.records[POLICIES[0]][:INTRODUCED]))
    console.print(gain(found.policies))


def saved(records: Sequence[Record]) -> str:
    """Return as a sentence how long the prefix of these records took when computed, and when cached."""
    computed, cached = records[0], records[-1]
    return (
        f"A prompt of {computed.prompt_tokens:,} tokens: first token after {computed.ttft:.2f} s if all are computed, "
        f"{cached.ttft:.2f} s if {cached.cached_tokens:,} are cached, {computed.ttft / cached.ttft:.0f} times sooner."
    )


def result(found: Answered) -> dict[str, object]:
    """Return the questions with their answers, and the summaries, as plain data."""
    texts = [record.text for record in found.records[POLICIES[0]]]
    answers = [
        {"topic": question.topic, "question": question.words, "answer": text}
        for question, text in zip(found.questions, texts, strict=True)
    ]
    return {"same_texts": not found.differing, "policies": found.policies, "answers": answers}
