"""A tensor in a file of some format, read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
from torch import Tensor


class StoredTensor(msgspec.Struct, frozen=True):
    """`name` is what the file calls it, for messages; `read()` raises ModelError if that cannot be done."""

    path: Path
    name: str
    read: Callable[[], Tensor]
