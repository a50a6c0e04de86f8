from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import preble
from preble.testing import make_model

SMALL = {"hidden": 64, "layers": 1, "heads": 2, "kv_heads": 1, "intermediate": 64, "vocab": 300}


def run(*arguments: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "preble", *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(make_model(tmp_path_factory.mktemp("model"), **SMALL))


def test_version():
    assert run("--version").stdout == f"preble {preble.__version__}\n"


def test_help_names_the_commands():
    listed = [line.split()[0] for line in run("--help").stdout.splitlines() if line.startswith("    ")]
    assert {"make-model", "generate", "replay", "simulate"} <= set(listed)


def test_make_model_writes_the_folder_that_the_library_writes(tmp_path, model):
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    made = run("make-model", str(tmp_path / "m"), *options)
    assert (made.returncode, made.stdout) == (0, f"{tmp_path / 'm'}\n")
    for file in ("config.json", "tokenizer.json", "model.safetensors"):
        assert (tmp_path / "m" / file).read_bytes() == (Path(model) / file).read_bytes()


def test_generate_shows_text_the_same_for_an_argument_and_standard_input(model):
    by_argument = run("generate", model, "import this", "--max-tokens", "12")
    by_input = run("generate", model, "-", "--max-tokens", "12", given="import this")
    assert (by_argument.returncode, by_argument.stderr) == (0, "")
    assert len(by_argument.stdout) > 1
    assert by_argument.stdout.endswith("\n")
    assert by_input.stdout == by_argument.stdout


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--max-tokens", "0"], "max_tokens: "),
        (["--temperature", "nan"], "temperature: "),
        (["--backend", "none"], "backend: unknown 'none'"),
        (["--policy", "none"], "policy: unknown 'none'"),
        (["--workers", "0"], "workers: "),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_2(model, options, reason):
    done = run("generate", model, "hi", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"preble: {reason}")
    assert done.stderr.count("\n") == 1


def test_a_path_that_is_no_model_is_one_line_and_status_2(tmp_path):
    done = run("generate", str(tmp_path / "none"), "hi")
    assert done.returncode == 2
    assert done.stderr.startswith("preble: ")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("t,p,o\n0,100,7\n1,50,3\n")
    return ["--trace", str(path), "--format", "lengths"]


def test_simulate_compares_the_policies_named(trace):
    options = ["--policy", "e2", "--policy", "round-robin", "--workers", "2"]
    table = run("simulate", *trace, *options)
    assert (table.returncode, table.stderr) == (0, "")
    assert [line.split()[0] for line in table.stdout.splitlines()] == ["policy", "e2", "round-robin", "alone,"]
    summaries = json.loads(run("simulate", *trace, *options, "--json").stdout)["policies"]
    assert {name: summary["requests"] for name, summary in summaries.items()} == {"e2": 2, "round-robin": 2}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--policy", "none"], "policy: unknown 'none'"),
        (["--speed", "0"], "speed and rate: "),
        (["--workers", "0"], "workers: "),
        (["--requests", "0"], "requests: must be at least 1, not 0"),
        (["--requests", "-3"], "requests: must be at least 1, not -3"),
    ],
)
def test_what_cannot_be_simulated_is_one_line_and_status_2(trace, options, reason):
    done = run("simulate", *trace, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"preble: {reason}")
    assert done.stderr.count("\n") == 1


def test_a_trace_that_is_not_there_is_one_line_and_status_2(tmp_path):
    done = run("simulate", "--trace", str(tmp_path / "none"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_an_empty_trace_is_one_line_and_status_2(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    done = run("simulate", "--trace", str(tmp_path / "empty.jsonl"))
    assert (done.returncode, done.stderr) == (2, "preble: requests: there are none\n")


def test_a_command_is_needed():
    assert run().returncode == 2
    assert run("no-such-command").returncode == 2
