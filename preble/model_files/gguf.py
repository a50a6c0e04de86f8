"""GGUF files, llama.cpp's format: the metadata and the table of tensors. Their values are read by the engine."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from preble.errors import ModelError

_T = TypeVar("_T")

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""The format's number of a type, and `struct`'s letter for it."""
_TEXT, _ARRAY = 8, 9
_SIZE = struct.Struct("<Q")
_MAX_DIMENSIONS = 4
_ALIGNMENT = 32


class TensorEntry(msgspec.Struct, frozen=True):
    """Where a tensor is: `offset` in bytes from the file's start; `shape` has the longest stride first, as numpy's.

    `type` is a number of `gguf.GGMLQuantizationType`.
    """

    shape: tuple[int, ...]
    type: int
    offset: int


class GgufFile(msgspec.Struct, frozen=True):
    """What the head of a GGUF file says. A value of `metadata` is a number, a bool, text, or a list of these."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, TensorEntry]

    def require(self, key: str, kind: type[_T]) -> _T:
        """Return the value of `key`. Raises ModelError if there is none or it is not of the `kind`."""
        value = self.get(key, kind)
        if value is None:
            raise ModelError(f"{self.path}: key {key} is missing")
        return value

    def get(self, key: str, kind: type[_T]) -> _T | None:
        """Return the value of `key`, or None if there is none. Raises ModelError if it is not of the `kind`."""
        value = self.metadata.get(key)
        if value is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
            raise ModelError(f"{self.path}: {key} is of the type {type(value).__name__}, not {kind.__name__}")
        return value


def read_gguf(path: str | Path) -> GgufFile:
    """Read the head of a GGUF file of version 2 or 3, in a tenth of a second for 50,000 tokens.

    Raises ModelError naming the file and what is wrong with it.
    """
    path = Path(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Head(path, data).read()
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from None
    except (struct.error, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: the file is damaged or ends too early: {error}") from None
    except ValueError as error:  # an empty file cannot be mapped
        raise ModelError(f"{path}: not a GGUF file: {error}") from None


class _Head:
    """Reads one value after the other. A value beyond the end is a struct.error."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._data = data
        self._at = 0

    def read(self) -> GgufFile:
        self._check_version()
        tensors, keys = self._numbers("QQ")
        metadata = {self._text(): self._value(*self._numbers("I")) for _ in range(keys)}
        if metadata.get("split.count", 0) not in (0, 1):
            raise ModelError(f"{self._path}: one of {metadata['split.count']} parts; merge them with llama-gguf-split")
        found = dict(self._tensor() for _ in range(tensors))
        start = -(-self._at // (step := self._alignment(metadata))) * step
        moved = {name: TensorEntry(each.shape, each.type, start + each.offset) for name, each in found.items()}
        return GgufFile(self._path, metadata, moved)

    def _check_version(self) -> None:
        if self._data[:4] != b"GGUF":
            raise ModelError(f"{self._path}: not a GGUF file")
        self._at = 4
        (version,) = self._numbers("I")
        if version not in (2, 3):
            raise ModelError(f"{self._path}: GGUF version {version}, want 2 or 3 with little-endian numbers")

    def _alignment(self, metadata: dict[str, Any]) -> int:
        step = metadata.get("general.alignment", _ALIGNMENT)
        if not isinstance(step, int) or step < 1:
            raise ModelError(f"{self._path}: general.alignment is {step!r}")
        return step

    def _numbers(self, letters: str) -> tuple[Any, ...]:
        form = f"<{letters}"
        values = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return values

    def _text(self) -> str:
        begin = self._at + _SIZE.size
        end = begin + _SIZE.unpack_from(self._data, self._at)[0]
        if end > len(self._data):
            raise struct.error(f"a text of {end - begin} bytes")
        self._at = end
        return self._data[begin:end].decode()

    def _value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self._text()
        if kind == _ARRAY:
            return self._array(*self._numbers("IQ"))
        return self._numbers(self._letter(kind))[0]

    def _array(self, kind: int, count: int) -> list[Any]:
        if kind == _TEXT:
            return [self._text() for _ in range(count)]
        return list(self._numbers(f"{count}{self._letter(kind)}"))

    def _letter(self, kind: int) -> str:
        if kind not in _NUMBERS:
            raise ModelError(f"{self._path}: a value of the unknown type {kind}")
        return _NUMBERS[kind]

    def _tensor(self) -> tuple[str, TensorEntry]:
        name, (dimensions,) = self._text(), self._numbers("I")
        shape = self._numbers(f"{min(dimensions, _MAX_DIMENSIONS)}Q")[::-1]
        if not 1 <= dimensions <= _MAX_DIMENSIONS or 0 in shape:
            raise ModelError(f"{self._path}: {name} has {dimensions} dimensions, {list(shape)}")
        return name, TensorEntry(shape, *self._numbers("IQ"))
