"""What is run: clusters, workloads with their rates, and who schedules. Data only."""

from __future__ import annotations

from typing import Any

import msgspec

from preble.backends.sim import SimOptions
from preble.core.cost import CostModel
from preble.core.policies import POLICIES
from preble.core.policy import Policy
from preble.wait_queue.disciplines import DEFAULT, Discipline


class Cluster(msgspec.Struct, frozen=True):
    """Engines alike; `size` is the size of the workloads that are run on it."""

    name: str
    title: str
    workers: int
    engine: SimOptions
    size: str


class Cell(msgspec.Struct, frozen=True):
    """One workload on one cluster at one rate, in requests per second; `arguments` are the generator's own."""

    label: str
    workload: str
    cluster: Cluster
    rate: float
    requests: int
    arguments: dict[str, Any] = {}

    @property
    def panel(self) -> str:
        """Workload and cluster."""
        return f"{self.label}_{self.cluster.name}"

    @property
    def name(self) -> str:
        """What metrics call it."""
        return f"{self.panel}_{self.rate:g}"


class Contender(msgspec.Struct, frozen=True):
    """A policy with its switches, the order of the workers' queues, and options of the engine that differ."""

    name: str
    policy: str
    discipline: Discipline = "groups"
    switches: dict[str, Any] = {}
    engine: dict[str, Any] = {}

    def built(self) -> Policy:
        """A new policy."""
        return POLICIES[self.policy](**self.switches)


A6000 = SimOptions(kv_tokens=198_516, cost="mistral-7b-a6000")
H100_KV_TOKENS = 370_000
"""An estimate, for one replica on 4 H100 of 80 GB: 82 % of the memory (SGLang's share under tensor parallel 4) less
141.1 GB of weights is 121.3 GB; a token has 80 layers x 8 heads x 128 x 2 (key, value) x 2 bytes = 327,680 bytes."""
H100_COST = CostModel(
    pieces=((0, 18.667307, 0.0798791, 0.0),),
    attention_context=4.9e-5,
    extra_context=0.002685316 - 4.9e-5,
    extra_product=7.44345e-7,
)
"""Prefill as published, for tensor parallel 2: there are no constants for 4, nor for decode. A decode is taken as the
prefill of one token, but reads its context at the memory's bandwidth, 163,840 bytes per token and GPU at 3.35 TB/s:
by the published slope, fitted to prefills, it would be 55 times as slow, and no policy could serve these rates."""
H100 = SimOptions(kv_tokens=H100_KV_TOKENS, cost=H100_COST)

TWO = Cluster("2xa6000", "2 A6000, Mistral-7B", 2, A6000, "2-gpu")
FOUR = Cluster("4xa6000", "4 A6000, Mistral-7B", 4, A6000, "4-gpu")
EIGHT = Cluster("8xh100", "8 H100 (2 replicas), Llama-3-70B", 2, H100, "4-gpu")
CLUSTERS = (TWO, FOUR, EIGHT)

REQUESTS = {
    "toolbench": (5_400, 10_800),
    "alfworld": (4_480, 8_960),
    "programming": (1_875, 3_750),
    "videoqa": (1_259, 2_518),
    "loogle": (493, 986),
}
"""What the authors ran on 2 GPUs, and twice that for the others."""
ARGUMENTS: dict[str, dict[str, dict[str, Any]]] = {
    "toolbench": {
        "2-gpu": {"popularity": "even", "sets": 200},
        "4-gpu": {"popularity": "even", "sets": 400},
    },
    "alfworld": {"2-gpu": {}, "4-gpu": {}},
}
"""Of the generators that know no size of that name. ALFWorld's number of environments follows from the requests."""
RATES: dict[str, tuple[tuple[float, ...], ...]] = {
    "toolbench": ((3, 8, 12, 17), (10, 17, 25, 32), (3, 8, 12, 17)),
    "alfworld": ((3, 8, 12, 17), (10, 17, 25, 32), (8, 11, 14, 17)),
    "programming": ((1, 2, 3, 4), (2, 4, 6, 8), (3, 3.5, 4.25, 5)),
    "videoqa": ((2, 3.5, 5.5, 7), (2.5, 5, 8, 11), (2, 3.5, 4.5, 6)),
    "loogle": ((0.25, 0.5, 0.75, 1), (0.5, 1, 1.5, 2), (0.4, 0.55, 0.7, 0.8)),
}
"""By cluster, from the lowest to the highest that the paper's figures show."""

ROUND_ROBIN = Contender("round-robin", "round-robin", "lpm")
"""SGLang 0.1.12 behind round robin: its engines' default is the longest cached prefix first."""
CONTENDERS = (ROUND_ROBIN, Contender("e2-paper", "e2-paper"), Contender("e2", "e2", DEFAULT))

_OFF = {"load_shift": False, "autoscale": False, "balance": False}
ABLATION = (
    ROUND_ROBIN,
    Contender("+ E2", "e2-paper", "lpm", _OFF),
    Contender("+ load shift, autoscaling", "e2-paper", "lpm", {"balance": False}),
    Contender("+ prefill/decode balance", "e2-paper", "lpm"),
    Contender("+ priority groups", "e2-paper", "groups"),
)
"""The steps of the paper's Figure 5, each with those before it."""
ABLATION_RATES = (17.0, 25.0, 32.0, 48.0)

BASELINES = (
    CONTENDERS[1],
    ROUND_ROBIN,
    Contender("first come first served", "round-robin", "fcfs"),
    Contender("prompts in one piece", "round-robin", "lpm", engine={"max_batched_tokens": 33_086}),
)
"""Round robin over other engines. SGLang 0.1.12 does not cut prompts: it prefills up to a sixth of its KV at once."""

BEYOND = {"alfworld": (48.0, 64.0), "programming": (12.0, 16.0)}
"""Rates of 1.5 and 2 times the paper's highest."""

AZURE_RATE = 7.0


def sweep() -> list[Cell]:
    """Every workload on every cluster at its rates."""
    return [
        _cell(workload, cluster, rate)
        for workload, by_cluster in RATES.items()
        for cluster, rates in zip(CLUSTERS, by_cluster, strict=True)
        for rate in rates
    ]


def azure() -> list[Cell]:
    """The mixed run, with the arrivals that the paper names, and with those of its published script."""
    return [
        Cell(f"azure-{tools}", "mixed", FOUR, AZURE_RATE, 4_000, {"tools": tools}) for tools in ("code", "conversation")
    ]


def ablation() -> list[Cell]:
    """ToolBench with Zipf's popularity on 4 A6000; the last rate is above the paper's."""
    return [Cell("toolbench-zipf", "toolbench", FOUR, rate, 12_000) for rate in ABLATION_RATES]


def beyond() -> list[Cell]:
    """The workloads that leave these GPUs time to spare at the paper's rates, at higher ones."""
    return [_cell(workload, FOUR, rate) for workload, rates in BEYOND.items() for rate in rates]


def baselines() -> list[Cell]:
    """Every workload on 4 A6000 at its highest rate but one, and the mixed runs."""
    return [*(_cell(workload, FOUR, by_cluster[1][-2]) for workload, by_cluster in RATES.items()), *azure()]


def _cell(workload: str, cluster: Cluster, rate: float) -> Cell:
    arguments = ARGUMENTS.get(workload, {}).get(cluster.size, {"size": cluster.size})
    return Cell(workload, workload, cluster, rate, REQUESTS[workload][cluster.size != "2-gpu"], arguments)
