"""The workloads of simulations, made small enough for a small model, at a pace that the machine can follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from bench.workloads import WORKLOADS
from preble.backends.sim import SimOptions
from preble.core.cost import cost_model
from preble.simulate import Request, simulate

STEPS = 8


class Small(msgspec.Struct, frozen=True):
    """A generator, and what its prompts and outputs are divided by."""

    make: Callable[..., list[Request]]
    prompts: int
    outputs: int


LIVE = {
    "toolbench": Small(partial(WORKLOADS["toolbench"], sets=40), 2, 2),
    "loogle": Small(WORKLOADS["loogle"], 16, 2),
    "programming": Small(WORKLOADS["programming"], 4, 8),
    "airline": Small(WORKLOADS["airline"], 8, 4),
    "growing": Small(WORKLOADS["growing"], 16, 16),
    "hot-prefix": Small(WORKLOADS["hot-prefix"], 4, 2),
}
"""Prompts of a thousand tokens or so; airline and growing are closed loops."""


def workload(name: str, requests: int, seed: int) -> list[Request]:
    """Return a small workload of at most so many requests, at the generator's own pace."""
    small = LIVE[name]
    return scaled(small.make(requests=requests, seed=seed)[:requests], small.prompts, small.outputs)


def scaled(requests: Sequence[Request], prompts: int, outputs: int) -> list[Request]:
    """Divide the segments of prompts, and outputs wherever they stand, by so much; none becomes empty.

    What was shared still is: a segment is divided alike wherever it stands. Schedulers are told the true outputs,
    since those are what is asked for live.
    """
    generated = {request.output_segment for request in requests if request.output_segment is not None}

    def small(request: Request) -> Request:
        parts = tuple(
            (name, _part(count, outputs if name in generated else prompts)) for name, count in request.segments
        )
        output = _part(request.output_tokens, outputs)
        return msgspec.structs.replace(request, segments=parts, output_tokens=output, max_tokens=output)

    return [small(request) for request in requests]


def stretched(requests: Sequence[Request], factor: float) -> list[Request]:
    """Multiply arrivals and gaps by `factor`."""
    return [
        msgspec.structs.replace(
            request, arrival=None if request.arrival is None else request.arrival * factor, gap=request.gap * factor
        )
        for request in requests
    ]


def paced(
    requests: Sequence[Request], utilisation: float, *, workers: int, options: SimOptions, policy: str = "round-robin"
) -> list[Request]:
    """Stretch time until simulated workers compute for this part of it under `policy`."""
    cost = cost_model(options.cost)
    work = sum(cost.prefill(request.prompt_tokens, request.prompt_tokens) for request in requests)
    factor = 1.0
    last = max(request.arrival or 0.0 for request in requests)
    if last > 0:
        factor = work / (workers * utilisation * last)
    for _ in range(STEPS):
        found = simulate(stretched(requests, factor), policy=policy, workers=workers, options=options).summary()
        factor *= found.utilisation / utilisation
    return stretched(requests, factor)


def lasting(requests: Sequence[Request], seconds: float) -> list[Request]:
    """Stretch time until the last request is due after so many seconds, if those before it take none."""
    ends: dict[str | int, float] = {}
    for number, request in enumerate(requests):
        name = number if request.session is None else request.session
        ends[name] = ends.get(name, 0.0) + request.gap if request.arrival is None else request.arrival
    return stretched(requests, seconds / max(ends.values()))


def _part(count: int, divisor: int) -> int:
    return max(1, round(count / divisor))
