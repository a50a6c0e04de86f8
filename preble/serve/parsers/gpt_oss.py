"""gpt-oss: messages on channels, `<|channel|>analysis<|message|>...<|end|>`, one of which may be a call."""

from __future__ import annotations

import re

from preble.serve.parsers.held import beginning, first
from preble.serve.parsers.said import CallPart, Said

_CHANNEL, _MESSAGE, _START = "<|channel|>", "<|message|>", "<|start|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>")
SPECIAL = frozenset({_CHANNEL, _MESSAGE, _START, "<|constrain|>", *_ENDS})
"""Special tokens, which must stay in the text."""
_RECIPIENT = re.compile(r"\bto=functions\.([^\s<]+)")


class GptOss:
    """Reasoning is what is said on the channel `analysis`; what is said to a function is a call of it."""

    def __init__(self) -> None:
        """Begin an answer. What comes before a header is text."""
        self._text = ""
        self._header: str | None = None
        self._kind = "final"
        self._calls = 0
        self._said: list[Said] = []

    def add(self, text: str) -> Said:
        """Take the next characters and return what is certain by now."""
        self._text += text
        while self._text and (self._body() if self._header is None else self._in_header()):
            pass
        return self._taken()

    def finish(self) -> Said:
        """Return what was held back: the output has ended."""
        if self._header is None and self._text:
            self._say(self._text)
        self._text = ""
        return self._taken()

    def _in_header(self) -> bool:
        """Read a header up to its end, and return whether it is there."""
        at = self._text.find(_MESSAGE)
        if at < 0:
            return False
        header, self._header = self._text[:at], None
        self._text = self._text[at + len(_MESSAGE) :]
        recipient = _RECIPIENT.search(header)
        if recipient is not None:
            self._kind = "call"
            self._said.append(Said(calls=(CallPart(self._calls, recipient[1]),)))
            self._calls += 1
        else:
            self._kind = "analysis" if "analysis" in header else "final"
        return True

    def _body(self) -> bool:
        """Read a message up to its end, and return whether there is more to do."""
        marks = (*_ENDS, _START, _CHANNEL)
        at, mark = first(self._text, marks)
        if at < 0:
            held = beginning(self._text, marks, spaces=False)
            self._say(self._text[: len(self._text) - held])
            self._text = self._text[len(self._text) - held :]
            return False
        self._say(self._text[:at])
        self._text = self._text[at + len(mark) :]
        if mark not in _ENDS:
            self._header = mark
        return True

    def _say(self, text: str) -> None:
        if not text:
            return
        if self._kind == "call":
            self._said.append(Said(calls=(CallPart(self._calls - 1, None, text),)))
        else:
            self._said.append(Said(reasoning=text) if self._kind == "analysis" else Said(text=text))

    def _taken(self) -> Said:
        said, self._said = self._said, []
        return Said(
            "".join(each.text for each in said),
            "".join(each.reasoning for each in said),
            tuple(part for each in said for part in each.calls),
        )
