"""Scripted, recorded and broken models in tests."""

from __future__ import annotations

import json

import pytest

from tests.pytest_plugin.conftest import Run


def test_a_prompt_that_nothing_answers_fails_the_test_with_the_prompt(run: Run):
    result = run("""
import contextlib

def test_hidden(preble_llm):
    with contextlib.suppress(Exception):  # as agents do
        preble_llm.cluster.generate([{"role": "user", "content": "where is Oslo?"}])

def test_meant(preble_llm):
    with contextlib.suppress(Exception):
        preble_llm.cluster.generate([{"role": "user", "content": "where is Oslo?"}])
    preble_llm.unanswered.clear()
""")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        ["*ERROR at teardown of test_hidden*", "*AssertionError: nothing in the script answers*where is Oslo?*"]
    )


def test_a_loop_with_a_tool(run: Run):
    run("""
import json
import pytest
pytest.importorskip("openai")
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}

def test_it(preble_llm, preble_openai):
    preble_llm.call_tool("weather", city="Oslo")
    preble_llm.reply("It rains.", when="rain")
    messages = [{"role": "user", "content": "What is the weather?"}]
    message = ask(preble_openai, messages).message
    (call,) = message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Oslo"})
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "rain, 8 degrees"}]
    assert ask(preble_openai, messages).message.content == "It rains."
    assert [len(call.messages) for call in preble_llm.calls] == [1, 3]
    assert preble_llm.calls[0].tools[0]["function"]["name"] == "weather"
    assert not preble_llm.unused

def ask(client, messages):
    return client.chat.completions.create(model="any", messages=messages, tools=[TOOL]).choices[0]
""").assert_outcomes(passed=1)


RECORDED = """
import pytest
from preble import PrebleCluster, SamplingParams

SHORT = SamplingParams(max_tokens=5, seed=1)

def source():
    return PrebleCluster(backend="sim", workers=1, processes=False, seed=3)

def test_it(preble_replay):
    model = preble_replay("answers.json", source)
    out = model.cluster.generate("the first prompt", SHORT)
    print("ANSWER", repr(out.text), out.usage.output_tokens, out.finish_reason)
"""


def test_what_was_recorded_is_played_again_without_the_source(run: Run, pytester: pytest.Pytester):
    recorded = run(RECORDED, "--preble-record", "-s")
    recorded.assert_outcomes(passed=1)
    answers = [line for line in recorded.outlines if "ANSWER" in line]
    assert len(answers) == 1
    assert answers[0].endswith(" 5 length")
    text = (pytester.path / "answers.json").read_text()
    assert "first prompt" not in text
    (entry,) = json.loads(text)["answers"].values()
    assert entry["output_tokens"] == 5

    played = run(RECORDED.replace("return PrebleCluster", "assert not 'asked for'"), "-s")
    played.assert_outcomes(passed=1)
    assert [line for line in played.outlines if "ANSWER" in line] == answers

    missed = run(RECORDED.replace("the first prompt", "another prompt"))
    missed.assert_outcomes(failed=1, errors=1)
    missed.stdout.fnmatch_lines(["*nothing in the script answers*another prompt*"])


def test_without_a_file_there_is_nothing_to_play(run: Run):
    run(RECORDED).assert_outcomes(failed=1)


def test_chaos_is_undone_at_the_end_of_the_test(run: Run):
    run("""
import threading
import pytest
from preble import SamplingParams

SHORT = SamplingParams(max_tokens=3)

def test_kill(preble_cluster, preble_chaos):
    assert preble_chaos.kill("w1") == "w1"
    assert preble_cluster.workers == ["w0"]

def test_another_is_there(preble_cluster):
    assert preble_cluster.workers == ["w0", "w2"]

def test_refuse(preble_cluster, preble_chaos):
    refusing = preble_chaos.refuse()
    assert preble_cluster.generate([1, 2], SHORT).worker != refusing

def test_stop_and_slow(preble_cluster, preble_chaos):
    for worker in preble_cluster.workers:
        preble_chaos.slow(worker, seconds=0.001)
        preble_chaos.stop(worker)
    done = threading.Thread(target=preble_cluster.generate, args=([1, 2], SHORT))
    done.start()
    preble_cluster.wait(lambda: preble_cluster.stats().in_flight == 1, "it is in flight")
    preble_chaos.undo()
    done.join(60)
    assert not done.is_alive()

def test_a_reply_survives_its_worker(preble_llm, preble_chaos):
    preble_llm.reply("one ", "two ", 0.01, "three")
    stream = preble_llm.cluster.stream("?")
    first = next(chunk for chunk in stream if chunk.text)
    preble_chaos.kill(first.worker)
    assert first.text + "".join(chunk.text for chunk in stream) == "one two three"
    assert len(preble_llm.calls) == 1

def test_names_are_checked(preble_cluster, preble_chaos):
    with pytest.raises(ValueError, match="no worker 'w9'"):
        preble_chaos.kill("w9")
""").assert_outcomes(passed=6)
