"""What a server is, found out by asking it: its model, its sizes, and the API through which it generates."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeAlias

import msgspec

from preble.backends import EngineInfo
from preble.backends.openai.completions import PATH, CompletionReader, TextCompletions, TokenCompletions
from preble.backends.openai.http import Http, decoded
from preble.backends.openai.metrics import Sizes, sglang_sizes, vllm_sizes
from preble.backends.openai.options import Protocol, ReplicaOptions
from preble.backends.openai.retokenize import TextTokenizer
from preble.backends.openai.sglang import Generate, GenerateReader
from preble.errors import ConfigurationError, EngineError, InvalidRequestError, PrebleError

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


class ModelCard(msgspec.Struct):
    """One entry of `/v1/models`."""

    id: str
    owned_by: str = ""
    max_model_len: int | None = None


class Described(msgspec.Struct, frozen=True):
    """What `describe` found out about a server; `vllm` is True if it has vLLM's metrics."""

    info: EngineInfo
    api: CompletionApi
    protocol: Protocol
    vllm: bool


class _Models(msgspec.Struct):
    data: list[ModelCard] = []


class _Config(msgspec.Struct):
    vocab_size: int | None = None
    text_config: _Config | None = None


class _Probe(msgspec.Struct):
    class Choice(msgspec.Struct):
        token_ids: list[int] | None = None

    choices: list[Choice] = []


_models = msgspec.json.Decoder(_Models)
_probe = msgspec.json.Decoder(_Probe)


async def describe(http: Http, options: ReplicaOptions, *, model: str | None, text: TextTokenizer | None) -> Described:
    """Ask a healthy server what it is. `model` is the folder with its config.json, if there is one.

    `text` is the model's tokenizer. Raises ConfigurationError if the server has no such model, or if it knows no token
    ids and `text` is None.
    """
    card = await _card(http, options)
    protocol = options.protocol
    if protocol == "auto":
        protocol = "sglang" if card.owned_by == "sglang" else await _protocol(http, card.id)
    sizes, vllm = await _sizes(http, protocol, options.health_timeout)
    info = EngineInfo(
        model=card.id,
        vocab_size=options.vocab_size or _vocabulary(model) or _ANY_ID,
        context_limit=options.context_limit or card.max_model_len or _CONTEXT_LIMIT,
        kv_tokens=options.kv_tokens or sizes.kv_tokens or _KV_TOKENS,
        block_size=options.block_size or sizes.block_size or _BLOCK_SIZE,
        max_running=options.max_running or sizes.max_running or _MAX_RUNNING,
        reports_evictions=options.kv_events is not None,
        reports_steps=False,
        cost=options.cost,
    )
    if protocol == "sglang" and info.vocab_size == _ANY_ID:
        _logger.warning("%s: give model= or vocab_size, since SGLang dies of ids outside its vocabulary", http.url)
    return Described(info, await _api(http, protocol, card.id, text), protocol, vllm)


async def _card(http: Http, options: ReplicaOptions) -> ModelCard:
    cards = decoded(await http.get("/v1/models", timeout=options.health_timeout), _models).data
    wanted = [card for card in cards if options.served_model in (None, card.id)]
    if not wanted:
        names = ", ".join(card.id for card in cards[:10]) or "none"
        raise ConfigurationError(f"served_model: {http.url} has no {options.served_model!r}, it has: {names}")
    return wanted[0]


async def _protocol(http: Http, model: str) -> Protocol:
    """Generate one token and see whether its id comes back."""
    return "tokens" if await _answers_ids(http, model, return_token_ids=True) else "text"


async def _api(http: Http, protocol: Protocol, model: str, text: TextTokenizer | None) -> CompletionApi:
    if protocol == "sglang":
        return Generate()
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
    except (InvalidRequestError, EngineError):
        return None
    choices = decoded(events[0], _probe).choices if events else []
    return bool(choices and choices[0].token_ids)


async def _sizes(http: Http, protocol: Protocol, timeout: float) -> tuple[Sizes, bool]:
    """Return the sizes that a server publishes, and whether it has vLLM's metrics."""
    try:
        if protocol == "sglang":
            return sglang_sizes(await http.get("/server_info", timeout=timeout)), False
        sizes = vllm_sizes((await http.get("/metrics", timeout=timeout)).decode(errors="replace"))
        return sizes, sizes.kv_tokens is not None
    except PrebleError as error:
        _logger.info("%s publishes no sizes: %s", http.url, error)
        return Sizes(), False


def _vocabulary(model: str | None) -> int | None:
    file = Path(model, "config.json") if model else None
    if file is None or not file.exists():
        return None
    try:
        config = msgspec.json.decode(file.read_bytes(), type=_Config)
    except msgspec.MsgspecError:
        return None
    return config.vocab_size or (config.text_config.vocab_size if config.text_config else None)
