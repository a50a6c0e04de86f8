"""The text of one sample as it grows, in whole characters and cut at the first stop string."""

from __future__ import annotations

from collections.abc import Sequence

from preble.text.detokenizer import Detokenizer
from preble.text.stops import StopStrings
from preble.text.tokenizer import Tokenizer

_FIRST_MARK, _MARKS = 0xD800, 2048


class Transcript:
    """Turns token ids into text, and holds back what may still become a character or a stop string.

    `prompt` are the ids that came before, of which the last few are enough. A stop string ends the text once more than
    `min_tokens` ids have come, as in vLLM. It may hold special tokens, though their text is not shown
    with `skip_special_tokens`.

    `used` is the number of ids up to the one that completed a stop string. Later ids are not part of the sample, even
    those that came in the same delta.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str],
        *,
        include_stop: bool,
        prompt: Sequence[int] = (),
        min_tokens: int = 0,
        skip_special_tokens: bool = True,
    ) -> None:
        self.used = 0
        self._detokenizer = Detokenizer(tokenizer, prompt=prompt, skip_special_tokens=skip_special_tokens)
        self._marks = _marks(tokenizer, stops) if skip_special_tokens else {}
        self._named = {_marked(stop, self._marks): stop for stop in stops}
        self._stops = StopStrings(list(self._named), include=include_stop)
        self._unseen = dict.fromkeys(map(ord, self._marks.values()))
        special = tokenizer.special_tokens() if self._marks else {}
        self._mark_of = {special[token]: mark for token, mark in self._marks.items()}
        self._include = include_stop
        self._min_tokens = min_tokens
        self._stepwise = bool(stops)

    @property
    def matched(self) -> str | None:
        """The stop string that ended the text, if one did."""
        return None if self._stops.matched is None else self._named[self._stops.matched]

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
            shown += self._feed(self._mark_of.get(id) or self._detokenizer.add((id,)))
        return shown

    def finish(self) -> str:
        """Return the rest of the text, after the last id."""
        if self.matched is not None:
            return ""
        rest = self._feed(self._detokenizer.finish())
        return rest if self.matched else rest + self._stops.flush().translate(self._unseen)

    def _feed(self, text: str) -> str:
        shown, matched = self._stops.feed(text, armed=self.used > self._min_tokens)
        if matched is None or not self._include:
            return shown.translate(self._unseen)
        return shown[: -len(matched)].translate(self._unseen) + self._named[matched]


def _marks(tokenizer: Tokenizer, stops: Sequence[str]) -> dict[str, str]:
    """Return for each special token in a stop string a character that no text has, a lone surrogate."""
    found = [token for token in tokenizer.special_tokens() if any(token in stop for stop in stops)] if stops else []
    found.sort(key=len, reverse=True)
    return {token: chr(_FIRST_MARK + index) for index, token in enumerate(found[:_MARKS])}


def _marked(stop: str, marks: dict[str, str]) -> str:
    for token, mark in marks.items():
        stop = stop.replace(token, mark)
    return stop
