"""What one sample says, as the output items of a response and the events that stream them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from preble.serve.blocks import Begin, End, Kind, More, Step

Event = dict[str, Any]

_PREFIX: dict[Kind, str] = {"reasoning": "rs", "text": "msg", "call": "fc"}
_DELTA: dict[Kind, str] = {
    "reasoning": "response.reasoning_text",
    "text": "response.output_text",
    "call": "response.function_call_arguments",
}


class Output:
    """The output of a response as it grows. `items` are those that ended.

    Ids come from `token`, which is the response's own: the item at place 2 of response `resp_a1` is `msg_a102`.
    """

    def __init__(self, token: str) -> None:
        """Begin with no item."""
        self.items: list[Event] = []
        self._token = token
        self._open = Begin(0, "text")
        self._logprobs: list[Event] = []  # of tokens whose text has not come
        self._shown: list[Event] = []  # of the text of the open item

    def wait(self, logprobs: Sequence[Event]) -> None:
        """Take the log-probabilities of tokens, in the protocol's form: the next event of text has them."""
        self._logprobs.extend(logprobs)

    def add(self, step: Step) -> Iterator[Event]:
        """Yield the events of a step."""
        match step:
            case Begin():
                self._open, self._shown = step, []
                yield from self._begin()
            case More(text):
                yield self._event(_DELTA[self._open.kind] + ".delta", delta=text, **self._text_logprobs())
            case End(text, cut):
                yield from self._end(text, "incomplete" if cut else "completed")

    def _text_logprobs(self) -> dict[str, Any]:
        """Return the waiting log-probabilities for an event of text. Those of other tokens are shown nowhere."""
        new, self._logprobs = self._logprobs, []
        if self._open.kind != "text":
            return {}
        self._shown.extend(new)
        return {"logprobs": new}

    def _begin(self) -> Iterator[Event]:
        yield self._item_event("added", self._item("", "in_progress", parts=False))
        if self._open.kind != "call":
            yield self._event("response.content_part.added", part=self._part(""))

    def _end(self, text: str, status: str) -> Iterator[Event]:
        done = _DELTA[self._open.kind] + ".done"
        if self._open.kind == "call":
            yield self._event(done, arguments=text, name=self._open.name)
        else:
            yield self._event(done, text=text, **({"logprobs": self._shown} if self._open.kind == "text" else {}))
            yield self._event("response.content_part.done", part=self._part(text))
        self.items.append(self._item(text, status))
        yield self._item_event("done", self.items[-1])

    def _event(self, kind: str, **fields: Any) -> Event:
        content = {} if self._open.kind == "call" else {"content_index": 0}
        return {"type": kind, "item_id": self._id(), "output_index": self._open.index, **content, **fields}

    def _item_event(self, kind: str, item: Event) -> Event:
        return {"type": f"response.output_item.{kind}", "output_index": self._open.index, "item": item}

    def _id(self) -> str:
        return f"{_PREFIX[self._open.kind]}_{self._token}{self._open.index:02}"

    def _item(self, text: str, status: str, *, parts: bool = True) -> Event:
        content = [self._part(text)] if parts else []
        match self._open.kind:
            case "text":
                return {"type": "message", "id": self._id(), "role": "assistant", "status": status, "content": content}
            case "reasoning":
                return {"type": "reasoning", "id": self._id(), "summary": [], "content": content, "status": status}
        call_id = f"call_{self._token}{self._open.index:02}"
        call = {"call_id": call_id, "name": self._open.name, "arguments": text, "status": status}
        return {"type": "function_call", "id": self._id(), **call}

    def _part(self, text: str) -> Event:
        if self._open.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(self._shown)}
