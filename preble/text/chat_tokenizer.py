"""A model's tokenizer and chat template together, as callers use them beside a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

from preble.errors import InvalidRequestError
from preble.text.chat import ChatTemplate
from preble.text.tokenizer import Tokenizer


class ChatTokenizer:
    """Text and chat messages to token ids and back, as the cluster does it for prompts. Safe to use from any thread."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None) -> None:
        self._tokenizer = tokenizer
        self._template = template

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the token ids of `text`, with those that the model begins or ends a text with.

        Raises InvalidRequestError (field "prompt") if it is not text, or is too long.
        """
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of `ids`. Unknown ids add nothing."""
        return self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    @property
    def special_tokens(self) -> frozenset[str]:
        """The control tokens, such as the end of a turn."""
        return frozenset(self._tokenizer.special_tokens())

    @property
    def chat_template(self) -> str:
        """The source of the chat template, of all of them if there are several; empty without one."""
        return "" if self._template is None else "\n".join(self._template.sources.values())

    def token_bytes(self, id: int) -> bytes:
        """Return the bytes of one id. Several ids may share a character, which only their bytes together make."""
        if self._tokenizer.byte_level and not self._tokenizer.is_special(id):
            return self._tokenizer.token_bytes(id)
        return self._tokenizer.decode([id], skip_special_tokens=False).encode()

    def count(self, prompt: str | Sequence[Any], **template: Any) -> int:
        """Return how many tokens a prompt of text or chat messages has.

        `template` are arguments of `apply_chat_template`, such as `tools`. Raises InvalidRequestError.
        """
        if isinstance(prompt, str):
            return len(self.encode(prompt))
        return len(self.apply_chat_template(prompt, **template))

    @overload
    def apply_chat_template(
        self, messages: Sequence[Any], *, tokenize: Literal[True] = True, **template: Any
    ) -> list[int]: ...
    @overload
    def apply_chat_template(self, messages: Sequence[Any], *, tokenize: Literal[False], **template: Any) -> str: ...
    def apply_chat_template(
        self, messages: Sequence[Any], *, tokenize: bool = True, **template: Any
    ) -> list[int] | str:
        """Return the token ids of the prompt that chat messages become, or its text with `tokenize=False`.

        `template` are further arguments of `ChatTemplate.render`: `tools`, `documents`, `add_generation_prompt` (true
        if not given), `continue_final_message`, and variables of the template. Raises InvalidRequestError, also if the
        model has no chat template.
        """
        if self._template is None:
            raise InvalidRequestError("the model has no chat template: pass text or token ids", field="prompt")
        text = self._template.render(messages, **template)
        return self._tokenizer.encode(text, add_special_tokens=False) if tokenize else text
