"""Every example runs as it stands, and shows what it says."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.pytest_plugin.conftest import PLUGINS

EXAMPLES = Path(__file__).parent.parent / "examples"

RUN_CELLS = """
import ast, asyncio, inspect, json, sys

async def run():
    here = {"__name__": "__main__"}
    for cell in json.load(open(sys.argv[1]))["cells"]:
        if cell["cell_type"] == "code":
            code = compile("".join(cell["source"]), "cell", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            waits = eval(code, here)
            if inspect.isawaitable(waits):
                await waits

asyncio.run(run())
"""
"""A notebook's cells in one event loop, which is how a kernel runs them."""


def run(folder: Path, *command: str) -> str:
    """What a Python process prints; it must end well."""
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_example_is_listed_and_has_a_test():
    files = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    assert set(re.findall(r"^\| \[([\w.]+)\]\(\1\)", (EXAMPLES / "README.md").read_text(), re.MULTILINE)) == files
    assert {name for name in files if Path(name).stem not in Path(__file__).read_text()} == set()


def test_the_tests_of_an_agent_pass_without_a_model(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    folder = shutil.copytree(EXAMPLES / "testing", tmp_path / "testing", ignore=shutil.ignore_patterns("__pycache__"))
    ini = "[pytest]\nasyncio_default_fixture_loop_scope = function\n"
    (folder / "pytest.ini").write_text(ini)  # so that nothing of this repository's own settings is used
    shown = run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", *PLUGINS)
    assert re.search(r"^8 passed", shown, re.MULTILINE), shown


def test_agents_find_the_turns_before_cached(tmp_path):
    shown = run(tmp_path, str(EXAMPLES / "agent_loop.py"))
    turns = re.findall(r"(\w+), turn (\d): (\d+) of (\d+) tokens cached on w\d", shown)
    assert sorted((city, turn) for city, turn, *_ in turns) == [
        (city, turn) for city in ("Lima", "Oslo", "Perth", "Rome") for turn in "012"
    ]
    assert all(int(cached) > 0 for _, turn, cached, _ in turns if turn != "0")


def test_a_batch_comes_back_whole_and_finds_its_instructions_cached(tmp_path):
    shown = run(tmp_path, str(EXAMPLES / "batch.py")).splitlines()
    assert shown[0] == "200 generations, 1600 tokens"
    assert 50 < int(shown[1].partition("%")[0]) < 89  # 800 of 900 tokens are shared


def test_the_bare_scheduler_uses_every_engine_and_finds_manuals_cached(tmp_path):
    shown = run(tmp_path, str(EXAMPLES / "bare_scheduler.py")).splitlines()
    assert sum(map(int, re.findall(r"'[abc]': (\d+)", shown[0]))) == 100
    assert shown[0].count("'") == 6
    assert 50 < int(shown[1].partition("%")[0]) < 98  # 2000 of 2050 tokens are shared


def test_the_custom_engine_answers_in_reverse(tmp_path):
    assert run(tmp_path, str(EXAMPLES / "custom_engine.py")) == "(4, 3, 2) length\n"


def test_the_custom_policy_beats_round_robin(tmp_path):
    shown = run(tmp_path, str(EXAMPLES / "custom_policy.py"))
    ttft = dict(re.findall(r"^(\S+) +mean TTFT ([\d.]+) s", shown, re.MULTILINE))
    assert ttft.keys() == {"mine", "e2", "round-robin"}
    assert float(ttft["mine"]) < float(ttft["round-robin"])


def test_the_notebook_is_one_without_outputs_and_its_cells_run(tmp_path):
    path = EXAMPLES / "notebook.ipynb"
    notebook = json.loads(path.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["outputs"] for cell in cells] == [[]] * len(cells)
    shown = run(tmp_path, "-c", RUN_CELLS, str(path))
    first, second = (
        int(cached) for cached in re.findall(r"^(\d+) of \d+ prompt tokens cached on", shown, re.MULTILINE)
    )
    assert first == 0 < second
    assert re.search(r"^w\d \d+ tokens cached$", shown, re.MULTILINE)


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[str]:
    """The service's URL while it runs; it must end well when it is told to."""
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), "service:app", "--port", "0"]
    folder = tmp_path_factory.mktemp("service")
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        said = ""
        while not (found := re.search(r"running on (http://\S+)", said)):
            line = process.stderr.readline()
            assert line, said
            said += line
        yield found[1]
        process.send_signal(signal.SIGINT)
        assert process.stderr.read().count("Traceback") == 0
        assert process.wait(timeout=60) == 0


def ask(url: str, **body: object) -> bytes:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return response.read()


def test_the_service_streams_what_it_answers(service):
    whole = json.loads(ask(f"{service}/generate", prompt="import this", max_tokens=8))
    events = ask(f"{service}/stream", prompt="import this", max_tokens=8).decode().split("\n\n")
    assert whole["choices"][0]["finish_reason"] == "length"
    assert "".join(json.loads(event.removeprefix("data: "))["text"] for event in events if event) == whole["text"] != ""


def told(url: str) -> dict[str, object]:
    with urllib.request.urlopen(f"{url}/stats", timeout=60) as response:
        return json.loads(response.read())


def until(condition: Callable[[], object]) -> None:
    """Wait until `condition` holds; fail if it does not in time."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_service_stops_what_a_client_has_left(service):
    before = told(service)["counters"]["cancelled"]
    body = json.dumps({"prompt": "import this", "max_tokens": 100_000}).encode()
    head = (
        f"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    address = urllib.parse.urlsplit(service)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(head.encode() + body)
        until(lambda: told(service)["in_flight"])
    until(lambda: not told(service)["in_flight"])
    assert told(service)["counters"]["cancelled"] == before + 1


WRONG = [({"prompt": "x", "max_tokens": 0}, "max_tokens"), ({"prompt": ""}, "prompt")]


@pytest.mark.parametrize("way", ["generate", "stream"])
@pytest.mark.parametrize(("body", "field"), WRONG)
def test_the_service_says_who_is_at_fault(service, way, body, field):
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(f"{service}/{way}", **body)
    assert refused.value.code == 400
    assert json.loads(refused.value.read())["error"].startswith(f"{field}: ")
