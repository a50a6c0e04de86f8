"""What a server is, found out by asking it: its model, its sizes, and the API through which it generates."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeAlias

import msgspec

from preble.backends import EngineInfo
from preble.backends.openai.completions import PATH, CompletionReader, TextCompletions, TokenCompletions
from preble.backends.openai.http import Http, decoded
from preble.backends.openai.models import PATH as MODELS
from preble.backends.openai.models import ModelCard, chosen, model_cards
from preble.backends.openai.options import Protocol, ReplicaOptions
from preble.backends.openai.published import Published, published, published_context
from preble.backends.openai.retokenize import TextTokenizer
from preble.backends.openai.sglang import Generate, GenerateReader
from preble.errors import ConfigurationError, EngineError, InvalidRequestError

CompletionApi: TypeAlias = TokenCompletions | TextCompletions | Generate
"""The endpoint to which requests are sent."""

Reader: TypeAlias = CompletionReader | GenerateReader
"""What reads its responses."""

_KV_TOKENS = 200_000
_BLOCK_SIZE = 16
_MAX_RUNNING = 256
_CONTEXT_LIMIT = 131_072
_ANY_ID = 1 << 31
_logger = logging.getLogger("preble.openai")


class Described(msgspec.Struct, frozen=True):
    """What `describe` found out about a server; `vllm` is True if it has vLLM's metrics."""

    info: EngineInfo
    api: CompletionApi
    protocol: Protocol
    vllm: bool


class _Config(msgspec.Struct):
    vocab_size: int | None = None
    text_config: _Config | None = None


class _ProbeChoice(msgspec.Struct):
    token_ids: list[int] | None = None


class _Probe(msgspec.Struct):
    choices: list[_ProbeChoice | None] | None = None


_probe = msgspec.json.Decoder(_Probe, strict=False)


async def describe(http: Http, options: ReplicaOptions, *, model: str | None, text: TextTokenizer | None) -> Described:
    """Ask a healthy server what it is. `model` is the folder with its config.json, if there is one.

    `text` is the model's tokenizer. Raises ConfigurationError if the server has no such model or lists none, or if it
    knows no token ids and `text` is None.
    """
    card = await _card(http, options)
    protocol = options.protocol
    if protocol == "auto":
        protocol = "sglang" if card.owned_by == "sglang" else await _protocol(http, card.id)
    found = await published(http, protocol, options.health_timeout)
    context = options.context_limit or card.context_limit or await published_context(http, options.health_timeout)
    info = _info(options, card, found, vocabulary=_vocabulary(model), context=context)
    _warn(http, protocol, info, context)
    return Described(info, await _api(http, protocol, card.id, text, found.priority), protocol, found.vllm)


def _info(
    options: ReplicaOptions, card: ModelCard, found: Published, *, vocabulary: int | None, context: int | None
) -> EngineInfo:
    """What is told in the options, or else published, or else assumed."""
    return EngineInfo(
        model=card.id,
        vocab_size=options.vocab_size or vocabulary or _ANY_ID,
        context_limit=context or _CONTEXT_LIMIT,
        kv_tokens=options.kv_tokens or found.sizes.kv_tokens or _KV_TOKENS,
        block_size=options.block_size or found.sizes.block_size or _BLOCK_SIZE,
        max_running=options.max_running or found.sizes.max_running or _MAX_RUNNING,
        reports_evictions=options.kv_events is not None,
        reports_steps=False,
        cost=options.cost,
    )


def _warn(http: Http, protocol: Protocol, info: EngineInfo, context: int | None) -> None:
    if context is None:
        _logger.warning("%s: publishes no context; %d is assumed: give context_limit=", http.url, _CONTEXT_LIMIT)
    if protocol == "sglang" and info.vocab_size == _ANY_ID:
        _logger.warning("%s: give model= or vocab_size, since SGLang dies of ids outside its vocabulary", http.url)


async def _card(http: Http, options: ReplicaOptions) -> ModelCard:
    cards = model_cards(await http.get(MODELS, timeout=options.health_timeout), http.url)
    card = chosen(cards, options.served_model, http.url)
    others = [other.id for other in cards if not other.adapter and other.id != card.id]
    if others and options.served_model is None:
        _logger.warning("%s: serves %s; give served_model= for another: %s", http.url, card.id, ", ".join(others[:10]))
    return card


async def _protocol(http: Http, model: str) -> Protocol:
    """Generate one token and see whether its id comes back."""
    return "tokens" if await _answers_ids(http, model, return_token_ids=True) else "text"


async def _api(http: Http, protocol: Protocol, model: str, text: TextTokenizer | None, priority: int) -> CompletionApi:
    if protocol == "sglang":
        return Generate(http.url, priority=priority)
    if protocol == "tokens":
        return TokenCompletions(model)
    if text is None:
        raise ConfigurationError(f"model: {http.url} speaks text only: pass the folder with the model's tokenizer")
    return TextCompletions(model, text, ids=await _answers_ids(http, model) is not None)


async def _answers_ids(http: Http, model: str, **extra: bool) -> bool | None:
    """Return whether ids come back for a prompt of ids; None if the server does not take such a prompt.

    Raises OverloadedError and UnreachableError.
    """
    body = msgspec.json.encode({"model": model, "prompt": [1], "max_tokens": 1, "temperature": 0.0, **extra})
    try:
        events = [event async for event in http.stream(PATH, body)]
        choices = decoded(events[0], _probe).choices if events else None
    except (InvalidRequestError, EngineError):
        return None
    return bool(choices and choices[0] and choices[0].token_ids)


def _vocabulary(model: str | None) -> int | None:
    file = Path(model, "config.json") if model else None
    if file is None or not file.exists():
        return None
    try:
        config = msgspec.json.decode(file.read_bytes(), type=_Config)
    except msgspec.MsgspecError:
        return None
    return config.vocab_size or (config.text_config.vocab_size if config.text_config else None)
