"""What the steps of an engine cost: traffic of all shapes on all workers at once, and a cost model fitted to it.

The workers are kept busy together, as in the run to come, so that what they take from each other (memory bandwidth,
caches, cores) is in their times. The timings are those that workers report, read from the cluster's decision log.
"""

from __future__ import annotations

import asyncio
import math
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path

import msgspec
import numpy as np

from bench.live.fitting import fitted, predicted
from bench.live.playing import Record, serve
from bench.live.setting import Setting
from preble import PrebleCluster
from preble.core.cost import CostModel, StepTiming
from preble.core.log import Observe, decode
from preble.errors import ConfigurationError
from preble.simulate import Request
from preble.simulate.request import Segment
from preble.worker import HEARTBEAT

LOADS = (1, 2, 4, 8)
"""Requests at once on each worker, phase after phase."""
WARMING = 8
"""Requests for each worker before anything is measured."""
HEADS = 8
SHORTEST = 4
LONGEST_OUTPUT = 24


class Calibration(msgspec.Struct, frozen=True):
    """A fitted cost model, the seconds that a request spends outside of its engine, and how well the model fits.

    `delay` is the median TTFT of tiny requests that had an engine to themselves less the median of their steps.
    `error` is the mean of |predicted - measured| over the mean step; `steps` is the number of steps fitted to.
    """

    cost: CostModel
    delay: float
    error: float
    steps: int


async def calibrate(
    setting: Setting, *, requests: int, longest: int, seed: int, done: Callable[[], object]
) -> Calibration:
    """Start a cluster, play `requests` prompts of up to `longest` tokens at each of LOADS, and fit.

    `done` is called after each request, of which there are (1 + len(LOADS)) * `requests`. Raises ConfigurationError if
    the engine does not report what its steps take.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        async with setting.cluster("least-loaded", decision_log=log) as cluster:
            phase = partial(serve, cluster, vocabulary=setting.vocabulary, done=done)
            moments = [await warmed(cluster, setting, seed)]
            tiny = await phase(alone(setting.workers, requests, seed + 1))
            moments.append(await _quiet())
            for load in LOADS:
                await phase(traffic(load * setting.workers, requests, longest, seed + 1 + load))
            await _quiet()
        small, steps = timings(log, moments[0], moments[1]), timings(log, moments[1])
    if not small or not steps:
        raise ConfigurationError(f"backend: {setting.backend!r} does not report what its steps take")
    return _calibration(tiny, small, steps)


async def warmed(cluster: PrebleCluster, setting: Setting, seed: int) -> float:
    """Let engines do once what the first requests would wait for; return the time, of the cluster's clock.

    Nothing of it stays cached. Round robin is where it began, for every worker gets as many requests.
    """
    requests = traffic(setting.workers, WARMING * setting.workers, setting.max_batched_tokens, seed)
    await serve(cluster, requests, setting.vocabulary, bool)
    await cluster.reset_cache()
    return await _quiet()


def _calibration(tiny: Sequence[Record], small: Sequence[StepTiming], steps: Sequence[StepTiming]) -> Calibration:
    cost = fitted(steps)
    seconds = np.array([timing.seconds for timing in steps])
    ttft, step = (statistics.median(times) for times in ([r.ttft for r in tiny], [t.seconds for t in small]))
    error = float(np.abs(predicted(cost, steps) - seconds).sum() / seconds.sum())
    return Calibration(cost, max(0.0, ttft - step), error, len(steps))


async def _quiet() -> float:
    """Wait until workers have reported all their steps; return the time, of the cluster's clock."""
    await asyncio.sleep(2 * HEARTBEAT)
    return asyncio.get_running_loop().time()


def timings(log: Path, begin: float = 0.0, end: float = math.inf) -> list[StepTiming]:
    """Return what workers reported between two times of the cluster's clock, from its decision log."""
    with log.open("rb") as lines:
        events = [decode(line) for line in lines if b'"observe"' in line[:32]]
    found = (event for event in events if isinstance(event, Observe) and begin < event.now <= end)
    return [timing for event in found for timing in event.timings]


def alone(sessions: int, requests: int, seed: int) -> list[Request]:
    """Return closed loops of prompts of a few tokens, each answered by one step."""
    own = [((index + HEADS + (seed << 20), SHORTEST),) for index in range(requests)]
    return [_turn(index, sessions, prompt, 1) for index, prompt in enumerate(own)]


def traffic(sessions: int, requests: int, longest: int, seed: int) -> list[Request]:
    """Return closed loops without pauses: prompts of up to `longest` tokens, half of them behind one of a few heads.

    Lengths are log-uniform, of heads and of what follows them alike.
    """
    source, segments = random.Random(seed), count(HEADS)
    heads = [(head, round(longest * (head + 1) / (HEADS + 1))) for head in range(HEADS)]
    made = []
    for index in range(requests):
        head = (source.choice(heads),) if source.random() < 0.5 else ()
        room = longest - sum(length for _, length in head)
        own = round(math.exp(source.uniform(math.log(SHORTEST), math.log(room))))
        prompt = (*head, (next(segments) + (seed << 20), own))
        made.append(_turn(index, sessions, prompt, source.randint(1, LONGEST_OUTPUT)))
    return made


def _turn(index: int, sessions: int, prompt: tuple[Segment, ...], output: int) -> Request:
    session, turn = index % sessions, index // sessions
    arrival = None if turn else 0.0
    return Request(arrival=arrival, session=f"{session}", turn=turn, segments=prompt, output_tokens=output)
