"""What callers pass as a prompt, to packed token ids; bad input is refused here, before anything is sent."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import msgspec

from preble.backends import EngineInfo
from preble.backends.checks import check_biases, check_structure
from preble.errors import ContextLengthError, InvalidRequestError
from preble.text import ChatTemplate, ChatTokenizer, Tokenizer
from preble.text.messages import is_typed, plain
from preble.text.plain import SMALLEST, plain_template, plain_tokenizer
from preble.tokens import TOKEN_BYTES, TokenInput, highest, pack
from preble.types import STRUCTURES, RequestOptions, SamplingParams

Messages: TypeAlias = Sequence[Mapping[str, Any]]

Prompt: TypeAlias = str | TokenInput | Messages
"""Text, token ids, or chat messages."""

_logger = logging.getLogger("preble.cluster.prompt")
_WRAP = 1 << 32
_NOT_VARIABLES = {"messages", "tools", "self", "tokenize"}
"""Arguments of the functions that render a chat, which have places of their own or none."""

MAX_PROMPT_LOGPROBS = 1 << 21
"""Most log-probabilities of a prompt, those of the likely tokens included, that one answer holds."""


class PromptReader:
    """Reads prompts for one model: its tokenizer and chat template, where it has them, and its bounds."""

    def __init__(self, model: str | None = None) -> None:
        """Read the model, if it is given, as `load` does."""
        self.tokenizer: Tokenizer | None = None
        self._template: ChatTemplate | None = None
        self._warned = False
        self._vocab_size = 0
        self._structures: list[str] = []
        self._room = 0
        if model is not None:
            self.load(model)

    def load(self, model: str) -> None:
        """Read the model's folder or GGUF file, which may take a moment. Raises ModelError if a file is malformed."""
        if Path(model).exists():
            self.tokenizer = Tokenizer.load(model)
            self._template = ChatTemplate.load(model)

    def bound(self, infos: Iterable[EngineInfo]) -> None:
        """Take the bounds of the workers: ids that all of them know, and the longest context that one of them has."""
        infos = list(infos)
        self._vocab_size = min(info.vocab_size for info in infos)
        self._structures = [name for name in STRUCTURES if all(name in info.structures for info in infos)]
        self._room = max(min(info.context_limit, info.kv_tokens) for info in infos)
        if self.tokenizer is None and self._vocab_size >= SMALLEST and all(info.plain_text for info in infos):
            self.tokenizer, self._template = plain_tokenizer(self._vocab_size), plain_template()

    def fitting(self, tokens: bytes) -> bytes:
        """Return as much of a prompt as leaves room for one token more: its server knows better how long it is."""
        return tokens[: max(1, self._room - 1) * TOKEN_BYTES]

    def check(self, sampling: SamplingParams) -> None:
        """Raise InvalidRequestError for sampling that this model cannot do."""
        if not isinstance(sampling, SamplingParams):
            raise InvalidRequestError(f"must be SamplingParams, not {type(sampling).__name__}", field="sampling")
        check_biases(sampling, self._vocab_size)
        check_structure(sampling, self._structures)
        if sampling.stop and self.tokenizer is None:
            raise InvalidRequestError("stop strings need a model with a tokenizer", field="stop")

    def limited(self, sampling: SamplingParams, prompt: Prompt, tokens: bytes) -> SamplingParams:
        """Return `sampling` with a number as `max_tokens`: what is left of the context, where nothing else bounds it.

        Raises InvalidRequestError if that is less than `min_tokens`, or if `prompt_logprobs` are more than fit into
        one answer.
        """
        entries = (1 + (sampling.prompt_logprobs or 0)) * len(tokens) // TOKEN_BYTES
        if sampling.prompt_logprobs is not None and entries > MAX_PROMPT_LOGPROBS:
            raise InvalidRequestError(f"{entries} entries, at most {MAX_PROMPT_LOGPROBS}", field="prompt_logprobs")
        if isinstance(sampling.max_tokens, int):
            return sampling
        room = self._room - len(tokens) // TOKEN_BYTES
        return msgspec.structs.replace(
            sampling, max_tokens=room if open_ended(sampling, prompt) else sampling.token_limit
        )

    async def tokens(self, prompt: Prompt, options: RequestOptions) -> bytes:
        """Return the packed token ids of a prompt. Raises InvalidRequestError and ContextLengthError."""
        if not _is_chat(prompt):
            _refuse(tools=options.tools, chat_template_kwargs=options.chat_template_kwargs)
        if isinstance(prompt, str):
            packed = pack(await self._text(prompt, options.add_special_tokens is not False), field="prompt")
        elif isinstance(prompt, Mapping) or is_typed(prompt):
            raise InvalidRequestError("a message alone: pass a list of messages", field="prompt")
        elif _is_chat(prompt):
            packed = pack(await self._chat(cast(Messages, prompt), options), field="prompt")
        else:
            _refuse_many(prompt)
            if options.add_special_tokens:
                raise InvalidRequestError("is for text: token ids stay as they are", field="add_special_tokens")
            packed = pack(cast(TokenInput, prompt), field="prompt")
        self._check_tokens(packed)
        return packed

    @property
    def public(self) -> ChatTokenizer | None:
        """What callers may use of the tokenizer and the chat template, None without a tokenizer."""
        return None if self.tokenizer is None else ChatTokenizer(self.tokenizer, self._template)

    async def _text(self, text: str, add_special_tokens: bool) -> list[int]:
        tokenizer = self._tokenizer("text")
        ids = await tokenizer.encode_async(text, add_special_tokens=add_special_tokens)
        if add_special_tokens and not self._warned and tokenizer.begins_twice(ids):
            self._warned = True
            _logger.warning("a prompt begins with its begin token twice: pass add_special_tokens=False if it has one")
        return ids

    async def _chat(self, messages: Messages, options: RequestOptions) -> list[int]:
        tokenizer = self._tokenizer("chat messages")
        if self._template is None:
            raise InvalidRequestError("the model has no chat template: pass text or token ids", field="prompt")
        text = self._template.render(messages, tools=options.tools, **template_options(options.chat_template_kwargs))
        return await tokenizer.encode_async(text, add_special_tokens=bool(options.add_special_tokens))

    def _tokenizer(self, kind: str) -> Tokenizer:
        if self.tokenizer is None:
            raise InvalidRequestError(f"{kind} cannot be read without a tokenizer: pass token ids", field="prompt")
        return self.tokenizer

    def _check_tokens(self, packed: bytes) -> None:
        if not packed:
            raise InvalidRequestError("must not be empty", field="prompt")
        top = highest(packed)
        if top >= self._vocab_size:
            shown = top if top < _WRAP // 2 else top - _WRAP
            raise InvalidRequestError(f"token id {shown} is outside [0, {self._vocab_size})", field="prompt")
        length = len(packed) // TOKEN_BYTES
        if length >= self._room:
            raise ContextLengthError(
                f"{length} tokens leave no room for one more in {self._room} (context and KV cache)", field="prompt"
            )


def open_ended(sampling: SamplingParams, prompt: Prompt) -> bool:
    """Return whether the output goes on until the model ends it: as asked for, or by default for chat messages."""
    return sampling.max_tokens is None or (sampling.max_tokens is msgspec.UNSET and _is_chat(prompt))


def _refuse(**chat_only: object) -> None:
    for name, value in chat_only.items():
        if value:
            raise InvalidRequestError("is for chat messages: this prompt has none", field=name)


def _refuse_many(prompt: object) -> None:
    if isinstance(prompt, (list, tuple)) and prompt and isinstance(prompt[0], (str, list, tuple)):
        raise InvalidRequestError(
            "not a sequence of 32-bit token ids: for several prompts, call `generate_many`", field="prompt"
        )


def template_options(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return `chat_template_kwargs` as JSON. Raises InvalidRequestError for what is no variable of a template."""
    options = plain({} if given is None else given, dict[str, Any], "chat_template_kwargs")
    for name in sorted(_NOT_VARIABLES & options.keys()):
        raise InvalidRequestError(f"{name} cannot be given here", field="chat_template_kwargs")
    return options


def _is_chat(prompt: object) -> bool:
    """Return whether `prompt` is a list of messages, given as mappings or as the objects that clients return."""
    return (
        isinstance(prompt, (list, tuple)) and bool(prompt) and (isinstance(prompt[0], Mapping) or is_typed(prompt[0]))
    )
