"""Errors that come as events of a stream, or as a document with status 200."""

from __future__ import annotations

import msgspec

from preble.backends.openai.explanation import explained, explanation, parsed_json
from preble.backends.openai.http import Shape, decoded
from preble.backends.openai.status import error_of_event
from preble.errors import EngineError

_SHOWN = 200  # characters of an event that is not understood


def decoded_event(event: bytes, decoder: msgspec.json.Decoder[Shape]) -> Shape:
    """Return an event. If it is not what the decoder wants, raise the error in it, or else EngineError."""
    try:
        return decoded(event, decoder)
    except EngineError as error:
        raise_error_in(event)
        raise EngineError(f"{error}; it says {explanation(event).text[:_SHOWN]!r}") from None


def raise_error_in(event: bytes, *, sure: bool = False) -> None:
    """Raise the error that an event tells of, if it does. If it is `sure` to be one, its words may be in any form."""
    raw = event[:_SHOWN].decode(errors="replace") if sure else ""
    if (said := explained(parsed_json(event), otherwise=raw)) is not None:
        raise error_of_event(said)
