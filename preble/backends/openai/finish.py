"""Why a server ended a response, whatever word it has for it, and also if it says only that it has."""

from __future__ import annotations

from preble.errors import EngineError, InvalidRequestError
from preble.types import FinishReason

_STOP = ("stop", "eos", "eos_token", "end_id", "stop_sequence", "stop_words", "end_turn", "tool_calls", "function_call")
_LENGTH = ("length", "max_tokens", "max_length", "limit")
_ABORT = ("abort", "aborted", "cancelled", "canceled")
_NOT_YET = ("", "null", "none", "not_finished")
_REASONS: dict[str, FinishReason | None] = {
    **dict.fromkeys(_STOP, "stop"),
    **dict.fromkeys(_LENGTH, "length"),
    **dict.fromkeys(_ABORT, "abort"),
    **dict.fromkeys(_NOT_YET),
}


def finish_reason(said: str | None) -> FinishReason | None:
    """Return the finish reason that a server means by a word, None if it has not ended the response.

    Raises InvalidRequestError if its content filter did, and EngineError for a word that is not known.
    """
    word = (said or "").lower()
    if word == "content_filter":
        raise InvalidRequestError("the server's content filter ended the output", field="prompt")
    if word not in _REASONS:
        raise EngineError(f"the server ended the request: {word[:100]}")
    return _REASONS[word]


class Ending:
    """The end of one response: `[DONE]` is one too, after an answer without a finish reason.

    `limit` is the most tokens that it may have.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._said: FinishReason | None = None
        self._tokens = 0
        self._answered = False
        self._done = False

    def answered(self, tokens: int, said: FinishReason | None) -> None:
        """Count the tokens of an event, and note its finish reason."""
        self._answered = True
        self._tokens += tokens
        self._said = said or self._said

    def done(self) -> None:
        """Note that `[DONE]` has come."""
        self._done = True

    def reason(self, counted: int | None = None) -> FinishReason | None:
        """Return why the response has ended; None if it has not, so that a connection that ends now is a broken one.

        `counted` is the number of tokens as the server counts them, if it does.
        """
        if self._said is None and self._done and self._answered:
            return "length" if (counted or self._tokens) >= self._limit else "stop"
        return self._said
