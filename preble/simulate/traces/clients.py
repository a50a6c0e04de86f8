"""ServeGen: not a trace but its clients, of which requests are drawn."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from preble.errors import ConfigurationError
from preble.simulate.request import Request
from preble.simulate.traces.files import UNNAMED, named_rows

WINDOW = 600.0
"""Seconds of a window."""
PREFIX_MEAN, PREFIX_DEVIATION, PREFIX_RANGE = 1_500.0, 1_500.0, (200, 8_000)
"""Tokens of a client's prefix: log-normal, clipped. An assumption, the source has no prefixes."""
INPUT_MEAN, OUTPUT_MEAN = 690.0, 66.0
"""Of clients whose means are missing: the median client's."""
LONGEST_INPUT, LONGEST_OUTPUT = 32_000, 4_000

Window = dict[str, str]


def servegen(
    path: str | Path,
    *,
    speed: float = 1.0,
    rate: float = 10.0,
    begin: float = 0.0,
    seconds: float = 1_800.0,
    seed: int = 0,
) -> list[Request]:
    """Client windows, CSV: `client,window_start_s,rate_rps,iat_cv,fit,p1,p2,input_mean,output_mean`.

    Takes the windows that start in [begin, begin + seconds) and scales all rates alike, to `rate` requests a second on
    average. In a window a client's gaps are Gamma or Weibull of the fitted shape, with the mean that its rate says: the
    published scales can be off by a factor of two. Sizes are exponential around the client's means. The source has no
    prefixes: each client is taken for one tenant, whose name is the session and whose prompts begin with a prefix of
    its own, so affinity to tenants is what there is to gain. Raises ConfigurationError if there are no such windows.
    """
    clients: dict[str, list[Window]] = defaultdict(list)
    for row in named_rows(path):
        if begin <= float(row["window_start_s"]) < begin + seconds:
            clients[row["client"]].append(row)
    total = sum(float(window["rate_rps"]) for windows in clients.values() for window in windows) * WINDOW / seconds
    if not total:
        raise ConfigurationError(f"{path}: no windows from {begin:g} s to {begin + seconds:g} s")
    made = [
        request
        for tenant, (client, windows) in enumerate(sorted(clients.items()))
        for request in _client(tenant, client, windows, begin, speed, rate / total, seed)
    ]
    return sorted(made, key=lambda request: request.arrival or 0.0)


def _client(
    tenant: int, client: str, windows: list[Window], begin: float, speed: float, factor: float, seed: int
) -> Iterator[Request]:
    source = random.Random(f"servegen:{seed}:{client}")  # noqa: S311  not for secrets
    prefix, number = _prefix(source), 0
    for window in windows:
        own, output = float(window["input_mean"] or INPUT_MEAN), float(window["output_mean"] or OUTPUT_MEAN)
        for time in _arrivals(window, factor, source):
            name = UNNAMED + (tenant << 24) + number
            yield Request(
                arrival=(float(window["window_start_s"]) - begin + time) / speed,
                session=f"client-{client}",
                segments=((tenant, prefix), (name, _size(own, LONGEST_INPUT, source))),
                output_tokens=_size(output, LONGEST_OUTPUT, source),
            )
            number += 1


def _arrivals(window: Window, factor: float, source: random.Random) -> Iterator[float]:
    """Times within a window. The first gap began somewhere before it."""
    mean, shape = 1 / (factor * float(window["rate_rps"])), float(window["p1"])
    now = -source.random() * _gap(window["fit"], shape, mean, source)
    while (now := now + _gap(window["fit"], shape, mean, source)) < WINDOW:
        if now >= 0:
            yield now


def _gap(fit: str, shape: float, mean: float, source: random.Random) -> float:
    if fit == "Gamma":
        return source.gammavariate(shape, mean / shape)
    if fit == "Weibull":
        return source.weibullvariate(mean / math.gamma(1 + 1 / shape), shape)
    raise ValueError(f"fit: {fit!r}, not Gamma or Weibull")


def _prefix(source: random.Random) -> int:
    variance = math.log1p((PREFIX_DEVIATION / PREFIX_MEAN) ** 2)
    drawn = source.lognormvariate(math.log(PREFIX_MEAN) - variance / 2, math.sqrt(variance))
    low, high = PREFIX_RANGE
    return round(min(max(drawn, low), high))


def _size(mean: float, most: int, source: random.Random) -> int:
    return min(most, 1 + int(source.expovariate(1 / mean)))
