"""A folder for an engine's sockets and other temporary files, which goes with the worker."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

VARIABLE = "PREBLE_SCRATCH"
"""Environment variable with a path: the worker's supervisor removes that folder, if it exists, after the worker."""


def scratch_folder() -> Path:
    """Make a private folder with a short path, as sockets need one, and return it.

    The caller removes it. In a worker with a supervisor it is removed even if the worker is killed.
    """
    parent = os.environ.get(VARIABLE)
    if parent:
        os.makedirs(parent, mode=0o700, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="" if parent else "preble-", dir=parent))
