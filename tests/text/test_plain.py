"""Text without a model: any text comes back, words are tokens, and the template shows tools."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from preble import PrebleCluster, SamplingParams
from preble.text.plain import SMALLEST, plain_template, plain_tokenizer

SIZE = 32_000


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(text):
    tokenizer = plain_tokenizer(SMALLEST)
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text


@given(st.lists(st.integers(SMALLEST, SIZE - 1)))
def test_made_up_words_are_one_token_each_and_come_back(ids):
    tokenizer = plain_tokenizer(SIZE)
    text = tokenizer.decode(ids)
    assert tokenizer.encode(text) == ids
    assert len(text.split()) == len(ids)


def test_every_id_is_a_token():
    assert all(plain_tokenizer(SIZE).decode([id], skip_special_tokens=False) for id in range(SIZE))


def test_the_template_shows_tools_calls_and_results():
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "user", "content": "add"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "2"},
    ]
    text = plain_template().render(messages, tools=[{"type": "function", "function": {"name": "add"}}])
    assert '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>' in text
    assert '{"type": "function", "function": {"name": "add"}}' in text
    assert text.endswith("<s>tool\n2</s>\n<s>assistant\n")


async def test_a_cluster_without_a_model_chats():
    async with PrebleCluster(backend="sim", workers=2, processes=False) as cluster:
        out = await cluster.generate([{"role": "user", "content": "hi"}], SamplingParams(max_tokens=5, stop=["."]))
        assert len(out.token_ids) == 5
        assert out.text == cluster.tokenizer.decode(out.token_ids)


async def test_a_vocabulary_too_small_for_text_has_none():
    small = {"vocab_size": SMALLEST - 1}
    async with PrebleCluster(backend="sim", workers=1, processes=False, engine_options=small) as cluster:
        assert cluster.tokenizer is None


def test_ids_that_no_vocabulary_has_add_nothing():
    tokenizer = plain_tokenizer(SIZE)
    ids = tokenizer.encode("a b")
    assert tokenizer.decode([-1, *ids, SIZE, 1 << 40]) == "a b"
