"""Who gets a request: one file per policy, one class, one method. `POLICIES` names them.

A policy of your own needs no entry: pass an object with `place` as `policy=`.
"""

from __future__ import annotations

from preble.core.policies.baselines.aibrix_prefix import AibrixPrefix
from preble.core.policies.baselines.dynamo_kv import DynamoKv
from preble.core.policies.baselines.least_loaded import LeastLoaded
from preble.core.policies.baselines.llm_d_weighted import LlmDWeighted
from preble.core.policies.baselines.longest_prefix import LongestPrefix
from preble.core.policies.baselines.power_of_two import PowerOfTwo
from preble.core.policies.baselines.random_choice import RandomChoice
from preble.core.policies.baselines.round_robin import RoundRobin
from preble.core.policies.baselines.session_hash import SessionHash
from preble.core.policies.baselines.sglang_cache_aware import SglangCacheAware
from preble.core.policies.baselines.smetric import Smetric
from preble.core.policies.baselines.smg_gate import SmgGate
from preble.core.policies.e2.policy import E2
from preble.core.policies.e2_paper.policy import E2Paper
from preble.core.policy import Policy
from preble.errors import ConfigurationError

POLICIES: dict[str, type[Policy]] = {
    "e2": E2,
    "e2-paper": E2Paper,
    "round-robin": RoundRobin,
    "random": RandomChoice,
    "power-of-two": PowerOfTwo,
    "least-loaded": LeastLoaded,
    "session-hash": SessionHash,
    "longest-prefix": LongestPrefix,
    "sglang-cache-aware": SglangCacheAware,
    "smg-gate": SmgGate,
    "dynamo-kv": DynamoKv,
    "llm-d-weighted": LlmDWeighted,
    "aibrix-prefix": AibrixPrefix,
    "smetric": Smetric,
}


def policy_named(policy: str | Policy) -> Policy:
    """Return a new policy of that name, or the object itself. Raises ConfigurationError for an unknown name."""
    if not isinstance(policy, str):
        return policy
    if policy not in POLICIES:
        raise ConfigurationError(f"policy: unknown {policy!r}, one of {', '.join(POLICIES)}")
    return POLICIES[policy]()
