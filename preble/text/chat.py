"""From chat messages to the text of a prompt, through the model's own template."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from preble.errors import InvalidRequestError, ModelError
from preble.text.continuing import cut, tag
from preble.text.gguf import chat_templates
from preble.text.messages import plain, template_messages
from preble.text.model_files import named_tokens, read, read_config
from preble.text.parts import check_parts, join_parts, takes_parts
from preble.text.tokenizer import MAX_CHARACTERS


class ChatTemplate:
    """A model's Jinja template, rendered in a sandbox as transformers renders it.

    `sources` maps names to templates: "default", and "tool_use" where there is another for requests with tools.
    `special_tokens` are variables, such as `eos_token`. Raises ModelError if a template is malformed.
    """

    def __init__(
        self,
        sources: Mapping[str, str],
        special_tokens: Mapping[str, str] | None = None,
        *,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        from jinja2 import TemplateSyntaxError

        from preble.text.sandbox import make_environment

        if "default" not in sources:
            raise ModelError(f"no chat template is named default, only {', '.join(sources)}")
        self.sources = dict(sources)
        environment = make_environment(now)
        try:
            self._templates = {name: environment.from_string(source) for name, source in sources.items()}
        except (TemplateSyntaxError, RecursionError) as error:
            raise ModelError(f"the chat template is malformed: {error}") from None
        self._special_tokens = dict(special_tokens or {})
        self._parts: dict[str, bool] = {}

    @classmethod
    def load(cls, model_path: str | Path, *, now: Callable[[], datetime] = datetime.now) -> ChatTemplate | None:
        """Read the template of a Hugging Face folder or a GGUF file; None if it has none.

        Of a folder, looks at chat_template.jinja and additional_chat_templates/, else at tokenizer_config.json. Raises
        ModelError if a file is malformed.
        """
        folder = Path(model_path)
        if folder.is_file():
            sources, tokens = chat_templates(folder)
            return cls(sources, tokens, now=now) if sources else None
        config = read_config(folder / "tokenizer_config.json")
        sources = dict(_template_files(folder)) or _configured_templates(config.get("chat_template"))
        if not sources:
            return None
        tokens = named_tokens(read_config(folder / "special_tokens_map.json")) | named_tokens(config)
        return cls(sources, tokens, now=now)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool | str = False,
        **extra: Any,
    ) -> str:
        """Return the prompt's text; it holds the special tokens, so encode it with `add_special_tokens=False`.

        `messages` are objects with a `role` and a `content`: text, or a list of text parts, which are joined by line
        breaks if the template does not take lists. They may be dicts, or objects with `model_dump` or `to_dict`.
        `tools` are JSON schemas, `documents` are texts that the template may quote, and `extra` are further variables
        of the template. Everything must be JSON. The prompt ends with the beginning of the assistant's message unless
        `add_generation_prompt` is False. With `continue_final_message=True` the prompt ends with the content of the
        last message, so that the model continues it; the name of another field of the message may be given instead of
        True. Raises InvalidRequestError naming the argument, with the template's own message if it refuses, and for
        images and sound; ModelError if the template tries to leave the sandbox.
        """
        if continue_final_message and add_generation_prompt:
            raise InvalidRequestError("not with add_generation_prompt", field="continue_final_message")
        name = "tool_use" if tools and "tool_use" in self._templates else "default"
        plain_messages = template_messages(messages)
        if check_parts(plain_messages) and not self._takes_parts(name):
            join_parts(plain_messages)
        if continue_final_message:
            tag(plain_messages, continue_final_message if isinstance(continue_final_message, str) else "content")
        variables = {
            **self._special_tokens,
            **plain(extra, dict[str, Any], "chat_template_kwargs"),
            "messages": plain_messages,
            "tools": plain(tools, list[dict[str, Any]], "tools") if tools else None,
            "documents": None if documents is None else plain(documents, list[dict[str, Any]], "documents"),
            "add_generation_prompt": not continue_final_message and add_generation_prompt is not False,
        }
        text = self._shown(name, variables)
        return cut(text) if continue_final_message else text

    def _shown(self, name: str, variables: dict[str, Any]) -> str:
        try:
            return self._run(name, variables)
        except InvalidRequestError:
            calls = [each for each in variables["messages"] if "tool_calls" in each and "content" not in each]
            if not calls:
                raise
        for message in calls:  # many templates join content to other text
            message["content"] = ""
        return self._run(name, variables)

    def _takes_parts(self, name: str) -> bool:
        if name not in self._parts:
            variables = {**self._special_tokens, "tools": None, "documents": None, "add_generation_prompt": True}
            self._parts[name] = takes_parts(lambda messages: self._run(name, {**variables, "messages": messages}))
        return self._parts[name]

    def _run(self, name: str, variables: dict[str, Any]) -> str:
        from jinja2.exceptions import SecurityError

        try:
            return _bounded(self._templates[name].generate(variables))
        except InvalidRequestError:
            raise
        except SecurityError as error:
            raise ModelError(f"the chat template tries to leave its sandbox: {error}") from None
        except Exception as error:  # a template can fail in any way
            raise InvalidRequestError(f"the chat template refuses them: {error}", field="messages") from None


def _bounded(pieces: Iterator[str]) -> str:
    kept, size = [], 0
    for piece in pieces:
        kept.append(piece)
        size += len(piece)
        if size > MAX_CHARACTERS:
            raise InvalidRequestError(f"more than {MAX_CHARACTERS} characters as text", field="messages")
    return "".join(kept)


def _template_files(folder: Path) -> Iterator[tuple[str, str]]:
    if (folder / "chat_template.jinja").exists():
        yield "default", read(folder / "chat_template.jinja")
    for file in sorted(folder.glob("additional_chat_templates/*.jinja")):
        yield file.stem, read(file)


def _configured_templates(template: object) -> dict[str, str]:
    """Return the templates of tokenizer_config.json, where it is text or a list of named texts."""
    if not template:
        return {}
    if isinstance(template, str):
        return {"default": template}
    try:
        entries = msgspec.convert(template, list[dict[str, str]])
        return {entry["name"]: entry["template"] for entry in entries}
    except (msgspec.ValidationError, KeyError):
        raise ModelError("chat_template is neither text nor a list of named texts") from None
