"""The cases: workloads and recorded traces, each with the cluster that serves it and the size of a cell."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import msgspec

from bench.workloads import WORKLOADS
from preble.simulate import Request, SimOptions
from preble.simulate.traces import load

FARTHEST = 32.0
"""How far from a case's rate a search goes, as a factor."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One workload as the board runs it.

    `requests` are those of a cell. The search for saturation begins at `rate` requests a second (closed loops: session
    starts times mean turns). A `batch` is sent at once: there is no rate to search, and its load is its size. A trace
    has a `file` of a `format` and the `pace` in requests a second at which it was recorded.
    """

    requests: int
    rate: float = 1.0
    workers: int = 4
    kv_tokens: int = 198_512
    batch: bool = False
    file: str | None = None
    format: str = "segments"
    pace: float = 1.0

    @property
    def lowest(self) -> float:
        """The lowest rate of a search: what cannot sustain it counts as if it could only just."""
        return self.rate / FARTHEST

    @property
    def highest(self) -> float:
        """The highest rate of a search: sessions then begin all at once, and a higher one would change nothing."""
        return self.rate * FARTHEST

    @property
    def options(self) -> SimOptions:
        """One worker's engine: Mistral 7B on an A6000, with contexts to 128k."""
        return SimOptions(kv_tokens=self.kv_tokens, context_limit=131_072, cost="mistral-7b-a6000")


# Rates are near what was sustained when this was written; a search that starts elsewhere only takes longer. Sessions
# with long pauses get fewer workers: as many as are open at once must be able to fill them, or no rate is too high.
GENERATED = {
    "toolbench": Case(requests=2_000, rate=45.0),
    "alfworld": Case(requests=1_500, rate=110.0),
    "programming": Case(requests=1_000, rate=20.0),
    "videoqa": Case(requests=1_500, rate=5.0),
    "loogle": Case(requests=986, rate=1.5),
    "mixed": Case(requests=1_500, rate=3.2),
    "chat": Case(requests=500, rate=3.2, workers=8),
    "coding": Case(requests=600, rate=0.5, workers=2),
    "airline": Case(requests=3_600, rate=40.0, workers=2),
    "hot-prefix": Case(requests=2_000, rate=28.0),
    "cold": Case(requests=800, rate=14.0),
    "groups": Case(requests=1_024, batch=True),
    "growing": Case(requests=960, rate=1.0),
    "drift": Case(requests=2_000, rate=43.0),
    "splits": Case(requests=1_200, rate=25.0),
    "forks": Case(requests=1_000, rate=30.0),
    "tenants": Case(requests=1_500, rate=7.7),
}

RECORDED = {
    "trace-mooncake": Case(
        requests=500, rate=3.0, workers=8, file="mooncake/conversation_0-40min.jsonl.gz", format="blocks", pace=3.27
    ),
    "trace-agents": Case(
        requests=600,
        rate=0.5,
        workers=2,
        file="agent_coding/claude_code_128k.jsonl.gz",
        format="agents",
        pace=40.7 / 60,
    ),
    "trace-toolbench-zipf": Case(requests=2_000, rate=45.0, file="preble5_ref4/toolbench_zipf1.1.seg.jsonl.gz"),
    "trace-toolbench-even": Case(requests=2_000, rate=45.0, file="preble5_ref4/toolbench_even.seg.jsonl.gz"),
    "trace-alfworld": Case(requests=1_500, rate=110.0, file="preble5_ref4/alfworld_envid.seg.jsonl.gz"),
    "trace-programming": Case(requests=1_000, rate=20.0, file="preble5_ref4/programming.seg.jsonl.gz"),
    "trace-videoqa": Case(requests=1_500, rate=5.0, file="preble5_ref4/videoqa.seg.jsonl.gz"),
    "trace-loogle": Case(requests=986, rate=1.5, file="preble5_ref4/loogle.seg.jsonl.gz"),
}


def cases(traces: Path | None = None) -> dict[str, Case]:
    """Return all cases by name: the generated ones, and those whose file is found below `traces`."""
    found = {
        name: msgspec.structs.replace(case, file=str(traces / str(case.file)))
        for name, case in (RECORDED.items() if traces else ())
        if traces and (traces / str(case.file)).exists()
    }
    return GENERATED | found


def workload(name: str, case: Case, *, rate: float, requests: int, seed: int) -> list[Request]:
    """Return the requests of one run: the same for the same arguments."""
    if case.file is None:
        return WORKLOADS[name](rate=rate, requests=requests, seed=seed)
    return [
        msgspec.structs.replace(request, arrival=request.arrival * case.pace / rate)
        if request.arrival is not None
        else request
        for request in window(_trace(case.file, case.format), requests, seed)
    ]


def window(trace: Sequence[Request], count: int, seed: int) -> list[Request]:
    """Return about `count` requests of a trace, whole sessions, beginning elsewhere in it for each seed.

    It goes on at the trace's beginning after its end. Times count from the window's first.
    """
    sessions = _sessions(trace)
    before = list(accumulate(map(len, sessions), initial=0))
    begin = next(index for index, place in enumerate(before) if place >= seed * count % len(trace))
    span = (sessions[-1][0].arrival or 0.0) - (sessions[0][0].arrival or 0.0)
    order = [(session, 0.0) for session in sessions[begin:]] + [(session, span) for session in sessions[:begin]]
    sizes = accumulate((len(session) for session, _ in order), initial=0)
    taken = [pair for pair, size in zip(order, sizes, strict=False) if size < count]
    start = (taken[0][0][0].arrival or 0.0) + taken[0][1]
    return [_later(request, shift - start) for session, shift in taken for request in session]


def _sessions(trace: Sequence[Request]) -> list[list[Request]]:
    """Sessions by first arrival; a request without one is a session of its own."""
    sessions: dict[str | int, list[Request]] = {}
    for index, request in enumerate(trace):
        sessions.setdefault(index if request.session is None else request.session, []).append(request)
    return sorted(sessions.values(), key=lambda session: session[0].arrival or 0.0)


def _later(request: Request, seconds: float) -> Request:
    if request.arrival is None:
        return request
    return msgspec.structs.replace(request, arrival=request.arrival + seconds)


@lru_cache(maxsize=2)
def _trace(file: str, format: str) -> tuple[Request, ...]:
    return tuple(load(file, format))
