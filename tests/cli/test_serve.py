"""`preble serve` as a process, and how its options and its file come together."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import asynccontextmanager

import pytest

from preble import ConfigurationError
from preble.cli import serve
from tests.test_main import run

PATIENCE = 120.0


def chosen(*words: str):
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    return serve.chosen(parser.parse_args(words))


@asynccontextmanager
async def served(*words: str, **environment: str):
    """A process of `preble serve`, and its first line. It is told to end, and must do so by itself."""
    surroundings = {name: value for name, value in os.environ.items() if name != "PREBLE_API_KEY"} | environment
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "preble", "serve", "--port", "0", *words),
        stdout=subprocess.PIPE,
        env=surroundings,
    )
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), PATIENCE)).decode()
        yield process, line
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
    finally:
        if process.returncode is None:
            process.kill()


def ask(url: str, body: dict | None = None, key: str = "none") -> dict:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json", "authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:
        return json.load(response)


HELLO = {"model": "any", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}


async def test_workers_are_served_until_the_process_is_told_to_end():
    async with served("--backend", "sim", "--workers", "2") as (process, line):
        url = line.split()[-1]
        answer = await asyncio.to_thread(ask, f"{url}/chat/completions", HELLO)
        assert (line, answer["usage"]["completion_tokens"]) == (f"2 workers at {url}\n", 4)
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.stdout.readline(), PATIENCE) == b"ended\n"
        await asyncio.wait_for(process.wait(), PATIENCE)


async def test_a_client_without_the_token_is_refused():
    async with served("--backend", "sim", "--workers", "1", PREBLE_API_KEY="token") as (_, line):
        url = line.split()[-1]
        with pytest.raises(urllib.error.HTTPError) as refused:
            await asyncio.to_thread(ask, f"{url}/models")
        assert refused.value.code == 401
        assert (await asyncio.to_thread(ask, f"{url}/models", key="token"))["object"] == "list"


def test_an_option_goes_before_the_file(tmp_path):
    file = tmp_path / "preble.toml"
    file.write_text('backend = "torch"\nworkers = 3\nengine_options = {a = 1}\n[serve]\nport = 9\nhost = "127.0.0.1"\n')
    told = chosen("--config", str(file), "--backend", "sim", "--engine-option", "b=two", "--port", "0")
    assert (told.backend, told.workers, told.engine_options) == ("sim", 3, {"a": 1, "b": "two"})
    assert (told.serve.host, told.serve.port) == ("127.0.0.1", 0)


@pytest.mark.parametrize(
    ("word", "value"), [("a=1", 1), ("a=0.5", 0.5), ("a=true", True), ("a=[1, 2]", [1, 2]), ("a=x/y", "x/y")]
)
def test_an_engine_option_is_read_as_toml_or_else_as_a_word(word, value):
    assert chosen("--engine-option", word).engine_options == {"a": value}


def test_an_engine_option_without_a_value_is_an_error():
    with pytest.raises(ConfigurationError, match="NAME=VALUE"):
        chosen("--engine-option", "alone")


def test_options_of_workers_are_refused_for_servers_that_run_already():
    with pytest.raises(ConfigurationError, match="workers"):
        chosen("--connect", "http://127.0.0.1:1", "--workers", "2").cluster()


def test_check_says_what_a_file_describes_or_what_is_wrong_with_it(tmp_path):
    file = tmp_path / "preble.toml"
    file.write_text('backend = "sim"\nworkers = 3\n')
    said = run("check", str(file))
    assert said.returncode == 0
    assert "3 workers of sim" in said.stdout
    file.write_text('backend = "sim"\nworker = 3\n')
    said = run("check", str(file))
    assert said.returncode == 2
    assert "did you mean 'workers'" in said.stderr


def test_an_address_that_others_reach_needs_a_token_before_anything_is_started(monkeypatch):
    monkeypatch.delenv("PREBLE_API_KEY", raising=False)
    said = run("serve", "--backend", "sim", "--host", "0.0.0.0")  # noqa: S104
    assert said.returncode == 2
    assert "PREBLE_API_KEY" in said.stderr


async def test_servers_that_run_already_are_served_as_one():
    async with served("--backend", "sim", "--workers", "1") as (_, first):
        urls = [first.split()[-1]]
        async with served("--connect", urls[0]) as (_, line):
            assert line.startswith("1 worker at ")
            answer = await asyncio.to_thread(ask, f"{line.split()[-1]}/chat/completions", HELLO)
            assert answer["usage"]["completion_tokens"] == 4
