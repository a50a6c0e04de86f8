"""An engine that ends its process instead of starting."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


class DyingEngine:
    """Writes to standard error, then exits at once."""

    def __init__(self, **options: object) -> None:
        pass

    async def start(self) -> NoReturn:
        sys.stderr.write("last words of the engine\n")
        sys.stderr.flush()
        os._exit(3)

    def never(self, *arguments: object) -> NoReturn:
        raise AssertionError("it did not start")

    generate = abort = cache_events = load = reset_cache = close = never
