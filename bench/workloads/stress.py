"""Workloads with one difficulty each: what a naive scheduler does wrong on them is in their docstrings."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice

import msgspec

from bench.workloads.arrivals import poisson
from bench.workloads.chat import cut
from bench.workloads.draws import chance, continuous, draws, exponential, lognormal, popular, stratified
from bench.workloads.toolbench import OUTPUT, SYSTEM, TOOL_SET, toolbench
from preble.simulate import Request
from preble.simulate.request import Segment

Prompt = tuple[Segment, ...]

_APART = 1 << 32

HOT_PREFIX = 6_000
HOT_OWN = lognormal(150, 80, 40, 800)


def hot_prefix(
    *,
    rate: float = 1.0,
    requests: int = 6_000,
    seed: int = 0,
    share: float = 0.4,
    episode: tuple[float, float] = (0.5, 0.65),
) -> list[Request]:
    """Tool use; during the `episode` (shares of the time) a new prefix of 6,000 tokens takes `share` of the requests.

    A step, not a trend: what looks at history reacts late, and the holder's queue grows.
    """
    calm = toolbench(rate=rate, requests=requests, seed=seed, popularity="even")
    source = chance("hot", seed, "episode")
    end = calm[-1].arrival or 0.0
    return [
        _heated(request, index, source.random())
        if episode[0] * end <= (request.arrival or 0.0) < episode[1] * end and source.random() < share
        else request
        for index, request in enumerate(calm)
    ]


def _heated(request: Request, index: int, uniform: float) -> Request:
    return msgspec.structs.replace(request, segments=((_APART, HOT_PREFIX), (_APART + 1 + index, HOT_OWN(uniform))))


COLD = lognormal(2_000, 2_000, 50, 16_000)
COLD_OUTPUT = lognormal(200, 200, 4, 1_500)


def cold(*, rate: float = 1.0, requests: int = 5_000, seed: int = 0) -> list[Request]:
    """Unique prompts: prefix logic can only cost."""
    source = chance("cold", seed, "requests")
    return [
        Request(
            arrival=arrival,
            segments=((index, COLD(source.random())),),
            output_tokens=COLD_OUTPUT(source.random()),
            max_tokens=1_500,
        )
        for index, arrival in islice(enumerate(poisson(rate, chance("cold", seed, "arrivals"))), requests)
    ]


GROUPS = 256
GROUP_SYSTEM = 200
GROUP_PROMPT = lognormal(900, 700, 100, 6_000)
GROUP_OUTPUT = lognormal(600, 700, 16, 4_096)
GROUP_SPREAD = 0.002


def groups(*, rate: float = 1.0, requests: int = 8_192, seed: int = 0, size: int = 16) -> list[Request]:
    """Steps of reinforcement learning: 256 prompts `size` times each at once; the next step when all have finished.

    Followers come before the prefill of the first ends: without holding them it is computed many times. `rate` has no
    meaning here, since a step is sent at once.
    """
    step = min(GROUPS, max(1, requests // size))
    source = chance("groups", seed, "requests")
    segments = count(1)
    made: list[Request] = []
    for turn in range(max(1, requests // (step * size))):
        for length in stratified(GROUP_PROMPT, step, source):
            prompt = ((0, GROUP_SYSTEM), (next(segments), length))
            made += [_sample(turn, prompt, source.random(), source.random()) for _ in range(size)]
    return made


def _sample(turn: int, prompt: Prompt, spread: float, uniform: float) -> Request:
    wait = GROUP_SPREAD * spread
    return Request(
        arrival=None if turn else wait,
        gap=wait,
        session="steps",
        turn=turn,
        segments=prompt,
        output_tokens=GROUP_OUTPUT(uniform),
        max_tokens=4_096,
    )


GROWING_HEAD = 8_000
GROWING_WEIGHTS = (8, 4, 2, 1)
GROWING_TURNS = 30
GROWING_FIRST = lognormal(2_000, 2_000, 200, 12_000)
GROWING_OUTPUT = lognormal(350, 400, 20, 3_000)
GROWING_NEW = lognormal(1_000, 2_000, 30, 20_000)
GROWING_THINK = lognormal(8_000, 12_000, 500, 120_000)
"""Milliseconds."""


def growing(*, rate: float = 1.0, requests: int = 1_920, seed: int = 0) -> list[Request]:
    """Sessions of 30 turns whose contexts grow to tens of thousands of tokens, behind four heads.

    Sticky sessions grow unequal, and those that pause hold KV.
    """
    sessions = max(1, requests // GROWING_TURNS)
    starts = poisson(rate / GROWING_TURNS, chance("growing", seed, "arrivals"))
    heads = popular(GROWING_WEIGHTS, chance("growing", seed, "heads"))
    segments = count(len(GROWING_WEIGHTS))
    return [
        request
        for index, (start, head) in islice(enumerate(zip(starts, heads, strict=True)), sessions)
        for request in _growing(f"growing-{index}", start, head, seed, segments)
    ]


def _growing(name: str, start: float, head: int, seed: int, segments: Iterator[int]) -> Iterator[Request]:
    source = chance(name, seed, "session")
    prompt: Prompt = ((head, GROWING_HEAD), (next(segments), GROWING_FIRST(source.random())))
    for turn in range(GROWING_TURNS):
        output, output_segment = GROWING_OUTPUT(source.random()), next(segments)
        yield Request(
            arrival=None if turn else start,
            session=name,
            turn=turn,
            gap=GROWING_THINK(source.random()) / 1000 if turn else 0.0,
            segments=prompt,
            output_tokens=output,
            output_segment=output_segment,
            max_tokens=3_000,
        )
        prompt = (*prompt, (output_segment, output), (next(segments), GROWING_NEW(source.random())))


DRIFT_SETS = 400
DRIFT_PERIOD = 600.0
DRIFT_OWN = 200


def drift(*, rate: float = 1.0, requests: int = 8_000, seed: int = 0) -> list[Request]:
    """Tool use with Zipf's popularity, but every 600 s other tools are the popular ones (at unit rate; scaled with it).

    What was learned of popularity over minutes is wrong after each change.
    """
    lengths = stratified(TOOL_SET, DRIFT_SETS, chance("drift", seed, "sets"))
    weights = [rank**-1.1 for rank in range(1, DRIFT_SETS + 1)]
    ranks = popular(weights, chance("drift", seed, "popularity"))
    outputs = draws(OUTPUT, chance("drift", seed, "output"))
    arrivals = poisson(rate, chance("drift", seed, "arrivals"))
    orders: dict[int, list[int]] = {}
    made: list[Request] = []
    for arrival, rank, output in islice(zip(arrivals, ranks, outputs, strict=True), requests):
        period = int(arrival * rate / DRIFT_PERIOD)
        if period not in orders:
            orders[period] = stratified(lambda u: int(u * DRIFT_SETS), DRIFT_SETS, chance("drift", seed, f"{period}"))
        chose = orders[period][rank]
        own = (DRIFT_SETS + 1 + len(made), DRIFT_OWN)
        prompt = ((0, SYSTEM), (1 + chose, lengths[chose]), own)
        made.append(Request(arrival=arrival, segments=prompt, output_tokens=output, max_tokens=128))
    return made


SPLIT_SHARE = 0.6
SPLIT_AGO = exponential(300)
SPLIT_ADDED = lognormal(600, 600, 16, 6_000)
SPLIT_NEW = lognormal(1_500, 1_200, 64, 12_000)
SPLIT_OUTPUT = lognormal(150, 150, 1, 2_000)


def splits(*, rate: float = 1.0, requests: int = 5_000, seed: int = 0) -> list[Request]:
    """Prompts that begin like an earlier one, up to any token: edges split in odd places, blocks round it off."""
    source = chance("splits", seed, "requests")
    arrivals = poisson(rate, chance("splits", seed, "arrivals"))
    made: list[Request] = []
    for index, arrival in islice(enumerate(arrivals), requests):
        prompt: Prompt = ((index, SPLIT_NEW(source.random())),)
        if made and source.random() < SPLIT_SHARE:
            earlier = made[-1 - min(len(made) - 1, int(SPLIT_AGO(source.random())))]
            kept = cut(earlier.segments, 1 + int(source.random() * earlier.prompt_tokens))
            prompt = (*kept, (index, SPLIT_ADDED(source.random())))
        output = SPLIT_OUTPUT(source.random())
        made.append(Request(arrival=arrival, segments=prompt, output_tokens=output, max_tokens=2_000))
    return made


FORK_PREFIX = 4_000
FORKS = 4
FORK_PATIENCE = 0.2


def forks(*, rate: float = 1.0, requests: int = 2_000, seed: int = 0) -> list[Request]:
    """A prompt of 4,000 tokens goes on in four ways at once, three of which are given up after 0.2 s.

    What was given up must leave load and tree as if it had never been sent.
    """
    source = chance("forks", seed, "requests")
    starts = poisson(rate / (1 + FORKS), chance("forks", seed, "arrivals"))
    return [
        request
        for index, start in islice(enumerate(starts), max(1, requests // (1 + FORKS)))
        for request in _fork(index, start, SPLIT_OUTPUT(source.random()))
    ]


def _fork(index: int, start: float, output: int) -> Iterator[Request]:
    name, base = f"fork-{index}", index * (2 + FORKS)
    trunk = ((base, FORK_PREFIX),)
    yield Request(
        arrival=start, session=name, segments=trunk, output_tokens=output, output_segment=base + 1, max_tokens=2_000
    )
    for branch in range(FORKS):
        yield Request(
            session=name,
            turn=1,
            segments=(*trunk, (base + 1, output), (base + 2 + branch, 50)),
            output_tokens=output,
            max_tokens=2_000,
            cancel_after=FORK_PATIENCE if branch else None,
        )


TENANT_SHARES = (0.280, 0.166, 0.134, 0.063, 0.034, 0.034, 0.025, 0.024, 0.020, 0.020)
TENANTS = 101
TENANT_PREFIX = lognormal(1_500, 1_500, 200, 8_000)
TENANT_BURST = continuous("0:.3 .1:.9 .25:1.1 .5:1.5 .75:3.2 1:4")
"""Coefficient of variation of a tenant's gaps; the recorded ones go to 33, which gamma gaps make one instant of."""
TENANT_INPUT = continuous("0:60 .16:244 .5:690 .84:1952 1:8000")
TENANT_OUTPUT = continuous("0:3 .16:13 .5:66 .84:327 1:1500")


def tenants(*, rate: float = 1.0, requests: int = 6_000, seed: int = 0) -> list[Request]:
    """101 tenants with a system prompt each, of very different size and burstiness: none may starve the others."""
    source = chance("tenants", seed, "tenants")
    shares = [*TENANT_SHARES, *(0.015 * 0.925**rank for rank in range(TENANTS - len(TENANT_SHARES)))]
    prefixes = stratified(TENANT_PREFIX, TENANTS, source)
    bursts = stratified(TENANT_BURST, TENANTS, source)
    span = 1.3 * requests / rate
    made = [
        request
        for tenant, share in enumerate(shares)
        for request in _tenant(tenant, prefixes[tenant], share / sum(shares) * rate, bursts[tenant], span, seed)
    ]
    return sorted(made, key=lambda request: request.arrival or 0.0)[:requests]


def _tenant(tenant: int, prefix: int, rate: float, burst: float, span: float, seed: int) -> Iterator[Request]:
    """One tenant's requests: gaps are of a gamma distribution, sizes exponential around the tenant's mean."""
    source = chance("tenants", seed, f"{tenant}")
    shape = 1 / (burst * burst)
    own, output = exponential(TENANT_INPUT(source.random())), exponential(TENANT_OUTPUT(source.random()))
    now = source.gammavariate(shape, 1 / (rate * shape)) * source.random()
    for index in count():
        if now >= span:
            return
        yield Request(
            arrival=now,
            segments=((tenant, prefix), (TENANTS + tenant * _APART + index, min(8_000, 1 + int(own(source.random()))))),
            output_tokens=min(2_000, 1 + int(output(source.random()))),
            max_tokens=2_000,
        )
        now += source.gammavariate(shape, 1 / (rate * shape))
