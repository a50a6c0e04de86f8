"""Each format's calls, as its models write them, read again: whole, and cut anywhere."""

# ruff: noqa: RUF001
from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preble import ConfigurationError
from preble.serve.parsers import TOOL_PARSERS, Said, reader, reasons, tool_format
from preble.serve.parsers.think import Think

Call = tuple[str, dict[str, Any]]


def hermes(text: str, calls: list[Call]) -> str:
    objects = [json.dumps({"name": name, "arguments": arguments}) for name, arguments in calls]
    return text + "".join(f"\n<tool_call>\n{each}\n</tool_call>" for each in objects)


def llama3(text: str, calls: list[Call]) -> str:
    return "; ".join(json.dumps({"name": name, "parameters": arguments}) for name, arguments in calls) or text


def mistral(text: str, calls: list[Call]) -> str:
    objects = [{"name": name, "arguments": arguments} for name, arguments in calls]
    return text + (f"[TOOL_CALLS] {json.dumps(objects)}" if calls else "")


def mistral_named(text: str, calls: list[Call]) -> str:
    return text + "".join(f"[TOOL_CALLS]{name}[ARGS]{json.dumps(arguments)}" for name, arguments in calls)


def deepseek(text: str, calls: list[Call]) -> str:
    each = [f"<｜tool▁call▁begin｜>{n}<｜tool▁sep｜>{json.dumps(a)}<｜tool▁call▁end｜>" for n, a in calls]
    return text + (f"<｜tool▁calls▁begin｜>{''.join(each)}<｜tool▁calls▁end｜>" if calls else "")


def deepseek_r1(text: str, calls: list[Call]) -> str:
    begin, end = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>", "\n```<｜tool▁call▁end｜>"
    each = [f"{begin}{name}\n```json\n{json.dumps(arguments)}{end}" for name, arguments in calls]
    return text + (f"<｜tool▁calls▁begin｜>{chr(10).join(each)}<｜tool▁calls▁end｜>" if calls else "")


def gpt_oss(text: str, calls: list[Call]) -> str:
    said = [f"<|channel|>final<|message|>{text}<|end|>"] if text else []
    for name, arguments in calls:
        header = f"<|channel|>commentary to=functions.{name} <|constrain|>json"
        said.append(f"{header}<|message|>{json.dumps(arguments)}<|call|>")
    return "<|start|>assistant".join(said)


WRITERS = [
    ("hermes", hermes),
    ("llama3-json", llama3),
    ("mistral", mistral),
    ("mistral", mistral_named),
    ("deepseek", deepseek),
    ("deepseek", deepseek_r1),
    ("gpt-oss", gpt_oss),
]


def said_by(parser, pieces) -> Said:
    parts = [parser.add(piece) for piece in pieces] + [parser.finish()]
    calls = tuple(part for said in parts for part in said.calls)
    return Said("".join(said.text for said in parts), "".join(said.reasoning for said in parts), calls)


def calls_of(said: Said) -> list[tuple[str, str]]:
    calls: list[tuple[str, str]] = []
    for part in said.calls:
        if part.name is not None:
            assert part.index == len(calls)
            calls.append((part.name, ""))
        name, arguments = calls[part.index]
        calls[part.index] = name, arguments + part.arguments
    return calls


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('abc"\\{}[]', max_size=4), inner, max_size=3),
    max_leaves=5,
)
CALLS = st.lists(
    st.tuples(st.from_regex(r"\A[a-z][a-z_0-9]{0,11}\Z"), st.dictionaries(st.text(min_size=1, max_size=5), VALUES)),
    max_size=3,
)
WORDS = st.lists(st.sampled_from(["I", "look", "<", "[", "{not}", "now."]), max_size=4).map(" ".join)


@pytest.mark.parametrize(("name", "write"), WRITERS)
@given(text=WORDS, calls=CALLS, size=st.integers(1, 9))
def test_calls_that_are_written_are_read_again_wherever_they_are_cut(name, write, text, calls, size):
    if name == "llama3-json" and (calls or text.startswith("{")):
        text = ""  # an answer is either text or calls
    raw = write(text, calls)
    said = said_by(TOOL_PARSERS[name].make(), [raw[at : at + size] for at in range(0, len(raw), size)])
    assert [(each, json.loads(arguments)) for each, arguments in calls_of(said)] == calls
    assert said.text.strip() == text.strip()


@pytest.mark.parametrize(("name", "write"), WRITERS)
@given(raw=st.text('<>{}[]"\\:,;|ab \n') | WORDS, size=st.integers(1, 5))
def test_no_text_is_an_exception(name, write, raw, size):
    raw = write("", [("f", {"a": 1})])[: len(raw)] + raw
    said_by(TOOL_PARSERS[name].make(), [raw[at : at + size] for at in range(0, len(raw), size)])


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("hermes", "<tool_call>not json</tool_call>"),
        ("hermes", '<tool_call>{"nam": "f"}'),
        ("hermes", "<tool_call>"),
        ("hermes", "a < b"),
        ("llama3-json", "{not} a call"),
        ("llama3-json", '{"answer": 42}'),
        ("mistral", "[TOOL_CALLS]{"),
        ("deepseek", "<｜tool▁call▁begin｜>f"),
    ],
)
def test_what_is_no_call_is_text(name, raw):
    for pieces in ([raw], list(raw)):
        said = said_by(TOOL_PARSERS[name].make(), pieces)
        assert (said.calls, said.text.replace("</tool_call>", "")) == ((), raw.replace("</tool_call>", ""))


def test_text_before_a_call_and_arguments_stream_at_once():
    parser = TOOL_PARSERS["hermes"].make()
    assert parser.add("I look").text == "I look"
    parser.add('<tool_call>{"name": "f", "arguments": ')
    (part,) = parser.add('{"city": "Pa').calls
    assert (part.name, part.arguments) == ("f", '{"city": "Pa')
    (part,) = parser.add('ris"}').calls
    assert (part.name, part.arguments) == (None, 'ris"}')


def test_a_call_that_the_limit_cuts_off_is_a_call_with_what_there_is():
    said = said_by(TOOL_PARSERS["hermes"].make(), ['<tool_call>{"name": "f", "arguments": {"a": "b'])
    assert calls_of(said) == [("f", '{"a": "b')]


def test_members_in_another_order_and_arguments_as_text():
    for raw in ('{"arguments": {"a": 1}, "name": "f"}', '{"name": "f", "arguments": "{\\"a\\": 1}"}'):
        assert calls_of(said_by(TOOL_PARSERS["hermes"].make(), f"<tool_call>{raw}</tool_call>")) == [("f", '{"a": 1}')]


def test_a_call_without_arguments_has_none():
    assert calls_of(said_by(TOOL_PARSERS["hermes"].make(), '<tool_call>{"name": "f"}</tool_call>')) == [("f", "{}")]


@pytest.mark.parametrize("size", [1, 2, 100])
@pytest.mark.parametrize(
    ("raw", "inside", "reasoning", "text"),
    [
        ("<think>\nhm < 3\n</think>\n\nYes.", False, "hm < 3", "Yes."),
        ("hm\n</think>\nYes.", True, "hm", "Yes."),
        ("<think>\n\n</think>\nYes.", False, "", "Yes."),
        ("Yes.", False, "", "Yes."),
        ("<thin air", False, "", "<thin air"),
        ("<think>for ever", False, "for ever", ""),
        ("", False, "", ""),
    ],
)
def test_reasoning(raw, inside, reasoning, text, size):
    said = said_by(Think(inside=inside), [raw[at : at + size] for at in range(0, len(raw), size)])
    assert (said.reasoning, said.text) == (reasoning, text)


def test_reasoning_of_gpt_oss_stands_on_a_channel():
    raw = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>"
    said = said_by(TOOL_PARSERS["gpt-oss"].make(), list(raw))
    assert (said.reasoning, said.text, said.calls) == ("hm", "Yes.", ())


def test_reasoning_and_calls_of_one_answer():
    make = reader(TOOL_PARSERS["hermes"], think=True, inside=False, hidden=frozenset({"<|end|>"}), single=True)
    raw = hermes("<think>hm</think>I look.", [("f", {}), ("g", {})]) + "<|end|>"
    said = said_by(make(), [raw[:-7], "<|end|>"])
    assert (said.reasoning, said.text.strip(), calls_of(said)) == ("hm", "I look.", [("f", "{}")])


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{{ '<tool_call>' }}", "hermes"),
        ("[TOOL_CALLS]", "mistral"),
        ("<｜tool▁call▁begin｜>", "deepseek"),
        ("<|start|><|channel|>", "gpt-oss"),
        ('Respond in the format {"name": function name, "parameters": dictionary of argument}', "llama3-json"),
        ("plain", None),
    ],
)
def test_a_template_shows_its_format(template, name):
    assert tool_format("auto", template) == (None if name is None else TOOL_PARSERS[name])


def test_a_parser_by_name_or_of_ones_own():
    assert tool_format("hermes", "") == TOOL_PARSERS["hermes"]
    assert tool_format(None, "<tool_call>") is None
    own = tool_format("preble.serve.parsers.think:Think", "")
    assert (type(own.make()), own.special) == (Think, frozenset())
    with pytest.raises(ConfigurationError, match="did you mean 'hermes'"):
        tool_format("herms", "")
    with pytest.raises(ConfigurationError, match="imported"):
        tool_format("nowhere:At", "")
    assert [reasons(name, "<think>") for name in ("auto", "think", None)] == [True, True, False]
    with pytest.raises(ConfigurationError, match="did you mean 'think'"):
        reasons("thinks", "")
