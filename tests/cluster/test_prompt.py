"""Prompts of text, chat messages and token ids, as the ids that engines get."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.processors import TemplateProcessing

from preble import InvalidRequestError
from preble.backends import EngineInfo
from preble.cluster.prompt import PromptReader
from preble.testing import make_model
from preble.tokens import unpack
from preble.types import RequestOptions, SamplingParams

BEGIN, USER = 1, 3
CHAT = [{"role": "user", "content": "hello"}]


@pytest.fixture
def reader(tmp_path: Path) -> PromptReader:
    """A model whose tokenizer puts a begin token in front of texts, as Llama's."""
    folder = make_model(tmp_path / "model", layers=1, vocab=1000, hidden=32, heads=2, kv_heads=1, intermediate=32)
    rust = RustTokenizer.from_file(str(folder / "tokenizer.json"))
    rust.post_processor = TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", BEGIN)])
    rust.save(str(folder / "tokenizer.json"))
    reader = PromptReader(str(folder))
    info = EngineInfo(model="m", vocab_size=1000, context_limit=100, kv_tokens=200, block_size=16, max_running=4)
    reader.bound([info])
    return reader


async def ids(reader: PromptReader, prompt: object, add_special_tokens: bool | None = None) -> list[int]:
    options = RequestOptions(add_special_tokens=add_special_tokens)
    return list(unpack(await reader.tokens(prompt, options)))  # type: ignore[arg-type]


async def test_text_gets_the_begin_token_unless_told_otherwise(reader: PromptReader) -> None:
    bare = await ids(reader, "hello", add_special_tokens=False)
    assert await ids(reader, "hello") == await ids(reader, "hello", add_special_tokens=True) == [BEGIN, *bare]
    assert await ids(reader, "<|begin|>hello", add_special_tokens=False) == [BEGIN, *bare]


async def test_chat_messages_get_what_their_template_writes(reader: PromptReader) -> None:
    plain = await ids(reader, CHAT)
    assert plain[0] == USER
    assert await ids(reader, CHAT, add_special_tokens=False) == plain
    assert await ids(reader, CHAT, add_special_tokens=True) == [BEGIN, *plain]


@dataclass
class Message:
    role: str
    content: str
    name: str | None = None


class Dumped(Message):
    def model_dump(self) -> dict[str, Any]:
        return {"role": self.role, "content": self.content, "name": None}


@pytest.mark.parametrize("kind", [Message, Dumped])
async def test_messages_may_be_objects_that_tell_their_fields(reader: PromptReader, kind: type[Message]) -> None:
    typed = kind("user", "hello")
    assert await ids(reader, [typed]) == await ids(reader, CHAT)
    assert await ids(reader, (typed, {"role": "assistant", "content": "x"})) == await ids(
        reader, [*CHAT, {"role": "assistant", "content": "x"}]
    )


@pytest.mark.parametrize("alone", [CHAT[0], Message("user", "hello")])
async def test_a_message_alone_is_refused_with_what_to_do(reader: PromptReader, alone: object) -> None:
    with pytest.raises(InvalidRequestError, match="prompt: a message alone: pass a list of messages"):
        await ids(reader, alone)


async def test_a_second_begin_token_is_warned_of_once(reader: PromptReader, caplog: pytest.LogCaptureFixture) -> None:
    await ids(reader, "hello")
    await ids(reader, "<|begin|>hello", add_special_tokens=False)
    assert caplog.text == ""
    for _ in range(2):
        assert (await ids(reader, "<|begin|>hello"))[:2] == [BEGIN, BEGIN]
    assert caplog.text.count("add_special_tokens=False") == 1


async def test_token_ids_stay_as_they_are(reader: PromptReader) -> None:
    assert await ids(reader, [7, 8], add_special_tokens=False) == [7, 8]
    with pytest.raises(InvalidRequestError) as caught:
        await ids(reader, [7, 8], add_special_tokens=True)
    assert caught.value.field == "add_special_tokens"


async def test_callers_tokenize_as_the_cluster_does(reader: PromptReader) -> None:
    public = reader.public
    assert public is not None
    assert public.encode("hello") == await ids(reader, "hello")
    assert public.apply_chat_template(CHAT) == await ids(reader, CHAT)
    assert public.apply_chat_template(CHAT, tokenize=False) == "<|user|>hello<|end|><|assistant|>"
    assert public.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=False) == "<|user|>hello<|end|>"
    assert (public.count("hello"), public.count(CHAT)) == (len(public.encode("hello")), len(await ids(reader, CHAT)))
    assert public.decode(public.encode("hello")) == "hello"
    assert public.decode([BEGIN, USER], skip_special_tokens=False) == "<|begin|><|user|>"


def test_without_a_tokenizer_there_is_none_to_call() -> None:
    assert PromptReader(None).public is None


async def test_without_a_chat_template_messages_are_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", layers=1, vocab=1000, hidden=32, heads=2, kv_heads=1, intermediate=32)
    (folder / "tokenizer_config.json").unlink()
    public = PromptReader(str(folder)).public
    assert public is not None
    with pytest.raises(InvalidRequestError, match="no chat template"):
        public.apply_chat_template(CHAT)


@pytest.mark.parametrize(
    ("prompt", "given", "limit"),
    [
        ([7] * 30, {}, 128),
        ("hello", {}, 128),
        (CHAT, {}, "rest"),
        ([7] * 30, {"max_tokens": None}, "rest"),
        ("hello", {"max_tokens": None}, "rest"),
        (CHAT, {"max_tokens": None, "min_tokens": 20}, "rest"),
        (CHAT, {"max_tokens": 5}, 5),
        ([7] * 30, {"max_tokens": 500}, 500),
    ],
)
async def test_without_max_tokens_chats_may_use_the_rest_of_the_context(
    reader: PromptReader, prompt: object, given: dict[str, Any], limit: int | str
) -> None:
    tokens = await reader.tokens(prompt, RequestOptions())  # type: ignore[arg-type]
    limited = reader.limited(SamplingParams(**given, temperature=0.5), prompt, tokens)  # type: ignore[arg-type]
    assert limited.max_tokens == (100 - len(unpack(tokens)) if limit == "rest" else limit)
    assert (limited.temperature, limited.min_tokens) == (0.5, given.get("min_tokens", 0))


async def test_a_minimum_that_does_not_fit_is_refused(reader: PromptReader) -> None:
    for prompt, most in (([7] * 30, 128), (CHAT, 100)):
        tokens = await reader.tokens(prompt, RequestOptions())  # type: ignore[arg-type]
        with pytest.raises(InvalidRequestError, match="min_tokens: must be at most max_tokens"):
            reader.limited(SamplingParams(min_tokens=most + 1), prompt, tokens)  # type: ignore[arg-type]
