"""Answers of a real cluster in a file, for tests that run without it."""

from __future__ import annotations

import os
from contextlib import aclosing
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from preble import PrebleCluster
from preble.errors import ConfigurationError, InvalidRequestError
from preble.testing.replies import Call, Reply
from preble.types import FinishReason

_VERSION = 1
_OPTIONS = ("tools", "chat_template_kwargs", "add_special_tokens", "lora")


class _Answer(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    parts: list[str]
    finish_reason: FinishReason
    output_tokens: int


class _File(msgspec.Struct, forbid_unknown_fields=True):
    version: int = _VERSION
    answers: dict[str, _Answer] = {}


class Recording:
    """The answers in a JSON file, by a hash of what was asked: prompt, tools, template variables, adapter, sampling.

    >>> script = Script(Recording("answers.json").answer)

    With a `source`, a cluster that is started on the same event loop, it answers what the file does not, and the answer
    is added to the file. The file has the pieces of the answers and no prompts, keys or addresses. Raises
    ConfigurationError if the file is none of these, and OSError without a `source` if there is no file.
    """

    def __init__(self, path: str | os.PathLike[str], source: PrebleCluster | None = None) -> None:
        self._path = Path(path)
        self._source = source
        self._file = _File() if source is not None and not self._path.exists() else _read(self._path)

    async def answer(self, call: Call) -> Reply | None:
        """Return the recorded reply; None if there is none. Raises InvalidRequestError for several samples."""
        if call.sampling.n != 1:
            raise InvalidRequestError("of a recording there is one sample", field="n")
        key = request_key(call)
        found = self._file.answers.get(key)
        if found is None and self._source is not None:
            found = self._file.answers[key] = await _ask(self._source, call)
            self._write()
        if found is None:
            return None
        return Reply(tuple(found.parts), finish_reason=found.finish_reason, output_tokens=found.output_tokens)

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        whole = msgspec.json.format(msgspec.json.encode(self._file, order="deterministic"), indent=1) + b"\n"
        partial = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        partial.write_bytes(whole)
        partial.replace(self._path)


def request_key(call: Call) -> str:
    """Return the hash by which an answer is found: the same in all processes, and of what changes the answer alone."""
    asked = {name: getattr(call.options, name) for name in _OPTIONS}
    asked |= {"prompt": call.prompt, "sampling": call.sampling}
    return sha256(msgspec.json.encode(asked, enc_hook=_plain, order="deterministic")).hexdigest()[:32]


async def _ask(source: PrebleCluster, call: Call) -> _Answer:
    options: Any = {name: getattr(call.options, name) for name in _OPTIONS}
    parts, tokens, reason = [], 0, None
    async with aclosing(source.stream(call.prompt, call.sampling, **options)) as chunks:
        async for chunk in chunks:
            parts.append(chunk.text)
            if chunk.usage is not None:
                tokens, reason = chunk.usage.output_tokens, chunk.finish_reason
    return _Answer([part for part in parts if part], reason or "stop", tokens)


def _plain(value: Any) -> Any:
    """Return a message that is an object, or an array of token ids, as plain data."""
    for method in ("model_dump", "to_dict", "tolist"):
        if hasattr(value, method):
            return getattr(value, method)()
    raise InvalidRequestError(f"{type(value).__name__} cannot be recorded", field="prompt")


def _read(path: Path) -> _File:
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_File)
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{path} is no recording: {error}") from None
    if found.version != _VERSION:
        raise ConfigurationError(f"{path} is a recording of version {found.version}, not {_VERSION}")
    return found
