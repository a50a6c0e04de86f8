"""Which results there are to be had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.policies.board import PEERS, Board
from bench.policies.cases import Case
from bench.policies.measure import Job
from preble.wait_queue.disciplines import DEFAULT, Discipline


class Plan:
    """Which jobs there are, in three parts of which each needs the results of the one before.

    The first policy leads: searches for what the others sustain start at what it does. `peers_queue` orders the queues
    of the peers' workers.
    """

    def __init__(
        self,
        cases: Mapping[str, Case],
        policies: Sequence[str],
        loads: Sequence[float],
        seeds: int,
        requests: int | None = None,
        peers_queue: Discipline = DEFAULT,
    ) -> None:
        self._cases = cases
        self._leader, *self._others = policies
        self._loads = loads
        self._seeds = tuple(range(seeds))
        self._requests = requests
        self._queues: dict[str | None, Discipline] = {"e2-paper": "groups", **dict.fromkeys(PEERS, peers_queue)}
        self._peers_queue = peers_queue

    @property
    def settings(self) -> dict[str, Any]:
        """What results depend on."""
        cases = {
            name: {
                "requests": self._requests or case.requests,
                "workers": case.workers,
                "kv_tokens": case.kv_tokens,
            }
            for name, case in self._cases.items()
        }
        return {"seeds": list(self._seeds), "peers_queue": self._peers_queue, "cases": cases}

    def first(self, _: Board) -> list[Job]:
        """What the leader sustains."""
        return [self._job(name, case.rate, self._leader) for name, case in self._cases.items()]

    def others(self, board: Board) -> list[Job]:
        """What the others sustain."""
        return [
            self._job(name, board.best_rate(name) or case.rate, policy)
            for name, case in self._cases.items()
            for policy in self._others
        ]

    def cells(self, board: Board) -> list[Job]:
        """Cells and bounds."""
        return [
            self._job(name, max(board.best_rate(name), case.lowest) * load, policy, load)
            for name, case in self._cases.items()
            for load in self._loads
            for policy in (None, self._leader, *self._others)
        ]

    def _job(self, name: str, rate: float, policy: str | None, load: float | None = None) -> Job:
        case = self._cases[name]
        return Job(
            workload=name,
            case=case,
            requests=self._requests or case.requests,
            seeds=self._seeds,
            rate=rate,
            policy=policy,
            load=load,
            queue=self._queues.get(policy, DEFAULT),
        )


def known(board: Board, job: Job) -> bool:
    """Whether a board has the result of a job."""
    if job.load is None:
        return board.searched(job.workload, str(job.policy))
    return board.has((job.workload, job.policy or "", job.load), job.rate)
