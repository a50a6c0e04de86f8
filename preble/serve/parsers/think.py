"""DeepSeek-R1, Qwen3 and others: reasoning between `<think>` and `</think>`, before the answer."""

from __future__ import annotations

from preble.serve.parsers.held import beginning
from preble.serve.parsers.said import Said

BEGIN, END = "<think>", "</think>"


class Think:
    """Reasoning up to the end marker, then text. Spaces around the markers are not shown."""

    def __init__(self, *, inside: bool = False) -> None:
        """Begin an answer, `inside` the reasoning if the prompt has its begin marker already."""
        self._text = ""
        self._reasons: bool | None = True if inside else None
        self._fresh = True

    def add(self, text: str) -> Said:
        """Take the next characters and return what is certain by now."""
        self._text += text
        if self._reasons is None:
            self._begin()
        if self._reasons:
            return self._reasoning()
        return self._answer() if self._reasons is False else Said()

    def finish(self) -> Said:
        """Return what was held back: the output has ended."""
        text, self._text = self._text, ""
        return Said(reasoning=text) if self._reasons else Said(text=text)

    def _begin(self) -> None:
        start = self._text.lstrip()
        if start.startswith(BEGIN):
            self._reasons, self._text = True, start[len(BEGIN) :]
        elif not BEGIN.startswith(start):
            self._reasons, self._fresh = False, False

    def _reasoning(self) -> Said:
        if self._fresh:
            self._text = self._text.lstrip()
            self._fresh = not self._text
        at = self._text.find(END)
        if at < 0:
            certain = len(self._text) - beginning(self._text, [END])
            said, self._text = Said(reasoning=self._text[:certain]), self._text[certain:]
            return said
        reasoning = self._text[:at].rstrip()
        self._reasons, self._fresh, self._text = False, True, self._text[at + len(END) :]
        return Said(self._answer().text, reasoning)

    def _answer(self) -> Said:
        text = self._text.lstrip() if self._fresh else self._text
        self._fresh, self._text = self._fresh and not text, ""
        return Said(text)
