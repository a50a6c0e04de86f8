"""Recordings: what they are found by, what is in the file, and that of a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from preble import PrebleCluster, SamplingParams
from preble.errors import ConfigurationError, InvalidRequestError
from preble.testing import Recording, Script, make_model

CHAT = [{"role": "user", "content": "a private question"}]
SHORT = SamplingParams(max_tokens=6, seed=4)


class Message:
    """A message as clients return it."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def model_dump(self, **_: Any) -> dict[str, Any]:
        return self.fields


async def played(recording: Recording, prompt: Any, sampling: SamplingParams = SHORT, **options: Any) -> list[str]:
    """The pieces of the answer."""
    async with Script(recording.answer).cluster(workers=1) as cluster:
        return [chunk.text async for chunk in cluster.stream(prompt, sampling, **options) if chunk.text]


async def test_the_answers_of_a_server_are_played_without_it(tmp_path: Path):
    model, file = make_model(tmp_path / "model"), tmp_path / "deep" / "answers.json"
    async with (
        PrebleCluster(model, backend="sim", workers=1, processes=False) as served,
        served.serve_http(api_key="a-secret-key") as url,
        PrebleCluster.connect([url.removesuffix("/v1")], model=model, api_key="a-secret-key") as source,
    ):
        pieces = await played(Recording(file, source), CHAT)
        again = await played(Recording(file, source), CHAT)
        assert source.stats().counters.submitted == 1, "what the file has is not asked again"
    assert pieces == again == await played(Recording(file), CHAT)
    assert len("".join(pieces).split()) > 2
    text = file.read_text()
    assert [secret for secret in ("a-secret-key", "private", "127.0.0.1", str(tmp_path)) if secret in text] == []


async def test_what_changes_an_answer_is_another_request(tmp_path: Path):
    file = tmp_path / "answers.json"
    async with PrebleCluster(backend="sim", workers=1, processes=False) as source:
        recording = Recording(file, source)
        await played(recording, CHAT)
        await played(recording, CHAT, tools=[{"type": "function", "function": {"name": "look"}}])
        await played(recording, CHAT, SamplingParams(max_tokens=6, seed=5))
        await played(recording, "a private question")
    assert len(json.loads(file.read_text())["answers"]) == 4
    recording = Recording(file)
    assert await played(recording, CHAT, session="s", priority=3, tenant="t")
    assert await played(recording, [Message(role="user", content="a private question")])


async def test_a_miss_is_an_error_and_unanswered(tmp_path: Path):
    (tmp_path / "answers.json").write_text('{"version": 1, "answers": {}}')
    script = Script(Recording(tmp_path / "answers.json").answer)
    async with script.cluster() as cluster:
        with pytest.raises(InvalidRequestError, match="private question"):
            await cluster.generate(CHAT, SHORT)
        with pytest.raises(InvalidRequestError, match="one sample"):
            await cluster.generate(CHAT, SamplingParams(n=2))
    assert [call.messages for call in script.unanswered] == [CHAT]
    with pytest.raises(AssertionError, match="private question"):
        script.check()


@pytest.mark.parametrize("text", ["{", '{"answers": []}', '{"version": 2, "answers": {}}', '{"api_key": "x"}'])
def test_a_file_that_is_no_recording_is_refused_by_name(tmp_path: Path, text: str):
    file = tmp_path / "answers.json"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=r"answers\.json is"):
        Recording(file)


def test_without_a_source_there_must_be_a_file(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        Recording(tmp_path / "answers.json")
