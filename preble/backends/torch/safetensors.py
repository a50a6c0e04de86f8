"""The weights of a Hugging Face folder: one *.safetensors file or several with an index."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
from safetensors import SafetensorError, safe_open
from torch import Tensor

from preble.backends.torch.stored import StoredTensor
from preble.errors import ModelError


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def open_safetensors(folder: Path) -> dict[str, StoredTensor]:
    """Return what is stored, by name. Raises ModelError naming the file that is wrong; so does reading one."""
    index = folder / "model.safetensors.index.json"
    names = _shards(index) if index.is_file() else ["model.safetensors"]
    stored = {}
    for path in (folder / name for name in names):
        opened = _open(path)
        for name in opened.keys():  # type: ignore[no-untyped-call]  # noqa: SIM118
            stored[name] = StoredTensor(path, name, partial(_read, path, opened, name))
    return stored


def _read(path: Path, opened: safe_open, name: str) -> Tensor:
    try:
        tensor: Tensor = opened.get_tensor(name)  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise ModelError(f"{path}: {name}: {error}") from error
    return tensor


def _shards(index: Path) -> list[str]:
    try:
        names = sorted(set(msgspec.json.decode(index.read_bytes(), type=_Index).weight_map.values()))
    except (OSError, msgspec.DecodeError) as error:
        raise ModelError(f"{index}: {error}") from error
    if any(Path(name).name != name for name in names):
        raise ModelError(f"{index}: names files outside its folder")
    return names


def _open(path: Path) -> safe_open:
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: {error}") from error
