"""Log-probabilities as OpenAI's protocols show them, with the text and the bytes of each token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from preble.text import ChatTokenizer
from preble.types import TokenLogprob

_LEAST = -9999.0
"""In place of minus infinity, which JSON has not."""


def of_chat(tokens: Sequence[TokenLogprob], tokenizer: ChatTokenizer | None) -> dict[str, Any]:
    """Return the `logprobs` of a chat completion's choice."""
    return {
        "content": [
            {
                **_token(token.token_id, token.logprob, tokenizer),
                "top_logprobs": [_token(id, logprob, tokenizer) for id, logprob in token.top],
            }
            for token in tokens
        ],
        "refusal": None,
    }


def of_completion(
    tokens: Sequence[TokenLogprob | None], ids: Sequence[int], tokenizer: ChatTokenizer | None, offset: int = 0
) -> dict[str, Any]:
    """Return the `logprobs` of a completion's choice, for tokens with these `ids`; the first text is at `offset`.

    A token without an entry, which is the first one of a prompt, has null.
    """
    texts = [text_of(id, tokenizer) for id in ids]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [None if token is None else _finite(token.logprob) for token in tokens],
        "top_logprobs": [None if token is None else _top(token, tokenizer) for token in tokens],
        "text_offset": offsets,
    }


def text_of(id: int, tokenizer: ChatTokenizer | None) -> str:
    """Return the text of one token, as vLLM does; `token_id:7` without a tokenizer."""
    return f"token_id:{id}" if tokenizer is None else tokenizer.decode([id], skip_special_tokens=False)


def _top(token: TokenLogprob, tokenizer: ChatTokenizer | None) -> dict[str, float]:
    """Return the likely tokens by text, the chosen one among them; of equal texts the likeliest counts."""
    likely: dict[str, float] = {}
    for id, logprob in (*token.top, (token.token_id, token.logprob)):
        text = text_of(id, tokenizer)
        likely[text] = max(likely.get(text, _LEAST), _finite(logprob))
    return likely


def _token(id: int, logprob: float, tokenizer: ChatTokenizer | None) -> dict[str, Any]:
    text = text_of(id, tokenizer)
    raw = b"" if tokenizer is None else tokenizer.token_bytes(id)
    return {"token": text, "logprob": _finite(logprob), "bytes": list(raw or text.encode())}


def _finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else _LEAST
