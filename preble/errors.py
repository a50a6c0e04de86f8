"""Every exception of the library. Who is at fault is in the type.

::

    PrebleError
    ├── InvalidRequestError (ValueError)    this request is wrong; nothing was sent
    │   └── ContextLengthError              the prompt does not fit the model's context
    ├── ConfigurationError (ValueError)     the cluster was described wrongly
    │   └── ModelError                      the model path is not a model this engine can load
    ├── StateError (RuntimeError)           the call came at the wrong time or place
    │   ├── NotStartedError
    │   ├── ClosedError
    │   └── WrongLoopError
    ├── DeadlineExceededError (TimeoutError)
    ├── OverloadedError                     a limit of the cluster is reached; try later
    ├── NoWorkersError                      no worker can take requests now
    │   └── NamespaceNotServedError         those that can do not serve this request's namespace
    ├── WorkerError                         a worker is at fault
    │   ├── WorkerStartError                it did not start; carries its last log lines
    │   ├── WorkerLostError                 it died; carries the tokens so far
    │   ├── WorkerTimeoutError              it produced no token of this request for too long
    │   └── EngineError                     its engine failed this one request
    │       └── EngineDeadError             its engine can serve nothing any more, and the worker ends
    └── TransportError                      bytes could not be delivered or understood
        ├── FrameError (ValueError)         malformed, oversized or unknown frame
        └── UnreachableError                the peer is gone
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class PrebleError(Exception):
    """The base of all errors. `retryable` says whether the same call may succeed later.

    `request_id`, `worker` and `retry_after` (seconds) are set where they are known, else None. `generate_many` sets the
    `index` of the prompt, and `results`, each prompt's finished Generation by its index.
    """

    retryable = False

    def __init__(
        self,
        message: str,
        *,
        request_id: str | None = None,
        worker: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.request_id = request_id
        self.worker = worker
        self.retry_after = retry_after
        self.index: int | None = None
        self.results: Mapping[int, Any] = {}


class InvalidRequestError(PrebleError, ValueError):
    """An argument of a request is wrong. `field` names it."""

    def __init__(self, message: str, *, field: str, request_id: str | None = None) -> None:
        super().__init__(f"{field}: {message}", request_id=request_id)
        self.field = field


class ContextLengthError(InvalidRequestError):
    """The prompt leaves no room in the model's context."""


class ConfigurationError(PrebleError, ValueError):
    """An option of the cluster, the scheduler or an engine is wrong."""


class ModelError(ConfigurationError):
    """The model path does not hold a model that the engine can load."""


class StateError(PrebleError, RuntimeError):
    """The call came at the wrong time or from the wrong place."""


class NotStartedError(StateError):
    """The cluster has not been started: use `async with`, or `await start()`."""


class ClosedError(StateError):
    """The cluster is closed or closing."""


class WrongLoopError(StateError):
    """The cluster belongs to another event loop."""


class DeadlineExceededError(PrebleError, TimeoutError):
    """The request's deadline passed before it finished."""


class OverloadedError(PrebleError):
    """A limit on requests in flight is reached; `retry_after` (seconds) is a hint."""

    retryable = True


class NoWorkersError(PrebleError):
    """No worker can take requests now."""

    retryable = True


class NamespaceNotServedError(NoWorkersError):
    """Some workers take requests now, but none of them serves this `namespace`."""

    def __init__(self, message: str, *, namespace: str) -> None:
        super().__init__(message)
        self.namespace = namespace


class WorkerError(PrebleError):
    """A worker is at fault, not the request."""


class WorkerStartError(WorkerError):
    """A worker did not become ready; `log` holds the last lines it wrote."""

    def __init__(self, message: str, *, worker: str | None = None, log: str = "") -> None:
        super().__init__(f"{message}\n{log}".rstrip() if log else message, worker=worker)
        self.log = log


class WorkerLostError(WorkerError):
    """The worker died with this request on it; `token_ids` are those already generated.

    `log` holds the last lines that the worker wrote, where it is a process or runs in this one.
    """

    retryable = True

    def __init__(
        self,
        message: str,
        *,
        worker: str | None = None,
        request_id: str | None = None,
        token_ids: tuple[int, ...] = (),
        log: str = "",
    ) -> None:
        super().__init__(message, worker=worker, request_id=request_id)
        self.token_ids = token_ids
        self.log = log


class WorkerTimeoutError(WorkerError):
    """The worker produced no token of this request for too long."""

    retryable = True


class EngineError(WorkerError):
    """The engine failed this request; others on the same worker go on."""


class EngineDeadError(EngineError):
    """The engine can serve nothing any more. An engine that raises it takes its worker out of service."""


class TransportError(PrebleError):
    """Bytes could not be delivered or understood."""


class FrameError(TransportError, ValueError):
    """A frame is malformed, too large, or of an unknown kind."""


class UnreachableError(TransportError):
    """The peer of a connection is gone. It `refused` the connection if nothing listens at its address."""

    retryable = True
    refused = False


def nearest(name: str, known: Iterable[str]) -> str:
    """Return how a message about an unknown `name` goes on: with the most similar known one, or with all of them."""
    from difflib import get_close_matches  # only who misspells something pays for it

    known = sorted(known)
    similar = get_close_matches(name, known, n=1)
    return f", did you mean {similar[0]!r}?" if similar else f", not one of {', '.join(known)}"


def check_names(function: Callable[..., object], given: Iterable[str]) -> None:
    """Raise ConfigurationError for the name of an argument that `function` does not have."""
    from inspect import Parameter, signature

    parameters = signature(function).parameters
    if not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values()):
        for name in given:
            if name not in parameters:
                raise ConfigurationError(f"{name}: unknown option{nearest(name, parameters.keys() - {'self'})}")


def names_checked(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Let a call with an argument that does not exist raise ConfigurationError, which names the nearest one."""

    @wraps(function)
    def called(*args: _Arguments.args, **keywords: _Arguments.kwargs) -> _Result:
        try:
            return function(*args, **keywords)
        except TypeError:
            check_names(function, keywords)
            raise

    return called
