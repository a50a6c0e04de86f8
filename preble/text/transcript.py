"""The text of one sample as it grows, in whole characters and cut at the first stop string."""

from __future__ import annotations

from collections.abc import Sequence

from preble.text.detokenizer import Detokenizer
from preble.text.stops import StopStrings
from preble.text.tokenizer import Tokenizer


class Transcript:
    """Turns token ids into text, and holds back what may still become a character or a stop string.

    `used` is the number of ids up to the one that completed a stop string. Later ids are not part of the sample, even
    those that came in the same delta.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str], *, include_stop: bool) -> None:
        self.used = 0
        self._detokenizer = Detokenizer(tokenizer)
        self._stops = StopStrings(stops, include=include_stop)
        self._stepwise = bool(stops)

    @property
    def matched(self) -> str | None:
        """The stop string that ended the text, if one did."""
        return self._stops.matched

    def add(self, ids: Sequence[int]) -> str:
        """Take the next ids and return the text that is certain now."""
        if not self._stepwise:
            self.used += len(ids)
            return self._detokenizer.add(ids)
        shown = ""
        for id in ids:
            if self.matched is not None:
                break
            self.used += 1
            shown += self._stops.feed(self._detokenizer.add((id,)))[0]
        return shown

    def finish(self) -> str:
        """Return the rest of the text, after the last id."""
        rest, matched = self._stops.feed(self._detokenizer.finish())
        return rest if matched else rest + self._stops.flush()
