"""Chats in three public styles, with tools and reasoning: our token ids are those of transformers.

The templates are written anew, with the constructs of Llama 3.1's, Qwen 3's and Mistral's; each has a tokenizer of its
model's kind, with the control tokens of the style.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as RustTokenizer
from transformers import AutoTokenizer

from preble.errors import InvalidRequestError
from preble.text import ChatTemplate, Tokenizer
from preble.text.messages import template_messages

TEMPLATES = Path(__file__).parent / "templates"
CONTROL = {
    "llama3": ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
    "qwen3": ("<|endoftext|>", "<|im_end|>", "<|im_start|>"),
    "mistral": (
        "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]",
        "[/TOOL_RESULTS]",
    ),
}  # fmt: skip
"""First what begins a text, second what ends one."""

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "Ville, 都市, <b>&</b> 'quotes'"}},
    "required": ["city"],
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "Now", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "time", "description": "The time", "parameters": {"type": "object"}}},
]
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": {"city": 'São "P"'}}}
PLAIN = [
    {"role": "system", "content": " Be brief.\n"},
    {"role": "user", "content": "What is <b>this</b> & 漢字 🙂? \n"},
    {"role": "assistant", "content": " A test. "},
    {"role": "user", "content": "Why?"},
]
CALLING = [
    {"role": "user", "content": "Weather in São Paulo?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "abcdefghi", "name": "weather", "content": '{"degrees": 31.5}'},
]
THINKING = [
    PLAIN[1],
    {"role": "assistant", "content": "Done.", "reasoning_content": "Let me\nthink."},
    {"role": "user", "content": "Again."},
    {"role": "assistant", "content": "<think>\nInline.\n</think>\n\nYes."},
]
ANSWERED = [*PLAIN, {"role": "assistant", "content": "Because it  "}]


@pytest.fixture(scope="module", params=CONTROL)
def style(request):
    return request.param


@pytest.fixture(scope="module")
def folder(style, model_path, rust_sentence_piece, tmp_path_factory):
    """A model folder of the style, without a model."""
    folder = tmp_path_factory.mktemp(style)
    begin, end, *others = CONTROL[style]
    rust = (
        RustTokenizer.from_str(rust_sentence_piece.to_str())
        if style == "mistral"
        else RustTokenizer.from_file(str(model_path / "tokenizer.json"))
    )
    rust.add_special_tokens([AddedToken(token, special=True) for token in (begin, end, *others)])
    if style != "qwen3":  # texts begin so by themselves: a rendered chat must not get it twice
        single = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, rust.token_to_id(begin))])
        rust.post_processor = single
    rust.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": begin, "eos_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text((TEMPLATES / f"{style}.jinja").read_text())
    return folder


def ours(folder, messages, **options):
    text = ChatTemplate.load(folder).render(messages, **options)
    return Tokenizer.load(folder).encode(text, add_special_tokens=False)


def theirs(folder, messages, **options):
    options = {"add_generation_prompt": not options.get("continue_final_message")} | options
    return AutoTokenizer.from_pretrained(folder).apply_chat_template(
        messages, tokenize=True, return_dict=False, **options
    )


@pytest.mark.parametrize("generation_prompt", [True, False])
@pytest.mark.parametrize(
    ("messages", "options"),
    [
        (PLAIN, {}),
        (PLAIN, {"tools": TOOLS}),
        (PLAIN, {"tools": TOOLS[:1], "tools_in_user_message": False, "enable_thinking": False}),
        (CALLING, {"tools": TOOLS}),
        (CALLING, {}),
        ([*CALLING, {"role": "assistant", "content": "31.5"}, PLAIN[3]], {"tools": TOOLS}),
        (THINKING, {}),
        ([*THINKING, PLAIN[3]], {"enable_thinking": False}),
    ],
)
def test_token_ids_are_those_of_transformers(style, folder, messages, options, generation_prompt):
    options = {"date_string": "21 Nov 2026", **options, "add_generation_prompt": generation_prompt}
    ids = ours(folder, messages, **options)
    assert ids == theirs(folder, messages, **options)
    begin, end, *_ = (RustTokenizer.from_file(str(folder / "tokenizer.json")).token_to_id(t) for t in CONTROL[style])
    assert end in ids, "control tokens of the style are single ids"
    assert ids.count(begin) == (style != "qwen3")


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        (ANSWERED, True),
        (PLAIN[:-1], True),
        ([*PLAIN, {"role": "assistant", "content": "x", "reasoning_content": "So, "}], "reasoning_content"),
        ([*PLAIN, {"role": "assistant", "content": "x", "thinking": "So, "}], "thinking"),
    ],
)
def test_a_final_message_is_continued_as_in_transformers(style, folder, messages, field):
    options = {"date_string": "21 Nov 2026", "continue_final_message": field}
    if field is not True and style != "qwen3":
        with pytest.raises(InvalidRequestError) as caught:
            ours(folder, messages, **options)
        assert caught.value.field == "continue_final_message"
        return
    ids = ours(folder, messages, **options)
    assert ids == theirs(folder, messages, **options)
    assert ids != ours(folder, messages, date_string="21 Nov 2026", add_generation_prompt=False)


def test_arguments_as_text_are_decoded_as_vllm_and_sglang_do(folder):
    as_text = json.dumps(CALL["function"]["arguments"], separators=(",", ":"))
    call = CALL | {"function": {"name": "weather", "arguments": as_text}}
    messages = [CALLING[0], {"role": "assistant", "content": "", "tool_calls": [call]}, CALLING[2]]
    options = {"tools": TOOLS, "date_string": "21 Nov 2026"}
    assert ours(folder, messages, **options) == theirs(folder, CALLING, **options)
    assert call["function"]["arguments"] == as_text, "the caller's own message stays as it is"


@pytest.mark.parametrize("arguments", [None, ""])
def test_no_arguments_are_an_empty_object(arguments):
    call = {"function": {"name": "time", "arguments": arguments}}
    (message,) = template_messages([{"role": "assistant", "tool_calls": [call]}])
    assert message["tool_calls"] == [{"function": {"name": "time", "arguments": {}}}]


@pytest.mark.parametrize("arguments", ["{not json", "[1]", "7", "[" * 100_000])
def test_arguments_that_are_no_object_stay_for_the_template_to_judge(arguments):
    call = {"function": {"name": "time", "arguments": arguments}}
    (message,) = template_messages([{"role": "assistant", "tool_calls": [call]}])
    assert message["tool_calls"] == [call]


@pytest.mark.parametrize("calls", ["x", [1], [{"function": "f"}], [{}], {}])
def test_tool_calls_of_another_form_are_the_template_s_business(calls):
    (message,) = template_messages([{"role": "assistant", "tool_calls": calls}])
    assert message["tool_calls"] == calls


def test_reasoning_is_found_under_each_of_its_names():
    template = ChatTemplate({"default": "{{ messages[0].thinking }}|{{ messages[0].reasoning_content }}"})
    for name in ("reasoning_content", "thinking", "reasoning"):
        assert template.render([{"role": "assistant", "content": None, name: "hm"}]) == "hm|hm"


def test_null_is_as_if_it_were_not_there():
    template = ChatTemplate({"default": "{{ messages[0].content }}|{{ 'tool_calls' in messages[0] }}"})
    assert template.render([{"role": "assistant", "content": None, "tool_calls": None}]) == "|False"


def test_documents_reach_the_template():
    source = "{% for document in documents or [] %}{{ document.title }}: {{ document.text }}{% endfor %}"
    template = ChatTemplate({"default": source})
    assert template.render(PLAIN, documents=[{"title": "a", "text": "b"}]) == "a: b"
    assert template.render(PLAIN) == ""
    with pytest.raises(InvalidRequestError) as caught:
        template.render(PLAIN, documents=["b"])
    assert caught.value.field == "documents"


TAKES_PARTS = "{% for part in messages[0].content %}{{ part.text }};{% endfor %}<end>"


def test_parts_of_a_message_are_continued_at_the_last_text():
    template = ChatTemplate({"default": TAKES_PARTS})
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b "}]
    text = template.render([{"role": "assistant", "content": parts}], continue_final_message=True)
    assert text == "a;b "


@pytest.mark.parametrize(
    ("messages", "source", "options"),
    [
        (PLAIN, "{{ messages[-1].content }}", {"add_generation_prompt": True}),
        ([{"role": "assistant", "content": None}], "{{ messages }}", {}),
        ([{"role": "assistant", "content": []}], TAKES_PARTS, {}),
        ([{"role": "assistant", "content": [7]}], TAKES_PARTS, {}),
        (PLAIN, "nothing of it", {}),
    ],
)
def test_what_cannot_be_continued_is_named(messages, source, options):
    with pytest.raises(InvalidRequestError) as caught:
        ChatTemplate({"default": source}).render(messages, continue_final_message=True, **options)
    assert caught.value.field == "continue_final_message"
