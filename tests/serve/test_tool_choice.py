"""Calls that are enforced, by a model with random weights: whatever it would say, it calls a tool by its schema."""

from __future__ import annotations

import json

import pytest

from preble import PrebleCluster
from preble.errors import InvalidRequestError
from preble.serve.parsers.one_call import OneCall
from preble.serve.tool_choice import call_schema, tool_choice
from preble.testing import make_model
from tests.serve.conftest import face_of

PATH = "/v1/chat/completions"
CITY = {"enum": ["Paris", "Rome"]}


def tool(name, properties, **more):
    parameters = {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
        **more,
    }
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


WEATHER = tool("weather", {"city": {"$ref": "#/$defs/City"}}, **{"$defs": {"City": CITY}})
LAMP = tool("lamp", {"on": {"type": "boolean"}})
ASKED = {"messages": [{"role": "user", "content": "hello"}], "tools": [WEATHER, LAMP], "max_tokens": 2000}
NAMED = {"type": "function", "function": {"name": "weather"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    shape = {"hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1, "intermediate": 32, "vocab": 512, "context": 4096}
    return make_model(tmp_path_factory.mktemp("model"), **shape)


@pytest.fixture
async def torch_face(folder):
    async with PrebleCluster(folder, workers=1, processes=False) as cluster, face_of(cluster) as face:
        yield face
        assert cluster.stats().in_flight == 0


def asked(face, **fields):
    """A body, in which white space between the parts of a call, of which random weights write a lot, is unlikely."""
    spaces = [id for id in range(512) if face.cluster.tokenizer.decode([id]).isspace()]
    return {**ASKED, "logit_bias": {str(id): -100 for id in spaces}, **fields}


def fits(name, arguments):
    return (name == "weather" and arguments in ({"city": "Paris"}, {"city": "Rome"})) or (
        name == "lamp" and arguments in ({"on": True}, {"on": False})
    )


@pytest.mark.parametrize(("choice", "names"), [(NAMED, {"weather"}), ("required", {"weather", "lamp"})])
async def test_a_call_is_enforced(torch_face, choice, names):
    for seed in range(4):
        body = await torch_face.json(PATH, **asked(torch_face, tool_choice=choice, seed=seed))
        (answer,) = body["choices"]
        (call,) = answer["message"]["tool_calls"]
        assert call["function"]["name"] in names
        assert fits(call["function"]["name"], json.loads(call["function"]["arguments"]))
        assert (answer["message"]["content"], answer["finish_reason"]) == (None, "tool_calls")


async def test_an_enforced_call_streams(torch_face):
    fields = asked(torch_face, tool_choice=NAMED, seed=1)
    whole = await torch_face.json(PATH, **fields)
    choices = [event["choices"][0] for event in await torch_face.events(PATH, **fields)]
    parts = [part for choice in choices for part in choice["delta"].get("tool_calls", ())]
    (call,) = whole["choices"][0]["message"]["tool_calls"]
    assert "".join(part["function"]["arguments"] for part in parts) == call["function"]["arguments"]
    assert [part["function"]["name"] for part in parts if "name" in part["function"]] == ["weather"]
    assert choices[-1]["finish_reason"] == "tool_calls"


async def test_a_call_that_is_cut_off_ends_with_length(torch_face):
    body = await torch_face.json(PATH, **{**ASKED, "max_tokens": 3}, tool_choice=NAMED)
    assert body["choices"][0]["finish_reason"] == "length"


async def test_parameters_that_are_no_schema_are_named(torch_face):
    wrong = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "many"}}}}}
    refused = await torch_face.post(PATH, **{**ASKED, "tools": [wrong]}, tool_choice="required")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tools")
    assert (await torch_face.post(PATH, **{**ASKED, "max_tokens": 1})).status_code == 200


async def test_the_other_protocols_enforce_calls_too(torch_face):
    functions = [{"type": "function", **each["function"]} for each in (WEATHER, LAMP)]
    bias = asked(torch_face)["logit_bias"]
    fields = {"tools": functions, "tool_choice": "required", "logit_bias": bias}
    body = await torch_face.json("/v1/responses", input="hello", **fields)
    (item,) = body["output"]
    assert fits(item["name"], json.loads(item["arguments"]))
    tools = [{"name": each["name"], "input_schema": each["parameters"]} for each in functions]
    fields = {"messages": ASKED["messages"], "max_tokens": 2000, "tools": tools, "logit_bias": bias}
    body = await torch_face.json("/v1/messages", **fields, tool_choice={"type": "any"})
    (block,) = body["content"]
    assert (body["stop_reason"], fits(block["name"], block["input"])) == ("tool_use", True)


def test_definitions_move_to_the_root():
    schema = call_schema([WEATHER, LAMP])
    assert schema["$defs"] == {"City": CITY}
    assert ["$defs" in each["properties"]["arguments"] for each in schema["anyOf"]] == [False, False]
    assert "$defs" in WEATHER["function"]["parameters"]  # what the caller gave stays as it is


def test_definitions_that_differ_are_refused():
    other = tool("other", {"city": {"$ref": "#/$defs/City"}}, **{"$defs": {"City": {"type": "string"}}})
    with pytest.raises(InvalidRequestError, match="tools: two of them define 'City' differently"):
        call_schema([WEATHER, other])


@pytest.mark.parametrize(
    ("choice", "shown", "forced"),
    [(None, 2, 0), ("auto", 2, 0), ("none", 0, 0), ("required", 2, 2), (NAMED, 2, 1)],
)
def test_which_tools_are_shown_and_which_are_forced(choice, shown, forced):
    found = tool_choice([WEATHER, LAMP], choice)
    assert (len(found.shown or ()), len(found.forced)) == (shown, forced)


def test_a_call_is_required_only_if_there_are_tools():
    with pytest.raises(InvalidRequestError, match="tool_choice: needs tools"):
        tool_choice([], "required")


@pytest.mark.parametrize("cut", range(1, 43))
def test_a_call_without_marks_is_read_cut_anywhere(cut):
    text = '{"name": "f", "arguments": {"a": [1, "}"]}}'
    parser = OneCall()
    saids = [parser.add(text[:cut]), parser.add(text[cut:]), parser.finish()]
    parts = [part for said in saids for part in said.calls]
    assert [part.name for part in parts if part.name] == ["f"]
    assert "".join(part.arguments for part in parts) == '{"a": [1, "}"]}'
    assert not any(said.text for said in saids)


def test_what_ends_before_a_name_is_text():
    parser = OneCall()
    assert not parser.add('{"na').text
    assert parser.finish().text == '{"na'
