"""What engines refuse: options that they do not have, and prompts that they cannot serve."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import msgspec

from preble.errors import ConfigurationError, ContextLengthError, InvalidRequestError, nearest
from preble.tokens import TOKEN_BYTES, highest
from preble.types import SamplingParams

_Options = TypeVar("_Options", bound=msgspec.Struct)


def checked_options(options: Mapping[str, Any], kind: type[_Options], engine: str) -> _Options:
    """Return an engine's options as a Struct. Raises ConfigurationError for a wrong one or one that does not exist."""
    for name in options:
        if name not in kind.__struct_fields__:
            raise ConfigurationError(f"{engine} engine: unknown option {name!r}{nearest(name, kind.__struct_fields__)}")
    try:
        return msgspec.convert(options, kind)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{engine} engine: {error}") from None


def check_biases(sampling: SamplingParams, vocab_size: int) -> None:
    """Raise InvalidRequestError if `logit_bias` is about a token that the vocabulary does not have."""
    if sampling.logit_bias and (top := max(sampling.biases)) >= vocab_size:
        raise InvalidRequestError(f"token id {top} is outside [0, {vocab_size})", field="logit_bias")


def check_prompt(tokens: bytes, *, context_limit: int, kv_tokens: int, vocab_size: int) -> None:
    """Raise InvalidRequestError, field `prompt`, unless an engine can serve this packed prompt and a token more."""
    length = len(tokens) // TOKEN_BYTES
    if not length or len(tokens) % TOKEN_BYTES:
        raise InvalidRequestError("needs at least one token, packed as int32", field="prompt")
    if length >= context_limit:
        raise ContextLengthError(f"{length} tokens, must be below {context_limit}", field="prompt")
    if length >= kv_tokens:
        raise InvalidRequestError(f"{length} tokens, the KV cache holds {kv_tokens}", field="prompt")
    if highest(tokens) >= vocab_size:
        raise InvalidRequestError(f"a token id is not below {vocab_size}", field="prompt")


def check_structure(sampling: SamplingParams, structures: Collection[str]) -> None:
    """Raise InvalidRequestError, which names the field, if the output is to have a form that is not among these."""
    if (name := sampling.structure) is not None and name not in structures:
        taken = ", ".join(structures)
        raise InvalidRequestError(f"cannot be enforced: the engine takes {taken or 'no form of output'}", field=name)
