"""What a server said in text comes out as it was said, whatever the tokenizer that makes ids of it."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from preble.backends.openai.retokenize import Retokenizer
from preble.text import Detokenizer
from tests.text.kinds import KINDS, kind

LOSSY = {"unigram", "word-pieces"}
"""They have no ids for some characters, or several texts for the same ids."""

PIECES = st.lists(st.text(st.one_of(st.sampled_from(" \n\tab.é漢🙂"), st.characters(codec="utf-8")), max_size=8))


@pytest.mark.parametrize("name", sorted(KINDS.keys() - LOSSY))
@given(said=PIECES)
@example(said=[" Paris"])
@example(said=["Paris"])
@example(said=["\n", "\n\n", " \n", "  ", " a"])
def test_pieces_come_out_as_they_were_said(name: str, said: list[str]) -> None:
    tokenizer, _ = kind(name)
    retokenizer = Retokenizer(tokenizer)
    detokenizer = Detokenizer(tokenizer, prompt=tokenizer.encode("The capital of France is"), skip_special_tokens=False)
    shown = "".join(detokenizer.add(retokenizer.ids(piece)) for piece in said) + detokenizer.finish()
    assert shown == "".join(said)
