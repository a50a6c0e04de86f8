from __future__ import annotations

import itertools
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import pytest

import preble
import preble.__main__
from preble.__main__ import main
from preble.testing import make_model

SMALL = {"hidden": 64, "layers": 1, "heads": 2, "kv_heads": 1, "intermediate": 64, "vocab": 300}


def run(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command in this process: starting another one takes longer than most of them do."""
    shown, errors = StringIO(), StringIO()
    with redirect_stdout(shown), redirect_stderr(errors), patch("sys.stdin", StringIO(given)):
        try:
            status = main(arguments)
        except SystemExit as exit:
            status = int(exit.code or 0)
    return subprocess.CompletedProcess(arguments, status, shown.getvalue(), errors.getvalue())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(make_model(tmp_path_factory.mktemp("model"), **SMALL))


def test_version():
    assert run("--version").stdout == f"preble {preble.__version__}\n"
    command = [sys.executable, "-m", "preble", "--version"]
    assert subprocess.check_output(command, text=True) == run("--version").stdout


def test_the_version_names_the_parts_in_c_if_asked():
    lines = run("--version", "-v").stdout.splitlines()
    assert lines[0] == f"preble {preble.__version__}"
    said = dict(line.strip().split(": ") for line in lines[1:])
    assert {name: words == "in C" for name, words in said.items()} == preble.native()


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


def test_generate_prints_the_whole_result_if_asked_and_a_seed_repeats_it(model):
    options = ("--max-tokens", "6", "--temperature", "3", "--json")
    first, again = (json.loads(run("generate", model, "hi", *options, "--seed", "7").stdout) for _ in range(2))
    other = json.loads(run("generate", model, "hi", *options, "--seed", "8", "--top-p", "0.99").stdout)
    assert first["choices"][0]["token_ids"] == again["choices"][0]["token_ids"] != other["choices"][0]["token_ids"]
    assert first["text"] == first["choices"][0]["text"]
    greedy = json.loads(run("generate", model, "hi", *options, "--seed", "8", "--top-p", "0.000001").stdout)
    assert (
        greedy["choices"][0]["token_ids"]
        == json.loads(run("generate", model, "hi", *options[:2], "--json").stdout)["choices"][0]["token_ids"]
    ), "nothing but the likeliest token is drawn"


def test_a_name_of_the_hub_is_told_from_a_folder():
    done = run("generate", "some-maker/some-model", "hi")
    assert (done.returncode, done.stdout) == (2, "")
    assert "names of the Hugging Face hub are not taken, only folders and GGUF files" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("generate", "--max-tok", "3", "model", "hi"),
        ("simulate", "--poli", "e2", "--workload", "a:b"),
        ("make-model", "--voc", "5", "model"),
    ],
)
def test_options_are_not_abbreviated(words):
    done = run(*words)
    assert done.returncode == 2
    assert f"unrecognized arguments: {words[1]}" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("command", ["make-model", "generate", "chat", "simulate", "replay", "get-model"])
def test_every_option_is_explained(command):
    """The help of an option without a text is its name alone, and then the next one begins."""
    lines = [line for line in run(command, "--help").stdout.split("options:")[1].splitlines() if line.strip()]
    for line, following in itertools.pairwise([*lines, "  -"]):
        name = line.strip()
        if name.startswith("-"):
            assert "  " in name or not following.strip().startswith("-"), name


def test_a_pipe_that_breaks_elsewhere_is_an_error(monkeypatch, capfd):
    def command(words):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(preble.__main__, "_command", command)
    assert preble.__main__.main(["generate"]) == 2
    assert capfd.readouterr().err == "preble: [Errno 32] Broken pipe\n"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--max-tokens", "0"], "max_tokens: "),
        (["--top-p", "2"], "top_p: "),
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


def test_without_a_command_it_shows_its_help_where_errors_go():
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == run("--help").stdout


def test_an_unknown_command_is_refused():
    assert run("no-such-command").returncode == 2


MINE = """
from preble.simulate import Request

def two(rate=1.0, requests=2, seed=0):
    return (Request(segments=((n, 100),), output_tokens=4, arrival=n / rate) for n in range(requests))

def broken(seed):
    raise ValueError("of two\\n  lines")

def number(seed):
    return 7

def numbers(seed):
    return [7]
"""


def installed(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as an installed script does, which has its own folder on the path and not the current one."""
    script = folder / "bin" / "preble"
    script.parent.mkdir(exist_ok=True)
    script.write_text("import sys\nfrom preble.__main__ import main\nsys.exit(main())\n")
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def test_simulate_finds_a_workload_in_the_current_folder(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    done = installed(tmp_path, "simulate", "--workload", "mine:two", "--requests", "3", "--policy", "e2", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["policies"]["e2"]["requests"] == 3


@pytest.mark.parametrize(
    ("workload", "reason"),
    [
        ("mine:broken", "mine:broken raised ValueError: of two lines (mine.py, line 8)"),
        ("mine:number", "mine:number returned int, not preble.simulate.Request"),
        ("mine:numbers", "mine:numbers returned int, not preble.simulate.Request"),
        ("mine:none", "'mine:none' is not module:function (module 'mine' has no attribute 'none')"),
        ("none:f", "'none:f' is not module:function (No module named 'none')"),
        ("unfinished:f", "unfinished:f raised SyntaxError: '(' was never closed (unfinished.py, line 1)"),
    ],
)
def test_a_workload_that_fails_is_one_line_and_status_2(tmp_path, workload, reason):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "unfinished.py").write_text("f = (")
    done = installed(tmp_path, "simulate", "--workload", workload)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"preble: workload: {reason}\n")


def test_arguments_that_a_workload_does_not_take_are_named(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    done = installed(tmp_path, "simulate", "--workload", "mine:number", "--rate", "2")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "mine:number raised TypeError: " in done.stderr
    assert "'rate'" in done.stderr


@pytest.fixture
def log(tmp_path):
    lines: list[bytes] = []
    scheduler = preble.Scheduler(log=lines.append)
    scheduler.add_worker("a", kv_tokens=1000, now=0.0)
    scheduler.submit("r", [1, 2, 3], now=0.0)
    scheduler.finish("r", output=[4], now=1.0)
    path = tmp_path / "decisions.log"
    path.write_bytes(b"".join(lines))
    return str(path)


@pytest.mark.parametrize("command", ["simulate", "replay", "--help"])
def test_a_reader_that_has_seen_enough_is_no_error(trace, log, command):
    """The pipe has nobody at its other end, as one to `head` that has ended."""
    options = {"simulate": [*trace, "--policy", "e2"], "replay": [log], "--help": []}[command]
    process = subprocess.Popen(
        [sys.executable, "-m", "preble", command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=60), said) == (0, "")
