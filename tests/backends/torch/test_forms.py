"""Outputs with a form, by a model with random weights: whatever it would say, the text fits."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from preble.backends import EngineRequest
from preble.backends.torch.engine import TorchEngine
from preble.errors import InvalidRequestError
from preble.testing.models import make_model
from preble.text import Tokenizer
from preble.tokens import pack, unpack
from preble.types import SamplingParams

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "hot": {"type": "boolean"}},
    "required": ["city", "hot"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    shape = {"hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1, "intermediate": 32, "vocab": 512, "context": 256}
    return make_model(tmp_path_factory.mktemp("model"), **shape)


@pytest.fixture
async def engine(folder):
    engine = TorchEngine(model=str(folder), device="cpu", kv_tokens=4096, seed=1)
    await engine.start()
    yield engine
    engine.check()
    await engine.close()


async def ids(engine, id, *, prompt=(5, 6, 7), begun=0, **sampling):
    request = EngineRequest(id, pack(prompt), SamplingParams(**{"max_tokens": 200} | sampling), begun=begun)
    return [token async for delta in engine.generate(request) for token in unpack(delta.tokens)]


async def test_a_batch_of_all_forms_fits_them_and_leaves_the_others_alone(engine, folder):
    decode = Tokenizer.load(folder).decode
    free = await ids(engine, 1, temperature=0.0, max_tokens=20)
    schema, regex, choice, grammar, beside = await asyncio.gather(
        ids(engine, 2, json_schema=SCHEMA, top_p=0.5, logit_bias={9: 50.0}),
        ids(engine, 3, regex="[0-9]{3}-x"),
        ids(engine, 4, choice=["yes", "no"], min_tokens=150),
        ids(engine, 5, grammar='start: "a" (" b" | " c") "."'),
        ids(engine, 6, temperature=0.0, max_tokens=20),
    )
    assert json.loads(decode(schema)).keys() == {"city", "hot"}
    assert re.fullmatch("[0-9]{3}-x", decode(regex))
    assert decode(choice) in ("yes", "no")
    assert decode(grammar) in ("a b.", "a c.")
    assert beside == free


async def test_what_was_begun_elsewhere_goes_on_where_it_was(engine):
    asked = {"temperature": 0.0, "json_schema": SCHEMA}
    whole = await ids(engine, 1, max_tokens=30, **asked)
    for cut in (1, 2, 7, 15):
        prompt = (5, 6, 7, *whole[:cut])
        assert await ids(engine, 1 + cut, prompt=prompt, begun=cut, max_tokens=30 - cut, **asked) == whole[cut:]


@pytest.mark.parametrize(
    ("field", "value"),
    [("json_schema", {"type": "foo"}), ("regex", "(a"), ("grammar", 'start: "a" | x')],
)
async def test_a_malformed_form_fails_its_request_alone(engine, field, value):
    with pytest.raises(InvalidRequestError) as raised:
        await ids(engine, 1, **{field: value})
    assert raised.value.field == field
    assert await ids(engine, 2, choice=["yes"])
