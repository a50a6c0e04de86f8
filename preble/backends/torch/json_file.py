"""A JSON file of a model, checked."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from preble.errors import ModelError

_T = TypeVar("_T")


def decode(path: Path, kind: type[_T]) -> _T:
    """Return the content of a file. Raises ModelError, which names it, if it is not what `kind` says."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise ModelError(f"{path}: {error}") from error
