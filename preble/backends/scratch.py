"""Where an engine keeps sockets and the like while it runs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

VARIABLE = "PREBLE_SCRATCH"
"""Environment variable: a worker's supervisor removes the folder of this name, which need not exist, at the end."""


def scratch_folder() -> Path:
    """Make a private folder of a short path and return it.

    Whoever asks removes it; below a supervisor it goes in the end even if the worker was killed.
    """
    parent = os.environ.get(VARIABLE)
    if parent:
        os.makedirs(parent, mode=0o700, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="" if parent else "preble-", dir=parent))
