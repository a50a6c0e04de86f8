"""A model that says what a test tells it to say, and remembers what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import msgspec

from preble import PrebleCluster, SamplingParams
from preble.cluster.prompt import Prompt
from preble.dispatch.request import InFlightRequest, Sample
from preble.errors import EngineError, InvalidRequestError, PrebleError
from preble.testing.faults import Faults
from preble.testing.replies import Call, Part, Reply, ToolCall, When, check_parts
from preble.testing.scripted_engine import CONTEXT, ScriptedEngine
from preble.tokens import TOKEN_BYTES, unpack

Answerer: TypeAlias = Callable[[Call], Awaitable[Reply | None]]
"""Says from elsewhere what a call is answered; None if there is no answer."""

_SHOWN = 4000


class Script:
    """What a model is to say, and afterwards what it was asked.

    >>> script = Script()
    >>> script.reply("It rains.", when="weather")
    >>> async with script.cluster() as cluster:
    ...     out = await cluster.generate([{"role": "user", "content": "How is the weather?"}])
    >>> out.text, script.calls[0].messages
    ('It rains.', [{'role': 'user', 'content': 'How is the weather?'}])

    `calls` are the requests in order, and `unanswered` those that nothing answers.

    A request gets the first reply for which `when` holds and that is not used up. A request that nothing answers fails
    with InvalidRequestError, and `check` raises AssertionError with its prompt. `answerer` is asked instead of the
    replies if it is given. Replies may be given in any thread, while the clusters are on one event loop.
    """

    def __init__(self, answerer: Answerer | None = None) -> None:
        self.calls: list[Call] = []
        self.unanswered: list[Call] = []
        self._answerer = answerer
        self._replies: list[Reply] = []
        self._used: list[int] = []
        self._open: list[_Open] = []

    def reply(
        self,
        *parts: Part,
        when: When | None = None,
        times: int | None = 1,
        error: PrebleError | None = None,
    ) -> None:
        """Answer a request with `parts`, each of which is a chunk of its own in a stream.

        * `parts`: text, `ToolCall`s, and numbers, which are seconds to wait before the next part.
        * `when`: text that the last message of the request contains, or a function of its `Call`.
        * `times`: how many requests it answers; None is all that come.
        * `error`: what the engine raises after the parts. An InvalidRequestError is the request's fault. Any other is
          the engine's, so that the request is tried on the other workers, which fail in the same way.

        If the request has `max_tokens`, the reply ends there, as that of a model would. Raises TypeError and ValueError
        for a part that is none.
        """
        check_parts(parts)
        self._replies.append(Reply(parts, when, times, error))
        self._used.append(0)

    def call_tool(self, name: str, /, **arguments: Any) -> None:
        """Answer a request with the call of a tool: short for `reply(ToolCall(name, arguments))`."""
        self.reply(ToolCall(name, arguments))

    @property
    def unused(self) -> list[Reply]:
        """The replies that have answered fewer requests than they were given for."""
        pairs = zip(self._replies, self._used, strict=True)
        return [reply for reply, used in pairs if used < (1 if reply.times is None else reply.times)]

    def clear(self) -> None:
        """Forget the calls and the replies."""
        self.calls.clear()
        self.unanswered.clear()
        self._replies.clear()
        self._used.clear()

    def check(self) -> None:
        """Raise AssertionError if nothing answered a request; it shows the prompt."""
        if self.unanswered:
            raise AssertionError("\n".join(map(_nothing_answers, self.unanswered)))

    def cluster(self, *, faults: Faults | None = None, **options: Any) -> PrebleCluster:
        """Return a cluster whose workers follow this script, in the event loop that starts it.

        With `faults` its engines can be broken. `options` are those of `PrebleCluster`. Of a `model`, the tokenizer and
        the chat template are used. Without one, a token is a byte, and the chat template is a plain one.
        """

        def engine(model: str | None = None) -> ScriptedEngine:
            return ScriptedEngine(self._find, lambda text: _encoded(cluster, text), model)

        backend = engine if faults is None else faults.around(engine)
        cluster = PrebleCluster(backend=backend, processes=False, **options)
        cluster._watch_requests(partial(self._asked, cluster))
        return cluster

    def _asked(
        self, cluster: PrebleCluster, prompt: Prompt, sampling: SamplingParams, request: InFlightRequest
    ) -> None:
        call = Call(request.id, prompt, sampling, request.options, _rendered(cluster, request.tokens))
        answer = self._answer(call)
        if self._answerer is not None or sampling.max_tokens is msgspec.UNSET:
            _lift_the_limit(request)
        self.calls.append(call)
        if answer is None:
            self.unanswered.append(call)
        self._open = [each for each in self._open if not all(sample.ended for sample in each.request.samples)]
        self._open.append(_Open(call, request, answer))

    def _answer(self, call: Call) -> asyncio.Task[Reply] | Reply | None:
        if self._answerer is not None:
            return asyncio.ensure_future(self._from_elsewhere(self._answerer, call))
        for index, reply in enumerate(self._replies):
            if (reply.times is None or self._used[index] < reply.times) and reply.fits(call):
                self._used[index] += 1
                return reply
        return None

    async def _from_elsewhere(self, answerer: Answerer, call: Call) -> Reply:
        reply = await answerer(call)
        if reply is None:
            self.unanswered.append(call)
            raise InvalidRequestError(_nothing_answers(call), field="prompt")
        return reply

    def _find(self, tokens: bytes) -> tuple[Sample, Callable[[], Awaitable[Reply]]]:
        """Return whose tokens an engine was sent, of several the first that no engine has, and what to answer."""
        found = [
            (each, sample)
            for each in self._open
            for sample in each.request.samples
            if not sample.ended and sample.tokens == tokens
        ]
        if not found:
            raise EngineError("a scripted engine was asked by another cluster than its script's")
        each, sample = next(((one, two) for one, two in found if two.id not in one.begun), found[0])
        each.begun.add(sample.id)
        return sample, each.reply


class _Open:
    """A call in flight. `begun` are the samples that an engine has."""

    def __init__(self, call: Call, request: InFlightRequest, answer: asyncio.Task[Reply] | Reply | None) -> None:
        self.call = call
        self.request = request
        self.begun: set[str] = set()
        self._answer = answer

    async def reply(self) -> Reply:
        if self._answer is None:
            raise InvalidRequestError(_nothing_answers(self.call), field="prompt")
        return self._answer if isinstance(self._answer, Reply) else await asyncio.shield(self._answer)


def _nothing_answers(call: Call) -> str:
    known: Sequence[Any] | str = call.messages or call.rendered
    return f"nothing in the script answers {str(known)[-_SHOWN:]}"


def _lift_the_limit(request: InFlightRequest) -> None:
    """Let the reply alone say when it ends: the tokens of a script are other ones than those of a model."""
    room = CONTEXT - len(request.tokens) // TOKEN_BYTES
    for sample in request.samples:
        sample.sampling = msgspec.structs.replace(sample.sampling, max_tokens=room)


def _encoded(cluster: PrebleCluster, text: str) -> list[int]:
    tokenizer = cluster.tokenizer
    if tokenizer is None:
        raise EngineError("the model has no tokenizer, which replies need")
    return tokenizer.encode(text, add_special_tokens=False)


def _rendered(cluster: PrebleCluster, tokens: bytes) -> str:
    tokenizer = cluster.tokenizer
    return "" if tokenizer is None else tokenizer.decode(unpack(tokens), skip_special_tokens=False)
