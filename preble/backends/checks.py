"""What every engine refuses before it takes a request in."""

from __future__ import annotations

from preble.errors import ContextLengthError, InvalidRequestError
from preble.tokens import TOKEN_BYTES, highest


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
