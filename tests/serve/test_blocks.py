"""An answer cut into blocks: one is open at a time, nothing is lost, and white space alone is none."""

from hypothesis import given
from hypothesis import strategies as st

from preble.serve.blocks import Begin, Blocks, End, More, Step
from preble.serve.parsers import CallPart, Said


def steps(*said: Said, cut: bool = False) -> list[Step]:
    blocks = Blocks()
    return [step for each in said for step in blocks.add(each)] + list(blocks.finish(cut=cut))


def test_text_is_one_block() -> None:
    shown = steps(Said("Hel"), Said("lo"))
    assert shown == [Begin(0, "text"), More("Hel"), More("lo"), End("Hello")]


def test_reasoning_text_and_a_call_follow_each_other() -> None:
    call = (CallPart(0, "add", '{"a":'), CallPart(0, None, "1}"))
    shown = steps(Said(reasoning="hm"), Said("Yes."), Said(calls=call[:1]), Said(calls=call[1:]))
    assert shown == [
        Begin(0, "reasoning"),
        More("hm"),
        End("hm"),
        Begin(1, "text"),
        More("Yes."),
        End("Yes."),
        Begin(2, "call", "add"),
        More('{"a":'),
        More("1}"),
        End('{"a":1}'),
    ]


def test_two_calls_with_a_line_break_between_are_two_blocks() -> None:
    shown = steps(Said(calls=(CallPart(0, "a", "{}"),)), Said("\n"), Said(calls=(CallPart(1, "b", "{}"),)))
    assert [step for step in shown if isinstance(step, Begin)] == [Begin(0, "call", "a"), Begin(1, "call", "b")]


def test_the_end_of_a_call_comes_before_text_of_the_same_piece() -> None:
    shown = steps(Said(calls=(CallPart(0, "a", "{"),)), Said("Done.", calls=(CallPart(0, None, "}"),)))
    assert [step for step in shown if isinstance(step, End)] == [End("{}"), End("Done.")]


def test_white_space_before_text_belongs_to_it() -> None:
    assert steps(Said("\n"), Said("Yes"))[-1] == End("\nYes")


def test_an_answer_of_nothing_is_an_empty_text() -> None:
    assert steps() == [Begin(0, "text"), End("")]
    assert steps(Said(" ")) == [Begin(0, "text"), More(" "), End(" ")]


def test_only_the_block_that_was_open_is_cut() -> None:
    shown = steps(Said("a"), Said(calls=(CallPart(0, "f", "{"),)), cut=True)
    assert [step.cut for step in shown if isinstance(step, End)] == [False, True]


def _said() -> st.SearchStrategy[Said]:
    return st.builds(Said, text=st.text("ab \n", max_size=3), reasoning=st.text("xy", max_size=2))


@given(st.lists(_said(), max_size=8))
def test_blocks_end_as_they_began_and_hold_what_was_said(said: list[Said]) -> None:
    shown = steps(*said)
    begun = [step for step in shown if isinstance(step, Begin)]
    ends = [step.text for step in shown if isinstance(step, End)]
    assert [step.index for step in begun] == list(range(len(ends)))
    assert "".join(step.text for step in shown if isinstance(step, More)) == "".join(ends)
    for kind, all_of_it in (("text", [each.text for each in said]), ("reasoning", [each.reasoning for each in said])):
        block_texts = [text for step, text in zip(begun, ends, strict=True) if step.kind == kind]
        assert "".join("".join(block_texts).split()) == "".join("".join(all_of_it).split())
