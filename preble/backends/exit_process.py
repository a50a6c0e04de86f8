"""How an engine ends the process that it runs in, and how it does not: in its caller's event loop."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextvars import ContextVar
from typing import NoReturn

from preble.errors import EngineDeadError

exit_process: ContextVar[Callable[[int], NoReturn]] = ContextVar("exit_process", default=os._exit)
"""What an engine calls with an exit status to end its process at once. Workers without one put another one here."""


def end_engine(status: int) -> NoReturn:
    """End the engine alone: raise EngineDeadError, which ends its worker."""
    raise EngineDeadError(f"the engine ended, with exit status {status}")
