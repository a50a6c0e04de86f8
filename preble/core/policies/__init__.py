"""Who gets a request: one file per policy, one class, one method. `POLICIES` names them.

A policy of your own needs no entry: pass an object with `place` as `policy=`.
"""

from __future__ import annotations

from preble.core.policies.e2 import E2
from preble.core.policies.least_loaded import LeastLoaded
from preble.core.policies.round_robin import RoundRobin
from preble.core.policy import Policy
from preble.errors import ConfigurationError

POLICIES: dict[str, type[Policy]] = {"e2": E2, "round-robin": RoundRobin, "least-loaded": LeastLoaded}


def policy_named(policy: str | Policy) -> Policy:
    """Return a new policy of that name, or the object itself. Raises ConfigurationError for an unknown name."""
    if not isinstance(policy, str):
        return policy
    if policy not in POLICIES:
        raise ConfigurationError(f"policy: unknown {policy!r}, one of {', '.join(POLICIES)}")
    return POLICIES[policy]()
