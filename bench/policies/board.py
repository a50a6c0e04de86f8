"""What the board leaves behind: one JSON file, written anew after each result, so that a run can be taken up again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec

from bench.report import earlier
from preble.core.policies import POLICIES

OURS = "e2"
PEERS = tuple(name for name in POLICIES if name not in (OURS, "e2-paper"))
"""The rules compared with: all but ours and the paper's own."""
LOADS = (0.5, 0.8, 0.95)
SEEDS = 3
LOWER = ("ttft_mean", "ttft_p50", "ttft_p99", "latency_mean", "latency_p99", "tpot_mean", "imbalance")
HIGHER = ("hit_ratio", "throughput")
METRICS = (*LOWER, *HIGHER)
"""Of a cell: those where less is better, and those where more is. `throughput` is requests finished a second."""


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One policy on one workload at one load: means over the seeds, and `by_seed` the values of each.

    `rate` is what was offered, in requests a second; times are in seconds. `failed` and `moved` count requests of all
    seeds.
    """

    workload: str
    policy: str
    load: float
    rate: float
    requests: int
    failed: int
    moved: int
    ttft_mean: float
    ttft_p50: float
    ttft_p99: float
    latency_mean: float
    latency_p99: float
    tpot_mean: float
    hit_ratio: float
    imbalance: float
    throughput: float
    by_seed: dict[str, list[float]]


class Sustained(msgspec.Struct, frozen=True, kw_only=True):
    """The largest rate in requests a second at which a policy's mean TTFT is within `limit` seconds.

    0 if no rate tried was low enough. `unlimited` if none was too high, so that the rate says nothing: there are too
    few sessions to fill the cluster.
    """

    workload: str
    policy: str
    rate: float
    limit: float
    unlimited: bool = False


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """No policy can beat it: every request alone, all prompts before it cached for ever. Means over the seeds."""

    workload: str
    load: float
    rate: float
    ttft_mean: float
    ttft_p50: float
    ttft_p99: float
    latency_mean: float
    latency_p99: float
    hit_ratio: float


class Board(msgspec.Struct, kw_only=True):
    """All results. `settings` are what they depend on; a run is taken up again only with the same."""

    name: str = "policies"
    date: str
    commit: str | None
    machine: dict[str, Any]
    settings: dict[str, Any]
    sustained: list[Sustained] = []
    bounds: list[Bound] = []
    cells: list[Cell] = []

    def add(self, result: Cell | Sustained | Bound) -> None:
        """Take in a result, in its place, instead of an older one for the same."""
        rows = self._rows(result)
        rows[:] = sorted([row for row in rows if _key(row) != _key(result)] + [result], key=_key)

    def has(self, result: tuple[str, str, float], rate: float) -> bool:
        """Whether there is a cell, or without a policy a bound, of this workload, policy and load, at this rate."""
        rows: list[Any] = [*self.cells, *self.bounds]
        return any(_key(row) == _order(*result) and math.isclose(row.rate, rate) for row in rows)

    def searched(self, workload: str, policy: str) -> bool:
        """Whether it is known what a policy sustains."""
        return any((found.workload, found.policy) == (workload, policy) for found in self.sustained)

    def _rows(self, result: Cell | Sustained | Bound) -> list[Any]:
        if isinstance(result, Cell):
            return self.cells
        return self.sustained if isinstance(result, Sustained) else self.bounds

    def best_rate(self, workload: str) -> float:
        """The rate that the best policy sustains. Raises ValueError if it was not searched."""
        return max(found.rate for found in self.sustained if found.workload == workload)

    def save(self, path: Path) -> None:
        """Write it as JSON, a line per result, without ever leaving half a file."""
        fields = msgspec.to_builtins(self)
        text = ",\n".join(f"{json.dumps(key)}: {_json(value)}" for key, value in fields.items())
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".part")
        draft.write_text("{\n" + text + "\n}\n", encoding="utf-8")
        draft.replace(path)


def read(path: Path) -> Board:
    """Read a board. Raises SystemExit if there is none."""
    return earlier(path, Board)


def _key(row: Cell | Sustained | Bound) -> tuple[str, float, int]:
    return _order(row.workload, getattr(row, "policy", ""), getattr(row, "load", 0.0))


def _order(workload: str, policy: str, load: float) -> tuple[str, float, int]:
    return workload, load, list(POLICIES).index(policy) if policy else -1


def _json(value: Any) -> str:
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join("  " + json.dumps(row, allow_nan=False) for row in value) + "\n]"
    return json.dumps(value, allow_nan=False)
