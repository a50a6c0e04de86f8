"""What every engine refuses before it takes a request in."""

from __future__ import annotations

from preble.backends import EngineInfo
from preble.errors import ContextLengthError, InvalidRequestError
from preble.tokens import TOKEN_BYTES, highest


def check_prompt(tokens: bytes, info: EngineInfo) -> None:
    """Raise InvalidRequestError, field `prompt`, unless the engine can serve this packed prompt and a token more."""
    length = len(tokens) // TOKEN_BYTES
    if not length or len(tokens) % TOKEN_BYTES:
        raise InvalidRequestError("needs at least one token, packed as int32", field="prompt")
    if length >= info.context_limit:
        raise ContextLengthError(f"{length} tokens, must be below {info.context_limit}", field="prompt")
    if length >= info.kv_tokens:
        raise InvalidRequestError(f"{length} tokens, the KV cache holds {info.kv_tokens}", field="prompt")
    if highest(tokens) >= info.vocab_size:
        raise InvalidRequestError(f"a token id is not below {info.vocab_size}", field="prompt")
