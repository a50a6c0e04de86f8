"""What can go wrong with the workers of a cluster, and how it is undone."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from preble.pytest_plugin.facade import Cluster
from preble.testing import Faults


class Chaos:
    """Breaks workers of one cluster. Without a name it is the first worker that is not lost; its name is returned.

    `kill` and `stop` are for workers in this process and for processes; `slow` and `refuse` for those in this process.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._stopped: list[int] = []

    def kill(self, worker: str | None = None) -> str:
        """Kill a worker and return when the cluster knows: its requests go on elsewhere."""
        name = self._name(worker)
        if self._cluster.faults is None:
            for pid in self._pids(name):
                os.kill(pid, signal.SIGKILL)
        else:
            self._tell(Faults.kill, name)
        self._cluster.wait(lambda: name not in self._cluster.workers, f"{name} is lost")
        return name

    def stop(self, worker: str | None = None) -> str:
        """Let a worker say nothing more. Its requests wait, or go on elsewhere after the cluster's `idle_timeout`."""
        name = self._name(worker)
        if self._cluster.faults is None:
            for pid in self._pids(name):
                os.kill(pid, signal.SIGSTOP)
                self._stopped.append(pid)
        else:
            self._tell(Faults.stop, name)
        return name

    def slow(self, worker: str | None = None, *, seconds: float = 0.05) -> str:
        """Let a worker wait for so many seconds before each token."""
        return self._tell(Faults.slow, self._name(worker), seconds)

    def refuse(self, worker: str | None = None) -> str:
        """Let a worker fail each new request, which then goes elsewhere."""
        return self._tell(Faults.refuse, self._name(worker))

    def undo(self) -> None:
        """Let all workers be well. Those that are lost, or that the cluster avoids, are replaced by new ones."""
        for pid in self._stopped:
            os.kill(pid, signal.SIGCONT)
        self._stopped.clear()
        if self._cluster.faults is not None:
            self._cluster.run(_called(self._cluster.faults.heal))
        for each in self._cluster.stats().workers:
            if each.status not in ("serving", "full"):
                self._cluster.run(self._cluster.cluster.add_worker())
                self._cluster.run(self._cluster.cluster.remove_worker(each.worker))

    def _tell(self, fault: Callable[..., None], worker: str, *arguments: Any) -> str:
        if self._cluster.faults is None:
            raise ValueError(f"{fault.__name__}: is for workers in this process, as --preble-backend=sim has them")
        self._cluster.run(_called(fault, self._cluster.faults, worker, *arguments))
        return worker

    def _name(self, worker: str | None) -> str:
        serving = self._cluster.workers
        if worker is None and serving:
            return serving[0]
        if worker not in serving:
            raise ValueError(f"no worker {worker!r}, of {', '.join(serving) or 'none'}")
        return worker

    def _pids(self, worker: str) -> list[int]:
        """The worker itself, below its supervisor."""
        supervisor = self._cluster.cluster.worker_pids()[worker]
        children = Path(f"/proc/{supervisor}/task").glob("*/children")
        return [int(pid) for each in children for pid in each.read_text().split()]


async def _called(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)
