"""Completions: text and token ids, one prompt and several, the prompt echoed with its log-probabilities."""

from __future__ import annotations

import pytest

from preble import PrebleCluster, SamplingParams
from preble.testing import make_model
from tests.serve.conftest import face_of

PATH = "/v1/completions"


async def test_text_and_its_token_ids_are_continued_alike(face):
    ids = face.cluster.tokenizer.encode("hello")
    native = await face.cluster.generate("hello", SamplingParams(max_tokens=5, temperature=0))
    for prompt in ("hello", ids, ["hello"], [ids]):
        (choice,) = (await face.json(PATH, prompt=prompt, max_tokens=5, temperature=0))["choices"]
        assert (choice["text"], choice["finish_reason"]) == (native.text, "length")


async def test_several_prompts_have_their_choices_in_order(face):
    body = await face.json(PATH, prompt=["a", "b"], max_tokens=3, n=2, seed=1)
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    alone = [await face.json(PATH, prompt=prompt, max_tokens=3, n=2, seed=1) for prompt in ("a", "b")]
    assert [c["text"] for c in body["choices"]] == [c["text"] for each in alone for c in each["choices"]]
    assert body["usage"]["completion_tokens"] == 12
    events = await face.events(PATH, prompt=["a", "b"], max_tokens=3, n=2, seed=1)
    for choice in body["choices"]:
        parts = [e["choices"][0] for e in events if e["choices"][0]["index"] == choice["index"]]
        assert "".join(part["text"] for part in parts) == choice["text"]


async def test_max_tokens_is_16_if_not_given(face):
    assert (await face.json(PATH, prompt="a"))["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize("stream", [False, True])
async def test_echo_puts_the_prompt_first(face, stream):
    asked = {"prompt": ["once", "twice"], "echo": True, "max_tokens": 2, "temperature": 0}
    texts = ["", ""]
    if stream:
        for event in await face.events(PATH, **asked):
            texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
    else:
        texts = [choice["text"] for choice in (await face.json(PATH, **asked))["choices"]]
    plain = (await face.json(PATH, prompt=asked["prompt"], max_tokens=2, temperature=0))["choices"]
    assert texts == ["once" + plain[0]["text"], "twice" + plain[1]["text"]]


@pytest.mark.parametrize("max_tokens", [0, 1])
async def test_the_log_likelihood_of_a_prompt(max_tokens, tmp_path):
    """What an evaluation asks for: token ids, echoed with the log-probability of each but the first."""
    model = make_model(tmp_path / "m", hidden=64, layers=1, heads=2, kv_heads=1, intermediate=64, vocab=300)
    async with PrebleCluster(model, workers=1, processes=False) as cluster, face_of(cluster) as face:
        sampling = SamplingParams(max_tokens=1, prompt_logprobs=1, temperature=0)
        native = await cluster.generate([10, 11, 12, 13], sampling)
        body = await face.json(
            PATH, prompt=[10, 11, 12, 13], echo=True, logprobs=1, max_tokens=max_tokens, temperature=0
        )
    shown = body["choices"][0]["logprobs"]
    expected = [None if token is None else token.logprob for token in native.prompt_logprobs]
    assert shown["token_logprobs"][:4] == pytest.approx(expected)
    assert len(shown["tokens"]) == len(shown["token_logprobs"]) == len(shown["text_offset"]) == 4 + max_tokens
    assert shown["text_offset"][0] == 0
    assert body["choices"][0]["text"].startswith(cluster_text(shown["tokens"][:4]))


def cluster_text(tokens: list[str]) -> str:
    return "".join(token for token in tokens if not token.startswith("<|"))


async def test_an_error_of_one_prompt_is_the_answer_and_ends_the_others(face):
    refused = await face.post(PATH, prompt=["a", [], "b"])
    assert refused.status_code == 400
    assert face.cluster.stats().in_flight == 0
