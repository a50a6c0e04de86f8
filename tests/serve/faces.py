"""The ways into a cluster, each asked in the same words: what it is asked is spelled as its protocol spells it."""

from collections.abc import AsyncGenerator
from typing import Any, NamedTuple

import openai

from preble import PrebleCluster, SamplingParams

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
FUNCTION = {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": FUNCTION}


class Answer(NamedTuple):
    """The texts of the samples, the tokens of prompt and samples, and how many tokens have log-probabilities."""

    texts: list[str]
    prompt_tokens: int
    output_tokens: int
    logprobs: int = 0


class Native:
    """`PrebleCluster.generate` and `stream`."""

    def __init__(self, cluster: PrebleCluster) -> None:
        self.cluster = cluster

    def _arguments(
        self, *, tools: bool = False, session: str | None = None, logprobs: bool = False, **sampling: Any
    ) -> Any:
        given = SamplingParams(
            temperature=0 if sampling.get("n", 1) == 1 else 1, logprobs=0 if logprobs else None, **sampling
        )
        options: dict[str, Any] = {"tools": [TOOL]} if tools else {}
        return (HELLO, given), {**options, "session": session}

    async def ask(self, **options: Any) -> Answer:
        arguments, keywords = self._arguments(**options)
        made = await self.cluster.generate(*arguments, **keywords)
        output = sum(choice.usage.output_tokens for choice in made.choices)
        shown = sum(len(choice.logprobs or ()) for choice in made.choices)
        return Answer([choice.text for choice in made.choices], made.usage.prompt_tokens, output, shown)

    async def stream(self, **options: Any) -> AsyncGenerator[str, None]:
        arguments, keywords = self._arguments(**options)
        stream = self.cluster.stream(*arguments, **keywords)
        try:
            async for chunk in stream:
                if chunk.text:
                    yield chunk.text
        finally:
            await stream.aclose()


class Chat:
    """`/v1/chat/completions`."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def _fields(self, *, tools: bool = False, session: str | None = None, **given: Any) -> dict[str, Any]:
        fields = {"model": "m", "messages": HELLO, "temperature": 0 if given.get("n", 1) == 1 else 1, **given}
        fields |= {"tools": [TOOL]} if tools else {}
        return fields | ({"prompt_cache_key": session} if session else {})

    async def ask(self, **options: Any) -> Answer:
        made = await self.client.chat.completions.create(**self._fields(**options))
        texts = [choice.message.content for choice in made.choices]
        shown = sum(len(choice.logprobs.content) for choice in made.choices if choice.logprobs)
        return Answer(texts, made.usage.prompt_tokens, made.usage.completion_tokens, shown)

    async def stream(self, **options: Any) -> AsyncGenerator[str, None]:
        async with await self.client.chat.completions.create(**self._fields(**options), stream=True) as stream:
            async for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    yield chunk.choices[0].delta.content


class Completions:
    """`/v1/completions`."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def _fields(self, *, tools: bool = False, session: str | None = None, logprobs: bool = False, **given: Any) -> Any:
        fields = {"model": "m", "prompt": "Hello", "temperature": 0 if given.get("n", 1) == 1 else 1, **given}
        extra = {"tools": [TOOL]} if tools else {}
        extra |= {"prompt_cache_key": session} if session else {}
        return {**fields, "extra_body": extra, **({"logprobs": 1} if logprobs else {})}

    async def ask(self, **options: Any) -> Answer:
        made = await self.client.completions.create(**self._fields(**options))
        shown = sum(len(choice.logprobs.token_logprobs) for choice in made.choices if choice.logprobs)
        texts = [choice.text for choice in made.choices]
        return Answer(texts, made.usage.prompt_tokens, made.usage.completion_tokens, shown)

    async def stream(self, **options: Any) -> AsyncGenerator[str, None]:
        async with await self.client.completions.create(**self._fields(**options), stream=True) as stream:
            async for chunk in stream:
                if chunk.choices and chunk.choices[0].text:
                    yield chunk.choices[0].text


class Responses:
    """`/v1/responses`."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def _fields(
        self, *, max_tokens: int, tools: bool = False, session: str | None = None, logprobs: bool = False, **given: Any
    ) -> Any:
        fields: dict[str, Any] = {"model": "m", "input": "Hello", "temperature": 0, "max_output_tokens": max_tokens}
        fields |= {"tools": [{"type": "function", **FUNCTION}]} if tools else {}
        fields |= {"include": ["message.output_text.logprobs"]} if logprobs else {}
        return fields | ({"prompt_cache_key": session} if session else {}) | {"extra_body": given}

    async def ask(self, **options: Any) -> Answer:
        made = await self.client.responses.create(**self._fields(**options))
        shown = sum(len(part.logprobs or ()) for item in made.output for part in item.content)
        return Answer([made.output_text], made.usage.input_tokens, made.usage.output_tokens, shown)

    async def stream(self, **options: Any) -> AsyncGenerator[str, None]:
        async with self.client.responses.stream(**self._fields(**options)) as stream:
            async for event in stream:
                if event.type == "response.output_text.delta":
                    yield event.delta


class Messages:
    """`/v1/messages`."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def _fields(self, *, tools: bool = False, session: str | None = None, max_tokens: int, **given: Any) -> Any:
        shown = {"name": "look", "description": "Looks.", "input_schema": FUNCTION["parameters"]}
        fields: dict[str, Any] = {"model": "m", "messages": HELLO, "max_tokens": max_tokens}
        fields |= {"tools": [shown]} if tools else {}
        fields |= {"metadata": {"user_id": session}} if session else {}
        return fields | {"extra_body": {"temperature": 0, **given}}

    async def ask(self, **options: Any) -> Answer:
        made = await self.client.messages.create(**self._fields(**options))
        usage = made.usage
        prompt = usage.input_tokens + usage.cache_read_input_tokens
        return Answer(["".join(block.text for block in made.content)], prompt, usage.output_tokens)

    async def stream(self, **options: Any) -> AsyncGenerator[str, None]:
        async with self.client.messages.stream(**self._fields(**options)) as stream:
            async for text in stream.text_stream:
                yield text


def over_http(url: str) -> Any:
    """OpenAI's client, over a socket."""
    return openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
