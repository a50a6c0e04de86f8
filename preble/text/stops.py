"""Stop strings in a stream of text."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Finds the first stop string in a stream, whose pieces may be cut anywhere, and holds back as little as possible.

    The match that ends first wins, and the longest of those that end together. The stop string itself is emitted if
    `include` is true. The time is amortised constant for each character and stop string (Knuth-Morris-Pratt).
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        self._stops = sorted(set(stops), key=len, reverse=True)
        self._fallbacks = [_fallbacks(stop) for stop in self._stops]
        self._progress = [0] * len(self._stops)
        self._include = include
        self._held = ""
        self.matched: str | None = None

    def feed(self, text: str, *, armed: bool = True) -> tuple[str, str | None]:
        """Take more text. Return the text that can be emitted, and the stop string if one has matched.

        After a match, text is dropped and the same match returned. Unless `armed`, a stop string that ends in this text
        is no match; one that begins in it and ends later may be.
        """
        if self.matched is not None:
            return "", self.matched
        if not self._stops:
            return text, None
        for position, character in enumerate(text, start=1):
            self.matched = self._advance(character, armed)
            if self.matched is not None:
                return self._end(self._held + text[:position], self.matched)
        text = self._held + text
        cut = len(text) - max(self._progress)
        self._held = text[cut:]
        return text[:cut], None

    def flush(self) -> str:
        """Return the text that was held back, at the end of the stream."""
        held, self._held = self._held, ""
        self._progress = [0] * len(self._stops)
        return held

    def check(self) -> None:
        """Raise AssertionError unless the held text is the longest end of the stream that begins a stop string."""
        if self.matched is not None:
            assert not self._held, f"{self._held!r} held after a match"
            return
        begun = [_begun(self._held, stop) for stop in self._stops]
        assert begun == self._progress, f"progress {self._progress}, but the text says {begun}"
        assert len(self._held) == max(begun, default=0), f"{self._held!r} held without need"

    def _advance(self, character: str, armed: bool) -> str | None:
        """Move every stop string's automaton by one character; return the longest that is complete, if `armed`."""
        for index, stop in enumerate(self._stops):
            size = self._progress[index]
            while size and stop[size] != character:
                size = self._fallbacks[index][size - 1]
            self._progress[index] = size + (stop[size] == character)
            if self._progress[index] == len(stop):
                if armed:
                    return stop
                self._progress[index] = self._fallbacks[index][-1]
        return None

    def _end(self, text: str, stop: str) -> tuple[str, str]:
        self._held = ""
        return text if self._include else text[: -len(stop)], stop


def _fallbacks(stop: str) -> list[int]:
    """Return for each beginning of `stop` the length of its longest proper suffix that is also a beginning."""
    sizes = [0]
    size = 0
    for character in stop[1:]:
        while size and stop[size] != character:
            size = sizes[size - 1]
        size += stop[size] == character
        sizes.append(size)
    return sizes


def _begun(text: str, stop: str) -> int:
    """Return how many characters of `stop`, but not all, `text` ends with."""
    return max(size for size in range(len(stop)) if text.endswith(stop[:size]))
