"""Several LLM engine replicas as one: prefix-aware scheduling inside your event loop.

Names are loaded when first used, so that `import preble` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from preble.backends import Engine as Engine
    from preble.backends import EngineInfo as EngineInfo
    from preble.cluster.cluster import PrebleCluster as PrebleCluster
    from preble.cluster.sync import SyncCluster as SyncCluster
    from preble.core.cost import CostModel as CostModel
    from preble.core.policies import POLICIES as POLICIES
    from preble.core.policy import Decision as Decision
    from preble.core.policy import Policy as Policy
    from preble.core.policy import Query as Query
    from preble.core.scheduler import Placement as Placement
    from preble.core.scheduler import Scheduler as Scheduler
    from preble.errors import ClosedError as ClosedError
    from preble.errors import ConfigurationError as ConfigurationError
    from preble.errors import ContextLengthError as ContextLengthError
    from preble.errors import DeadlineExceededError as DeadlineExceededError
    from preble.errors import EngineDeadError as EngineDeadError
    from preble.errors import EngineError as EngineError
    from preble.errors import InvalidRequestError as InvalidRequestError
    from preble.errors import ModelError as ModelError
    from preble.errors import NamespaceNotServedError as NamespaceNotServedError
    from preble.errors import NotStartedError as NotStartedError
    from preble.errors import NoWorkersError as NoWorkersError
    from preble.errors import OverloadedError as OverloadedError
    from preble.errors import PrebleError as PrebleError
    from preble.errors import StateError as StateError
    from preble.errors import WorkerError as WorkerError
    from preble.errors import WorkerLostError as WorkerLostError
    from preble.errors import WorkerStartError as WorkerStartError
    from preble.errors import WorkerTimeoutError as WorkerTimeoutError
    from preble.errors import WrongLoopError as WrongLoopError
    from preble.tree import RadixTree as RadixTree
    from preble.types import Choice as Choice
    from preble.types import Chunk as Chunk
    from preble.types import Generation as Generation
    from preble.types import SamplingParams as SamplingParams
    from preble.types import Timings as Timings
    from preble.types import TokenLogprob as TokenLogprob
    from preble.types import Usage as Usage
    from preble.types import WorkerEvent as WorkerEvent
    from preble.wait_queue.local import LocalScheduler as LocalScheduler

_HOMES = {
    "backends": ("Engine", "EngineInfo"),
    "cluster.cluster": ("PrebleCluster",),
    "cluster.sync": ("SyncCluster",),
    "core.cost": ("CostModel",),
    "core.policies": ("POLICIES",),
    "core.policy": ("Decision", "Policy", "Query"),
    "core.scheduler": ("Placement", "Scheduler"),
    "errors": (
        "ClosedError", "ConfigurationError", "ContextLengthError", "DeadlineExceededError", "EngineDeadError",
        "EngineError", "InvalidRequestError", "ModelError", "NamespaceNotServedError", "NoWorkersError",
        "NotStartedError", "OverloadedError", "PrebleError", "StateError", "WorkerError", "WorkerLostError",
        "WorkerStartError", "WorkerTimeoutError", "WrongLoopError",
    ),
    "tree": ("RadixTree",),
    "types": ("Choice", "Chunk", "Generation", "SamplingParams", "Timings", "TokenLogprob", "Usage", "WorkerEvent"),
    "wait_queue.local": ("LocalScheduler",),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

_NATIVE = ("preble._pack", "preble.core.policies.e2._price", "preble.tree._walk")

__all__ = sorted([*_HOME_OF, "__version__", "native"])


def native() -> dict[str, bool]:
    """Return for each part that is written in C too, by its module's name, whether it runs in C here.

    Where the package was built without a C compiler, its twins in Python give the same results more slowly.
    """
    return {name: _importable(name) for name in _NATIVE}


def _importable(name: str) -> bool:
    try:
        import_module(name)
    except ImportError:
        return False
    return True


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'preble' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"preble.{_HOME_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return list(__all__)
