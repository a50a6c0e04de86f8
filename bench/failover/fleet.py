"""Clusters of three workers of which the first is bad: replicas behind URLs, or processes."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

from bench.failover.engine import fleet_options, received
from bench.failover.kinds import REPLICAS, WORKERS
from bench.failover.replica import Replica
from preble import PrebleCluster, WorkerEvent

COUNT, BAD = 3, 0
"""Workers of a fleet, and which of them is bad."""
IDLE_TIMEOUT = 1.0
COST = "mistral-7b-a100"
ENGINE = {"cost": COST, "time_scale": 1.0, "kv_tokens": 100_000}
REPLICA = {"cost": COST, "vocab_size": 32_000, "health_interval": 0.25, "health_timeout": 0.5}


class Watch:
    """How many requests each of the three got so far (`sent()`), and the bad one until it was left out."""

    def __init__(self) -> None:
        self.sent: Callable[[], Sequence[int]] = lambda: [0] * COUNT
        self.before_left_out: int | None = None

    def hear(self, event: WorkerEvent) -> None:
        """Take in an event of the cluster: the first circuit breaker that opens, or the first loss, counts."""
        if event.kind in ("opened", "lost") and self.before_left_out is None:
            self.before_left_out = self.sent()[BAD]


@asynccontextmanager
async def replicas(kind: str, policy: str, watch: Watch) -> AsyncIterator[PrebleCluster]:
    """A cluster of three replicas in this event loop."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(Replica(**ENGINE)) for _ in range(COUNT)]
        watch.sent = lambda: [server.received for server in servers]
        urls = [server.url for server in servers]
        cluster = PrebleCluster.connect(
            urls, policy=policy, engine_options=REPLICA, idle_timeout=IDLE_TIMEOUT, on_event=watch.hear
        )
        await stack.enter_async_context(cluster)
        servers[BAD].fault = REPLICAS[kind]
        yield cluster


@asynccontextmanager
async def workers(kind: str, policy: str, watch: Watch) -> AsyncIterator[PrebleCluster]:
    """A cluster of three processes."""
    with tempfile.TemporaryDirectory() as folder:
        watch.sent = lambda: received(Path(folder))
        async with PrebleCluster(
            backend="bench.failover.engine:FaultyEngine",
            workers=COUNT,
            policy=policy,
            cost=COST,
            engine_options=fleet_options(Path(folder), WORKERS[kind], COUNT, **ENGINE),
            idle_timeout=IDLE_TIMEOUT,
            on_event=watch.hear,
        ) as cluster:
            yield cluster


FLEETS: dict[str, Callable[[str, str, Watch], AbstractAsyncContextManager[PrebleCluster]]] = {
    "replicas": replicas,
    "workers": workers,
}
