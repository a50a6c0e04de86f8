"""Engines: what computes tokens in a worker. `BACKENDS` names them, and each has a folder or, if it is small, a file.

An engine speaks token ids only; text stays in the cluster. The files next to the folders are shared by several engines:
batching and its block cache, the queue in front of engines that batch by themselves, and the KV events that those
publish. The transport, the workers and the cluster use the names below; the simulator uses `sim` and `batching`, and
connected clusters use `openai`. Importing this package loads no engine: only workers load torch, vLLM and SGLang.
"""

from __future__ import annotations

from preble.backends.engine import Delta, Engine, EngineInfo, EngineRequest, Evicted, Load
from preble.backends.named import BACKENDS, Backend, find_backend
from preble.core.cost import StepTiming

__all__ = [
    "BACKENDS",
    "Backend",
    "Delta",
    "Engine",
    "EngineInfo",
    "EngineRequest",
    "Evicted",
    "Load",
    "StepTiming",
    "find_backend",
]
