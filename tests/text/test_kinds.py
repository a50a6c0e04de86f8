"""Whatever the tokenizer and the chat template: a prompt and the streamed pieces of its answer read as one text."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from preble.text import Detokenizer
from tests.text.kinds import KINDS, kind

WORDS = st.sampled_from(
    ["def", "the", "été", "e\u0301", "漢字", "かな", "🙂", "👩‍👩‍👧‍👦", "Straße", "नमस्ते", " ", "  ", "\n", "\t", "."]
)
TEXTS = st.lists(st.one_of(WORDS, st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), max_size=3)))
SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=4)


def pieces(tokenizer, prompt, ids, sizes):
    """Stream `ids` after `prompt`, in deltas of the given sizes, over and over."""
    detokenizer, shown, start, turn = Detokenizer(tokenizer, prompt=prompt), "", 0, 0
    while start < len(ids):
        size = sizes[turn % len(sizes)]
        shown += detokenizer.add(ids[start : start + size])
        start, turn = start + size, turn + 1
    return shown + detokenizer.finish()


def complete(tokenizer, ids):
    """The text of `ids` without an unfinished character at its end, which spoils all bytes beside it."""
    texts = (tokenizer.decode(ids[: len(ids) - size]) for size in range(4))
    return next(text for text in texts if "\ufffd" not in text)


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=60)
@given(question=TEXTS, answer=TEXTS, sizes=SIZES)
@example(question=["Where?"], answer=[" Paris"], sizes=[1])
@example(question=["漢字"], answer=["字漢🙂"], sizes=[1])
def test_a_prompt_and_the_pieces_of_its_answer_are_the_whole(name, question, answer, sizes):
    tokenizer, template = kind(name)
    text = template.render([{"role": "user", "content": "".join(question)}])
    prompt = tokenizer.encode(text, add_special_tokens=False)
    ids = tokenizer.encode("".join(answer), add_special_tokens=False)
    whole = tokenizer.decode([*prompt, *ids])
    assert tokenizer.decode(prompt) + pieces(tokenizer, prompt, ids, sizes) == whole


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=60)
@given(text=TEXTS, cut=st.integers(0, 40), end=st.integers(0, 3), sizes=SIZES)
@example(text=["🙂🙂🙂"], cut=2, end=0, sizes=[1])
@example(text=["漢字かな漢字かな漢字"], cut=17, end=1, sizes=[1])
def test_a_prompt_may_end_and_an_answer_break_off_within_a_character(name, text, cut, end, sizes):
    tokenizer, _ = kind(name)
    whole = tokenizer.encode("".join(text), add_special_tokens=False)
    ids = whole[: len(whole) - end]
    prompt, rest = ids[:cut], ids[cut:]
    shown = complete(tokenizer, prompt) + pieces(tokenizer, prompt, rest, sizes)
    assert shown.rstrip("\ufffd") == complete(tokenizer, ids)
    assert shown.endswith("\ufffd") == (shown != complete(tokenizer, ids))
