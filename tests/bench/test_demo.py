from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console

from bench.demo import __main__ as demo
from bench.demo import answers, sides
from bench.demo.__main__ import main
from bench.demo.answers import Answered
from bench.demo.questions import DOCUMENTS, TOOLS, questions, topics
from bench.demo.sides import differences
from bench.live import Record
from preble.errors import ModelError
from preble.testing import make_model

POLICY_KEYS = {
    "requests", "prompt_tokens", "cached_tokens", "ttft_mean", "ttft_p50", "ttft_p99", "latency_mean", "latency_p99",
    "output_tokens_per_s", "per_worker",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return str(make_model(folder, hidden=64, layers=2, heads=2, kv_heads=1, intermediate=128, vocab=2048))


@pytest.mark.parametrize(("backend", "workers"), [("torch", 1), ("sim", 2)])
def test_load_test_serves_with_both_policies_and_writes_what_it_found(
    backend, workers, model, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(sides, "WORKERS", workers)  # importing torch takes longer than the run
    out, report = tmp_path / "out", tmp_path / "report.json"
    options = ["--quick", "--backend", backend, "--model", model, "--out", str(out), "--json", str(report)]
    assert main([*options, "--acts", "load"]) == 0
    result = json.loads((out / "result.json").read_text())
    assert result.keys() == {"backend", "load"}
    assert result["backend"] == backend
    assert result["load"]["same_tokens"] is True
    check_policies(result["load"]["policies"])
    assert (out / "figure.png").read_bytes().startswith(b"\x89PNG")
    metrics = json.loads(report.read_text())["metrics"]
    assert metrics["ttft_mean_ratio"] == pytest.approx(metrics["round_robin_ttft_mean"] / metrics["e2_ttft_mean"])
    shown = capsys.readouterr().out
    assert "same tokens for every request" in shown
    assert "round-robin    0/" in shown


def test_two_workers_with_a_real_model_give_answers_that_mean_something(real_model, tmp_path, capsys):
    out, report = tmp_path / "out", tmp_path / "report.json"
    assert main(["--quick", "--acts", "answers", "--out", str(out), "--json", str(report)]) == 0
    result = json.loads((out / "result.json").read_text())["answers"]
    assert result["same_texts"] is True
    check_policies(result["policies"])
    given = {answer["question"]: answer["answer"] for answer in result["answers"]}
    assert len(given) == 10
    assert "mean" in given["What does statistics.mean do?"]
    assert "shutil.move" in given["Task: Move a file to another folder."]
    shown = capsys.readouterr().out
    assert f"First act: a real model, {real_model.stem}" in shown
    check_introduction(shown, result["answers"][:3])
    assert "Both policies returned the same text for every question." in shown
    ratio = json.loads(report.read_text())["metrics"]["answers_ttft_mean_ratio"]
    assert f"Mean time to first token: {ratio:.2f} times shorter with e2." in shown
    shown = " ".join(shown.split())  # lines may be broken anywhere
    assert re.search(r"first token after [\d.]+ s if all are computed, [\d.]+ s if [\d,]+ are cached", shown)


def check_introduction(shown: str, first) -> None:
    """The first questions and answers are shown under both policies; e2 finds the prefix where it was computed."""
    for policy, cold in (("round-robin", 2), ("e2", 1)):
        part = shown.partition(f"\n{policy}\n")[2].partition("more")[0]
        for answer in first:
            assert f"> {answer['question']}\n{answer['answer']}" in part
        assert len(re.findall(r"\[[\d,]+ of [\d,]+ prompt tokens cached, first token after", part)) == 3
        assert part.count("[0 of ") == cold


def check_policies(policies) -> None:
    assert policies.keys() == {"round-robin", "e2"}
    for policy in policies.values():
        check_policy(policy)


def check_policy(policy) -> None:
    assert policy.keys() == POLICY_KEYS
    workers = policy["per_worker"].values()
    assert sum(worker["requests"] for worker in workers) == policy["requests"] > 0
    computed = policy["prompt_tokens"] - policy["cached_tokens"]
    assert sum(worker["computed_tokens"] for worker in workers) == computed > 0
    assert 0 < policy["ttft_p50"] <= policy["ttft_p99"]
    assert policy["cached_tokens"] > 0
    assert policy["ttft_mean"] < policy["latency_mean"] <= policy["latency_p99"] * 1.0001


def record(*token_ids: int, text: str = "", cached: int = 0) -> Record:
    return Record(token_ids, 10, cached, "w0", 0.1, 0.2, 0.2, text)


def test_differing_tokens_are_found_by_number():
    assert differences([record(1), record(2), record(3)], [record(1), record(2, 2), record(4)]) == [1, 2]


def test_differing_texts_are_shown_and_fail_the_demo(tmp_path, capsys, monkeypatch):
    asked = questions(topics(1), introduced=3, seed=0)[:3]
    same = [record(1, text="one"), record(2, text="two"), record(3, text="three")]
    records = {"round-robin": same, "e2": [*same[:2], record(4, text="four")]}
    policies = {policy: answers.summary(of) for policy, of in records.items()}

    async def told(model, console, **options):
        found = Answered(asked, records, policies, differences(*records.values()))
        answers.show(found, console)
        return found

    monkeypatch.setattr(demo, "real_model", lambda: tmp_path)
    monkeypatch.setattr(answers, "run", told)
    assert main(["--acts", "answers", "--out", str(tmp_path)]) == 1
    assert json.loads((tmp_path / "result.json").read_text())["answers"]["same_texts"] is False
    shown = capsys.readouterr().out
    assert f"{asked[2].words}\n  'three'\n  'four'\nError: 1 questions" in shown
    assert "same text for every question" not in shown


def test_without_the_real_model_the_load_test_runs_alone_and_a_line_says_so(model, tmp_path, capsys, monkeypatch):
    def missing():
        raise ModelError("smollm2-135m: is there a network?")

    monkeypatch.setattr(demo, "real_model", missing)
    monkeypatch.setattr(sides, "WORKERS", 1)
    assert main(["--quick", "--model", model, "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "result.json").read_text()).keys() == {"backend", "load"}
    shown = capsys.readouterr().out
    assert "The first act needs a real model: smollm2-135m: is there a network?" in shown
    assert "preble get-model smollm2-135m" in shown
    assert "TTFT mean" in shown


def test_other_engines_run_the_load_test_alone(monkeypatch):
    monkeypatch.setattr(demo, "real_model", lambda: pytest.fail("it is not needed"))
    shown = io.StringIO()
    assert demo.found_model(demo.parse(["--backend", "sim"]), Console(file=shown)) is None
    assert "needs --backend torch" in shown.getvalue()


def test_forty_questions_share_eight_prefixes_and_the_first_three_are_on_one_topic():
    asked = questions(topics(), introduced=3, seed=0)
    assert len(asked) == len({(question.topic, question.words) for question in asked}) == 40
    assert len({question.topic for question in asked}) == 8
    assert len({question.topic for question in asked[:3]}) == 1
    assert asked == questions(topics(), introduced=3, seed=0) != questions(topics(), introduced=3, seed=1)


@pytest.mark.parametrize("topic", topics(), ids=lambda topic: topic.name)
def test_a_prefix_holds_what_is_asked_for_and_two_answers(topic):
    kind, _, module = topic.name.partition("/")
    wanted = {"document": DOCUMENTS, "tools": TOOLS}[kind][module].values()
    system, *examples = topic.prefix
    assert system["role"] == "system"
    assert 2500 < len(system["content"]) < 5000
    assert all(f"\n{module}.{name}(" in system["content"] for name in wanted)
    assert [message["role"] for message in examples] == ["user", "assistant"] * 2
    assert len(topic.questions) == len(wanted) == 5
