"""A policy of your own: an object with one method, tried against others in virtual time before anything serves.

python examples/custom_policy.py
"""

from __future__ import annotations

import random

from preble import Decision, Policy, Query
from preble.core.fleet import Fleet
from preble.simulate import Request, simulate


class StickUntilBusy:
    """Goes to the worker with most of the prompt cached, unless it has a second more to do than the least loaded."""

    def __init__(self, patience: float = 1.0) -> None:
        self._patience = patience

    def place(self, query: Query, fleet: Fleet, now: float) -> Decision:
        """Return the slot of the worker chosen, and the reason that `explain` will show."""
        live = fleet.require_live()
        lightest = min(live, key=lambda slot: fleet.load[slot])
        holder = max(live, key=lambda slot: query.cached[slot])
        if query.cached[holder] and fleet.load[holder] <= fleet.load[lightest] + self._patience:
            return Decision(holder, "stick")
        return Decision(lightest, "busy" if query.cached[holder] else "new")


def workload(requests: int = 200, rate: float = 8.0) -> list[Request]:
    """Return questions about 20 documents of 4,000 tokens, some asked about much more often than others."""
    draw = random.Random(0)
    weights = [1 / (document + 1) for document in range(20)]
    documents = draw.choices(range(20), weights, k=requests)
    return [
        Request(segments=((document, 4000), (1000 + number, 200)), output_tokens=50, arrival=number / rate)
        for number, document in enumerate(documents)
    ]


def main() -> None:
    """Compare it with others."""
    policies: dict[str, Policy | str] = {"mine": StickUntilBusy(), "e2": "e2", "round-robin": "round-robin"}
    for name, policy in policies.items():
        summary = simulate(workload(), policy=policy, workers=4).summary()
        print(f"{name:<12} mean TTFT {summary.ttft_mean:.3f} s, {summary.hit_ratio:.0%} of prompt tokens cached")


if __name__ == "__main__":
    main()
