"""How the answers of a model are read: the parsers that its chat template, or the server's options, call for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from preble.serve.parsers import Format, Make, reader, reasons, tool_format
from preble.serve.parsers.think import BEGIN
from preble.serve.served import Served
from preble.text import ChatTokenizer

_TRIAL = [{"role": "user", "content": ""}]


class Reading(msgspec.Struct, frozen=True):
    """What makes a parser for each sample, and whether the text must show special tokens for it."""

    make: Make | None = None
    shows_special: bool = False


def reading(served: Served, template_kwargs: Mapping[str, Any], *, tools: bool, single: bool) -> Reading:
    """Return how to read the answer to a chat: for calls only if it has `tools`, of which `single` keeps the first."""
    tokenizer = served.cluster.tokenizer
    if tokenizer is None:
        return Reading()
    source = tokenizer.chat_template
    tool = tool_format(served.tool_parser, source)
    if tool is not None and not tools and not tool.reasons:
        tool = None
    think = reasons(served.reasoning_parser, source)
    special = _special(tool, tokenizer)
    hidden = tokenizer.special_tokens - special if special else frozenset()
    inside = think and _inside(tokenizer, template_kwargs)
    return Reading(reader(tool, think=think, inside=inside, hidden=hidden, single=single), bool(special))


def _special(tool: Format | None, tokenizer: ChatTokenizer) -> frozenset[str]:
    """Return the special tokens that the text must show."""
    return frozenset() if tool is None else tool.special & tokenizer.special_tokens


def _inside(tokenizer: ChatTokenizer, template_kwargs: Mapping[str, Any]) -> bool:
    """Whether the prompt itself begins the reasoning."""
    given = {name: value for name, value in template_kwargs.items() if name != "continue_final_message"}
    text = tokenizer.apply_chat_template(_TRIAL, tokenize=False, **given)
    return str(text).rstrip().endswith(BEGIN)
