"""Which parsers read a model's answers: as its chat template shows, or by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module

import msgspec

from preble.errors import ConfigurationError, nearest
from preble.serve.parsers import deepseek, gpt_oss, hermes, llama3, mistral
from preble.serve.parsers.said import CallPart, Parser, Said
from preble.serve.parsers.think import Think

Make = Callable[[], Parser]


class Format(msgspec.Struct, frozen=True):
    """A way to write calls. A template with `sign` in it uses it; `special` tokens must stay in the text.

    It `reasons` if reasoning is part of the same format, so that answers without calls are read too.
    """

    make: Make
    sign: str
    special: frozenset[str] = frozenset()
    reasons: bool = False


TOOL_PARSERS: Mapping[str, Format] = {
    "gpt-oss": Format(gpt_oss.GptOss, "<|channel|>", gpt_oss.SPECIAL, reasons=True),
    "deepseek": Format(deepseek.deepseek, deepseek.BEGIN, deepseek.SPECIAL),
    "mistral": Format(mistral.mistral, "[TOOL_CALLS]", mistral.SPECIAL),
    "hermes": Format(hermes.hermes, "<tool_call>", hermes.SPECIAL),
    "llama3-json": Format(llama3.Llama3, '"parameters": dictionary', llama3.SPECIAL),
}
"""By name, in the order in which "auto" looks for their signs."""
REASONING_PARSERS = ("think", "gpt-oss")


def tool_format(name: str | None, template: str) -> Format | None:
    """Return the format of that name, of a class ("module:Class"), or for "auto" of a template; None if it has none.

    A class may name the special tokens that it reads: a set of texts, `special`. Others are taken out of its text.
    Raises ConfigurationError for a name that does not exist.
    """
    if name is None:
        return None
    if name == "auto":
        return next((each for each in TOOL_PARSERS.values() if each.sign in template), None)
    if name in TOOL_PARSERS:
        return TOOL_PARSERS[name]
    if ":" in name:
        make = _class(name)
        return Format(make, "", frozenset(getattr(make, "special", ())))
    raise ConfigurationError(f"tool_parser: {name!r} is unknown{nearest(name, TOOL_PARSERS)}")


def reasons(name: str | None, template: str) -> bool:
    """Return whether answers have reasoning between `<think>` and `</think>`. Raises ConfigurationError.

    That of gpt-oss stands on a channel, which its own parser reads.
    """
    if name not in (None, "auto", *REASONING_PARSERS):
        raise ConfigurationError(f"reasoning_parser: {name!r} is unknown{nearest(str(name), REASONING_PARSERS)}")
    return name == "think" or (name == "auto" and "<think>" in template)


class Both:
    """Reasoning first; what it leaves is read for calls. Special tokens that neither knows are not shown."""

    def __init__(self, reasoning: Parser | None, calls: Parser | None, hidden: frozenset[str], *, single: bool) -> None:
        """`single` keeps the first call only."""
        self._reasoning = reasoning
        self._calls = calls
        self._hidden = hidden
        self._single = single

    def add(self, text: str) -> Said:
        """Take the next characters and return what is certain by now."""
        for token in self._hidden:
            text = text.replace(token, "")
        said = Said(text) if self._reasoning is None else self._reasoning.add(text)
        return self._read(said) if said.text else said

    def finish(self) -> Said:
        """Return what was held back: the output has ended."""
        said = Said() if self._reasoning is None else self._reasoning.finish()
        said = self._read(said) if said.text else said
        return said if self._calls is None else _joined(said, self._few(self._calls.finish()))

    def _read(self, said: Said) -> Said:
        if self._calls is None:
            return said
        return _joined(Said(reasoning=said.reasoning), self._few(self._calls.add(said.text)))

    def _few(self, said: Said) -> Said:
        if not self._single:
            return said
        calls: tuple[CallPart, ...] = tuple(part for part in said.calls if part.index == 0)
        return Said(said.text, said.reasoning, calls)


def reader(
    tool: Format | None, *, think: bool, inside: bool, hidden: frozenset[str] = frozenset(), single: bool = False
) -> Make | None:
    """Return what makes a parser for each sample, None if answers are text alone."""
    if tool is None and not think:
        return None

    def make() -> Parser:
        reasoning = Think(inside=inside) if think else None
        return Both(reasoning, None if tool is None else tool.make(), hidden, single=single)

    return make


def _joined(first: Said, last: Said) -> Said:
    return Said(first.text + last.text, first.reasoning + last.reasoning, first.calls + last.calls)


def _class(name: str) -> Make:
    module, _, attribute = name.partition(":")
    try:
        found: Make = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"tool_parser: {name!r} cannot be imported: {error}") from None
    return found
