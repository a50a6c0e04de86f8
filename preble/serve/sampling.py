"""The fields of a body that say how tokens are chosen: OpenAI's, and those that vLLM and SGLang add."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from preble.errors import InvalidRequestError
from preble.types import SamplingParams

OWN = {"max_tokens", "logprobs", "prompt_logprobs", "json_schema"}
"""What the protocols spell or mean differently."""
FIELDS = frozenset(SamplingParams.__struct_fields__) - OWN


def split(fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of sampling and the others; null is as good as not given."""
    sampling = {name: value for name, value in fields.items() if name in FIELDS and value is not None}
    others = {name: value for name, value in fields.items() if name not in FIELDS and value is not None}
    if "logit_bias" in sampling:
        sampling["logit_bias"] = _biases(sampling["logit_bias"])
    return sampling, others


def _biases(given: object) -> dict[int, Any]:
    if not isinstance(given, dict):
        raise InvalidRequestError(f"must be an object of token ids and numbers, not {given!r}", field="logit_bias")
    try:
        return {int(token): bias for token, bias in given.items()}
    except ValueError:
        raise InvalidRequestError("the names must be token ids", field="logit_bias") from None
