"""What an engine hands out, held against the protocol before it is sent: an engine of a user's own may be wrong.

What is wrong is the engine's fault and of one request, or of those that run, so that it is an EngineError: a frame with
it in would be refused by the cluster, and the requests in it would never end.
"""

from __future__ import annotations

from typing import Any, TypeVar, get_args

import msgspec

from preble.backends import Delta, Engine, EngineInfo, EngineRequest, Evicted, Load, StepTiming
from preble.errors import EngineError, PrebleError
from preble.tokens import MAX_TOKENS, TOKEN_BYTES
from preble.transport.schema import MAX_BATCH
from preble.types import FinishReason

_Kind = TypeVar("_Kind")

_FINISH_REASONS = get_args(FinishReason)
_encoder = msgspec.msgpack.Encoder()
_delta_decoder = msgspec.msgpack.Decoder(Delta)
_evicted_decoder = msgspec.msgpack.Decoder(Evicted)
_info_decoder = msgspec.msgpack.Decoder(EngineInfo)


def tokens_in(delta: Delta, request: EngineRequest, room: int) -> int:
    """Return how many tokens a delta has, of which there is `room` for so many. Raises EngineError if it is wrong."""
    # Nearly every delta is one token and nothing else, and what is asked here is asked for every token.
    if (
        type(delta) is Delta
        and type(tokens := delta.tokens) is bytes
        and len(tokens) == TOKEN_BYTES
        and tokens[3] < 128
        and room > 0
        and delta == Delta(tokens)
    ):
        return 1
    return _checked(delta, request, room)


def _checked(delta: Delta, request: EngineRequest, room: int) -> int:
    if type(delta) is not Delta:
        raise EngineError(f"the engine yielded {_kind(delta)}, not a Delta")
    tokens = delta.tokens
    if type(tokens) is not bytes:
        raise EngineError(f"the engine yielded tokens as {_kind(tokens)}, not as bytes packed by preble.tokens.pack")
    count, rest = divmod(len(tokens), TOKEN_BYTES)
    if rest or (tokens and max(tokens[3::TOKEN_BYTES]) > 127):
        raise EngineError(f"the engine yielded {tokens[:40]!r}, which are no token ids packed as int32")
    if count > room:
        raise EngineError(f"the engine yielded more than the {request.sampling.token_limit} tokens that were asked for")
    _require_ends(delta, len(request.tokens) // TOKEN_BYTES)
    if delta != Delta(tokens, delta.cached_tokens, delta.finish_reason):
        _round_trip(delta, _delta_decoder, "the engine yielded a Delta that is wrong")
    return count


def evictions(engine: Engine) -> list[Evicted]:
    """Return what the engine's `cache_events` returns. Raises EngineError if it is wrong, or raises."""
    try:
        events = engine.cache_events()
    except Exception as error:
        raise _raised("cache_events", error) from error
    if type(events) is not list:
        raise EngineError(f"the engine's cache_events() returned {_kind(events)}, not a list")
    for event in events:
        _require_evicted(event)
    return events


def load(engine: Engine) -> Load:
    """Return what the engine's `load` returns. Raises EngineError if it is wrong, or raises."""
    try:
        found = engine.load()
    except Exception as error:
        raise _raised("load", error) from error
    if type(found) is not Load:
        raise EngineError(f"the engine's load() returned {_kind(found)}, not a Load")
    if not type(found.running) is type(found.waiting) is type(found.used_tokens) is int:
        raise EngineError(f"the engine's load() returned {found!r}, in which not all are integers")
    return found


def timings(engine: Engine) -> list[StepTiming]:
    """Return the engine's steps since the last call, if it tells of them: what a frame may hold, in plausible sizes.

    Raises EngineError if they are wrong, or the engine raises.
    """
    tell = getattr(engine, "timings", None)
    if tell is None:
        return []
    try:
        found = tell()
    except Exception as error:
        raise _raised("timings", error) from error
    if type(found) is not list or not all(type(timing) is StepTiming for timing in found):
        raise EngineError(f"the engine's timings() returned {repr(found)[:200]}, not a list of StepTimings")
    return [timing for timing in found[-MAX_BATCH:] if timing.plausible]


def checked_info(info: EngineInfo) -> EngineInfo:
    """Return what the engine's `start` returned. Raises EngineError if it is wrong."""
    if type(info) is not EngineInfo:
        raise EngineError(f"the engine's start() returned {_kind(info)}, not an EngineInfo")
    for name in ("vocab_size", "context_limit", "kv_tokens", "block_size", "max_running"):
        if type(size := getattr(info, name)) is not int or size < 1:
            raise EngineError(f"the engine's start() returned an EngineInfo with {name}={size!r}")
    _round_trip(info, _info_decoder, "the engine's start() returned an EngineInfo that is wrong")
    return info


def _raised(method: str, error: Exception) -> PrebleError:
    if isinstance(error, PrebleError):
        return error
    return EngineError(f"the engine's {method}() raised {_kind(error)}: {error}")


def _require_ends(delta: Delta, prompt: int) -> None:
    """What the first and the last delta of a request of so many prompt tokens say."""
    cached, finish = delta.cached_tokens, delta.finish_reason
    if cached is not None and not (type(cached) is int and 0 <= cached <= prompt):
        raise EngineError(f"the engine says that {cached!r} tokens of a prompt of {prompt} were cached")
    if finish is not None and finish not in _FINISH_REASONS:
        raise EngineError(f"the engine yielded the finish reason {finish!r}, none of {', '.join(_FINISH_REASONS)}")


def _require_evicted(event: Evicted) -> None:
    right = (
        type(event) is Evicted
        and type(event.tokens) is bytes
        and len(event.tokens) % TOKEN_BYTES == 0
        and type(event.keep) is int
        and 0 <= event.keep <= MAX_TOKENS
        and type(event.cache_salt) is str
    )
    if not right:
        raise EngineError(f"the engine's cache_events() returned {repr(event)[:200]}, which is no right Evicted")
    if event.cache_salt:
        salt = Evicted(b"", 0, event.cache_salt)
        _round_trip(salt, _evicted_decoder, "the engine's cache_events() returned a cache salt that is wrong")


def _round_trip(value: _Kind, decoder: msgspec.msgpack.Decoder[_Kind], wrong: str) -> None:
    """Raise EngineError unless what `value` says can be sent, and is understood where it arrives."""
    try:
        decoder.decode(_encoder.encode(value))
    except Exception as error:  # of which there are many kinds, for numbers, types, texts and depth
        raise EngineError(f"{wrong}: {error}") from None


def _kind(value: Any) -> str:
    return type(value).__name__
