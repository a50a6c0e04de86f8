"""Servers that know no token ids."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

pytest.importorskip("aiohttp", reason="the openai engine needs aiohttp")

from preble.backends import EngineRequest
from preble.backends.openai.engine import OpenAIEngine
from preble.backends.openai.retokenize import Retokenizer, prompt_text
from preble.errors import ConfigurationError, InvalidRequestError
from preble.testing import make_model
from preble.text import Tokenizer
from preble.tokens import pack, unpack
from preble.types import SamplingParams
from tests.openai_server import OpenAIServer

TEXT = "def greet(name):\n    return f'naïve 🙂 {name}' # 漢字\n\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), hidden=32, layers=1, heads=2, kv_heads=1, intermediate=32)


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Tokenizer:
    return Tokenizer.load(model)


@pytest_asyncio.fixture
async def server(tokenizer: Tokenizer) -> AsyncIterator[OpenAIServer]:
    async with OpenAIServer("text", tokenizer=tokenizer) as server:
        yield server


@pytest_asyncio.fixture
async def engine(server: OpenAIServer, model: Path, tokenizer: Tokenizer) -> AsyncIterator[OpenAIEngine]:
    engine = OpenAIEngine(url=server.url, model=str(model), text=tokenizer)
    await engine.start()
    yield engine
    await engine.close()


async def test_the_text_goes_over_and_comes_back(engine: OpenAIEngine, server: OpenAIServer, tokenizer: Tokenizer):
    request = EngineRequest(1, pack(tokenizer.encode(TEXT)), SamplingParams(max_tokens=30, temperature=0.0))
    deltas = [delta async for delta in engine.generate(request)]
    assert server.bodies[0]["prompt"] == TEXT
    assert (deltas[-1].finish_reason, deltas[-1].output_tokens) == ("length", 30)
    text = tokenizer.decode([token for delta in deltas for token in unpack(delta.tokens)])
    assert text
    assert "return_token_ids" not in server.bodies[0]


async def test_what_needs_ids_or_is_not_known_there_is_refused(engine: OpenAIEngine, tokenizer: Tokenizer):
    for sampling, match in (
        (SamplingParams(logprobs=1), "^logprobs"),
        (SamplingParams(prompt_logprobs=1), "^prompt_logprobs"),
        (SamplingParams(top_k=3), "unknown field"),
    ):
        with pytest.raises(InvalidRequestError, match=match):
            async for _ in engine.generate(EngineRequest(1, pack([7, 8]), sampling)):
                pass


async def test_without_a_tokenizer_there_is_no_text(server: OpenAIServer):
    engine = OpenAIEngine(url=server.url)
    with pytest.raises(ConfigurationError, match="tokenizer"):
        await engine.start()
    await engine.close()


async def test_a_server_that_counts_a_few_more_tokens_has_room_for_them(
    engine: OpenAIEngine, server: OpenAIServer, tokenizer: Tokenizer
):
    limit = (await engine.start()).context_limit
    request = EngineRequest(1, pack(tokenizer.encode("hello")), SamplingParams(max_tokens=limit, temperature=0.0))
    deltas = engine.generate(request)
    await anext(deltas)
    await deltas.aclose()
    assert server.bodies[-1]["max_tokens"] == limit - len(tokenizer.encode("hello")) - 16


async def test_a_vocabulary_comes_from_the_model_s_folder(engine: OpenAIEngine):
    assert (await engine.start()).vocab_size == 4096


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_pieces_of_text_become_ids_of_the_same_text(tokenizer: Tokenizer, size: int):
    for each in (tokenizer, words()):
        retokenizer, ids = Retokenizer(each), []
        text = TEXT if each is tokenizer else "ab ba  abba\nb a"
        for start in range(0, len(text), size):
            ids += retokenizer.ids(text[start : start + size])
        assert each.decode(ids).lstrip(" ") == text


def test_a_prompt_s_text_leaves_out_what_the_server_adds(tokenizer: Tokenizer):
    begin = tokenizers.Tokenizer(models.WordLevel({"<s>": 0, "a": 1, "b": 2}))
    begin.pre_tokenizer = pre_tokenizers.Whitespace()
    begin.add_special_tokens(["<s>"])
    begin.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    text = Tokenizer(begin)
    assert text.encode("a b") == [0, 1, 2]
    assert prompt_text(text, [0, 1, 2]) == prompt_text(text, [1, 2]) == "a b"
    assert prompt_text(text, [1, 0, 2]) == "a <s> b"


def words() -> Tokenizer:
    """A vocabulary that puts a space before the first word, as SentencePiece does."""
    vocabulary = {token: id for id, token in enumerate(["<0x0A>", "▁", "a", "b", "▁a", "▁b", "ab", "ba", "▁ab"])}
    merges = [("▁", "a"), ("▁", "b"), ("a", "b"), ("b", "a"), ("▁", "ab")]
    rust = tokenizers.Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True))
    rust.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    rust.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)
    ])  # fmt: skip
    return Tokenizer(rust)
