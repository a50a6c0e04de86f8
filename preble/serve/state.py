"""`GET /health` and `GET /metrics`: how the workers are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from starlette.requests import Request

from preble.serve.endpoint import Answer
from preble.serve.served import Served
from preble.types import ClusterStats

_HEALTHY = {"serving", "full", "half_open"}
_TEXT = "text/plain; version=0.0.4; charset=utf-8"


async def health(served: Served, request: Request, raw: bytes) -> Answer:
    """Answer 200 if some worker makes progress, else 503.

    A worker that has requests and returns nothing for too long counts as `open`: the cluster watches that.
    """
    workers = {worker.worker: worker.status for worker in served.cluster.stats().workers}
    healthy = any(status in _HEALTHY for status in workers.values())
    return Answer({"status": "ok" if healthy else "unhealthy", "workers": workers}, 200 if healthy else 503)


async def metrics(served: Served, request: Request, raw: bytes) -> Answer:
    """Answer in Prometheus' text format."""
    return Answer("".join(lines(served.cluster.stats())).encode(), media_type=_TEXT)


def lines(stats: ClusterStats) -> Iterator[str]:
    """Yield the lines of the metrics. Labels name workers, states and kinds of errors, never requests or prompts."""
    counters = stats.counters
    for name in counters.__struct_fields__:
        yield from _metric(f"{name}_total", "counter", [("", getattr(counters, name))])
    for name in ("in_flight", "waiting", "tree_nodes", "tree_tokens"):
        yield from _metric(name, "gauge", [("", getattr(stats, name))])
    for name in ("load", "requests", "held_tokens", "kv_tokens", "running", "waiting", "used_tokens", "uptime"):
        own = [(_labels(worker=each.worker), getattr(each, name)) for each in stats.workers]
        yield from _metric(f"worker_{name}", "gauge", own)
    for name in ("finished", "cached_tokens", "uncached_tokens", "restarts"):
        own = [(_labels(worker=each.worker), getattr(each, name)) for each in stats.workers]
        yield from _metric(f"worker_{name}_total", "counter", own)
    states = [(_labels(worker=each.worker, state=each.status), 1) for each in stats.workers]
    yield from _metric("worker_state", "gauge", states)
    errors = [(_labels(worker=w.worker, kind=kind), count) for w in stats.workers for kind, count in w.errors.items()]
    yield from _metric("worker_errors_total", "counter", errors)


def _metric(name: str, kind: str, values: Iterable[tuple[str, float]]) -> Iterator[str]:
    yield f"# TYPE preble:{name} {kind}\n"
    for labels, value in values:
        yield f"preble:{name}{labels} {value}\n"


def _labels(**labels: str) -> str:
    escaped = {
        name: value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for name, value in labels.items()
    }
    inside = ",".join(f'{name}="{value}"' for name, value in escaped.items())
    return f"{{{inside}}}"
