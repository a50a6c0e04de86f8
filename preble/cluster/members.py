"""Which workers a cluster has: what each can do, and what was decided of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial

from preble.backends import EngineInfo
from preble.cluster.driver import Driver
from preble.core.cost import CostModel
from preble.core.scheduler import Scheduler
from preble.errors import InvalidRequestError, WorkerLostError
from preble.workers.pool import Listener, Pool


class _Member:
    """One worker, or a replica that is lost and awaited."""

    def __init__(self, info: EngineInfo, namespaces: Collection[str] | None) -> None:
        self.info = info
        self.namespaces = namespaces
        self.drained = False


class Members:
    """The workers, told to the scheduler; `bound` is called with what they can do when that changes.

    Their steps are priced by `cost` until more is known, by each engine's own preset if that is None.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        driver: Driver,
        cost: CostModel | str | None,
        bound: Callable[[Iterable[EngineInfo]], None],
    ) -> None:
        self._bound = bound
        self._scheduler = scheduler
        self._driver = driver
        self._cost = cost
        self._members: dict[str, _Member] = {}

    def add(
        self, infos: Mapping[str, EngineInfo], namespaces: Collection[str] | None = None, *, drained: bool = False
    ) -> None:
        """Give these workers requests, of `namespaces` only unless that is None. Raises ConfigurationError.

        If they are `drained`, they get none.
        """
        for worker, info in infos.items():
            self._scheduler.add_worker(
                worker,
                kv_tokens=info.kv_tokens,
                block_size=info.block_size,
                cost=self._cost or info.cost,
                max_batched_tokens=info.max_batched_tokens,
                discipline=info.discipline,
                reports_evictions=info.reports_evictions,
                reports_steps=info.reports_steps,
                namespaces=namespaces,
                context_limit=min(info.context_limit, info.kv_tokens),
                now=asyncio.get_running_loop().time(),
            )
            self._members[worker] = _Member(info, namespaces)
            if drained:
                self.drain(worker)
        self._changed()
        for worker in infos:
            self._driver.on_added(worker)

    def listener(self, pool: Pool) -> Listener:
        """What `pool` calls. It does not refer to the cluster, which would live as long as its event loop then."""
        return Listener(
            on_step=self._driver.on_step,
            on_failed=self._driver.on_failed,
            on_lost=partial(self._lost, pool),
            on_found=self.found,
            on_stopping=self.drain,
        )

    def found(self, worker: str, info: EngineInfo) -> None:
        """A lost replica is back, to serve what it served, or one that was not there at the start has come."""
        before = self._members.get(worker)
        if before is None:
            self.add({worker: info})
        else:
            self.add({worker: info}, before.namespaces, drained=before.drained)

    def drain(self, worker: str) -> None:
        """Give a worker no more requests. Raises ConfigurationError if it is not here."""
        self._driver.drain(worker)
        self._members[worker].drained = True

    def forget(self, worker: str) -> None:
        """A worker that the scheduler does not know does not come back."""
        self._members.pop(worker, None)
        if self._members:  # else requests find no worker, whatever their length
            self._changed()

    def infos(self) -> dict[str, EngineInfo]:
        """Return what each worker's engine said of itself."""
        return {worker: member.info for worker, member in self._members.items()}

    def check_adapter(self, name: str, backend: str) -> None:
        """Raise InvalidRequestError for an adapter that one of the engines of this `backend` does not have."""
        for member in self._members.values():
            adapters = member.info.adapters
            if name and adapters is not None and name not in adapters:
                known = ", ".join(adapters) or "none"
                raise InvalidRequestError(f"the {backend} engine has no {name!r}, but {known}", field="lora")

    def _lost(self, pool: Pool, worker: str, error: WorkerLostError) -> None:
        returns = pool.awaits(worker)
        self._driver.on_lost(worker, error, returns=returns)
        if not returns:
            self.forget(worker)

    def _changed(self) -> None:
        self._bound(member.info for member in self._members.values())
