"""Text that may be the beginning of a marker, held back until that is certain."""

from __future__ import annotations

from collections.abc import Sequence


def beginning(text: str, markers: Sequence[str], *, spaces: bool = True) -> int:
    """Return how many characters at the end may begin one of the `markers`; `spaces` before them count too."""
    longest = max(map(len, markers))
    for length in range(min(len(text), longest - 1), 0, -1):
        if any(marker.startswith(text[-length:]) for marker in markers):
            return length + (_spaces(text[:-length]) if spaces else 0)
    return _spaces(text) if spaces else 0


def first(text: str, markers: Sequence[str]) -> tuple[int, str]:
    """Return where the first of the `markers` begins in `text`, and which it is; -1 and "" if there is none."""
    found = [(at, marker) for marker in markers if (at := text.find(marker)) >= 0]
    return min(found, key=lambda each: (each[0], -len(each[1])), default=(-1, ""))


def _spaces(text: str) -> int:
    return len(text) - len(text.rstrip())
