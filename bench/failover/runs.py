"""Runs: the same requests to fleets that are bad in different ways, and what came of them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from bench.failover.fleet import BAD, FLEETS, Watch
from bench.failover.kinds import HEALTHY, REPLICAS, TWO, WORKERS
from bench.workloads.toolbench import toolbench
from preble import DeadlineExceededError, PrebleCluster, PrebleError, SamplingParams
from preble.simulate import Request

POLICIES = ("e2", "round-robin")
AT_ONCE = 24
SETS = 150
"""Tool sets: so many that half of the requests find nothing cached, and go where a worker looks idle."""
OUTPUT_TOKENS = 16
WARMING = 60
"""Requests of a run before the first of each fleet, which nobody looks at."""
DEADLINE = 10.0

Tokens = tuple[int, ...]


class Scale(msgspec.Struct, frozen=True):
    """How many requests a run has, and which kinds are tried of each fleet, the healthy one first."""

    requests: int
    kinds: Mapping[str, Sequence[str]]

    @property
    def runs(self) -> int:
        """How many runs there are."""
        return len(POLICIES) * sum(map(len, self.kinds.values()))


FULL = Scale(300, {"replicas": tuple(REPLICAS), "workers": tuple(WORKERS)})
QUICK = Scale(
    90,
    {
        "replicas": (HEALTHY, "answers 500", "full: 429", "accepts, never answers", "breaks every stream"),
        "workers": (HEALTHY, "every step raises"),
    },
)


class Answer(msgspec.Struct, frozen=True):
    """What came of one request: its tokens and seconds from sending to the first of them, or its error's type."""

    tokens: Tokens = ()
    ttft: float = 0.0
    error: type[PrebleError] | None = None


class Served(msgspec.Struct, frozen=True):
    """What came of all requests of a run, in their order.

    `sent` counts those that each worker got, the bad one first, and `before_left_out` those that it had when its
    circuit breaker opened or it was lost, None if neither happened. `moved` were sent once more without a failure: they
    waited where another worker was idle.
    """

    answers: Sequence[Answer]
    sent: Sequence[int]
    moved: int
    before_left_out: int | None


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of a run. Times are in seconds, of the requests that were answered; None if none was.

    `late` are those of the `failed` whose deadline passed. `differing` have other tokens than with three healthy ones.
    `again` is how often requests were sent again after a failure, `at_bad` how many the bad one got, `before_left_out`
    how many of them until its circuit breaker opened or it was lost. `errors` counts types.
    """

    fleet: str
    kind: str
    policy: str
    requests: int
    failed: int
    late: int
    differing: int
    ttft_mean: float | None
    ttft_p95: float | None
    again: int
    at_bad: int
    before_left_out: int | None
    errors: Mapping[str, int]


async def measure(scale: Scale, done: Callable[[], object]) -> list[Run]:
    """Run each kind of each fleet under each policy; `done` is called after each run."""
    requests, found = toolbench(requests=scale.requests, sets=SETS), []
    for fleet, kinds in scale.kinds.items():
        await serve(fleet, HEALTHY, POLICIES[0], requests[:WARMING])
        expected: list[Tokens] = []
        for kind in kinds:
            for policy in POLICIES:
                served = await serve(fleet, kind, policy, requests)
                expected = expected or [answer.tokens for answer in served.answers]
                found.append(run(fleet, kind, policy, served, expected))
                done()
    return found


async def serve(fleet: str, kind: str, policy: str, requests: Sequence[Request]) -> Served:
    """Serve the requests with a new cluster."""
    watch = Watch()
    async with FLEETS[fleet](kind, policy, watch) as cluster:
        if kind == TWO:
            await cluster.drain_worker(cluster.stats().workers[BAD].worker)
        answers = await play(cluster, requests)
        return Served(answers, watch.sent(), cluster.stats().counters.moved, watch.before_left_out)


async def play(cluster: PrebleCluster, requests: Sequence[Request]) -> list[Answer]:
    """Send the requests, `AT_ONCE` at a time, the next as soon as one ends, however that is."""
    answers: dict[int, Answer] = {}
    queue = enumerate(requests)

    async def client() -> None:
        for number, request in queue:
            answers[number] = await _ask(cluster, request.prompt())

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return [answers[number] for number in range(len(requests))]


def run(fleet: str, kind: str, policy: str, served: Served, expected: Sequence[Tokens]) -> Run:
    """Return the figures of what was served; `expected` are the tokens of healthy workers."""
    answered = [(answer, tokens) for answer, tokens in zip(served.answers, expected, strict=True) if not answer.error]
    ttft = [answer.ttft for answer, _ in answered]
    errors = Counter(answer.error.__name__ for answer in served.answers if answer.error)
    return Run(
        fleet=fleet,
        kind=kind,
        policy=policy,
        requests=len(served.answers),
        failed=errors.total(),
        late=errors[DeadlineExceededError.__name__],
        differing=sum(answer.tokens != tokens for answer, tokens in answered),
        ttft_mean=float(np.mean(ttft)) if ttft else None,
        ttft_p95=float(np.percentile(ttft, 95)) if ttft else None,
        again=sum(served.sent) - served.moved - len(served.answers),
        at_bad=served.sent[BAD],
        before_left_out=served.before_left_out,
        errors=errors,
    )


async def _ask(cluster: PrebleCluster, prompt: bytes) -> Answer:
    sampling = SamplingParams(max_tokens=OUTPUT_TOKENS, temperature=0.0, ignore_eos=True)
    tokens: Tokens = ()
    sent, first = time.perf_counter(), 0.0
    try:
        async for chunk in cluster.stream(prompt, sampling, timeout=DEADLINE):
            first = first or time.perf_counter()
            tokens += chunk.token_ids
    except PrebleError as error:
        return Answer(error=type(error))
    return Answer(tokens, first - sent)
