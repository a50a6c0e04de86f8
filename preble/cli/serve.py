"""`preble serve`: a cluster behind HTTP, until it is told to end; `preble check`: whether its settings are right."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tomllib
from typing import Any

from preble import POLICIES, ConfigurationError
from preble.cli import settings, where

_FLAGS = ("model", "backend", "workers", "policy")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `preble serve` understands to its parser."""
    parser.description = (
        "Serve a model over HTTP to OpenAI and Anthropic clients. Workers are started, or with --connect servers are "
        f"used that run already. If {settings.KEY} is set, clients must send it as their key."
    )
    about = "a Hugging Face folder or a GGUF file; with --connect the one with the tokenizer; sim needs none"
    parser.add_argument("model", metavar="MODEL", nargs="?", help=about)
    parser.add_argument("--connect", action="append", metavar="URL", help="a server that runs already; may be repeated")
    parser.add_argument("--backend", help=f'{where.STARTED} or "module:Class" (torch)')
    parser.add_argument("--workers", type=int, metavar="N", help="workers to start (2)")
    parser.add_argument("--policy", help=f"{', '.join(POLICIES)} (e2)")
    option = "of the engine, as TOML: max_model_len=8192, or dtype=float32; may be repeated"
    parser.add_argument("--engine-option", action="append", metavar="NAME=VALUE", help=option)
    parser.add_argument("--host", help="address to listen at; all but this machine's own need a token (127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen at, 0 for any that is free (8000)")
    names = "a name of the model, beside which others are refused; may be repeated"
    parser.add_argument("--served-model-name", action="append", metavar="NAME", help=names)
    parser.add_argument("--config", metavar="FILE", help="settings in TOML; an option here goes before the one there")


def add_check_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `preble check` understands to its parser."""
    parser.description = "Say what a settings file of `preble serve` describes, or what is wrong with it."
    parser.add_argument("config", metavar="FILE", help="settings in TOML")


def chosen(arguments: argparse.Namespace) -> settings.Settings:
    """Return the settings of a file, if one is given, and of the options. Raises ConfigurationError, OSError."""
    given = {} if arguments.config is None else settings.table(arguments.config)
    flags = {name: value for name in _FLAGS if (value := getattr(arguments, name)) is not None}
    if arguments.connect:
        flags["urls"] = arguments.connect
    if arguments.engine_option:
        flags["engine_options"] = _options(given.get("engine_options"), arguments.engine_option)
    http = {name: value for name in ("host", "port", "served_model_name") if (value := getattr(arguments, name))}
    if arguments.port is not None:
        http["port"] = arguments.port
    if http:
        flags["serve"] = {**given.get("serve", {}), **http}
    return settings.settings({**given, **flags}, arguments.config or "options")


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until SIGINT or SIGTERM. Requests that run may end then; another signal ends them. Raises PrebleError."""
    what = chosen(arguments)
    http = what.http()
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        async with what.cluster() as cluster, cluster.serve_http(**http) as url:
            count = len(cluster.stats().workers)
            _say(f"{count} worker{'s' if count != 1 else ''} at {url}")
            await asyncio.Event().wait()
    except asyncio.CancelledError:
        _say("ended")


def check(arguments: argparse.Namespace) -> int:
    """Print what a file describes. Raises ConfigurationError, OSError."""
    what = settings.settings(settings.table(arguments.config), arguments.config)
    cluster, http = what.cluster(), what.http()
    who = f"{len(what.urls)} servers" if what.urls else f"{what.workers or 2} workers of {cluster.backend}"
    about = [f"{name}: {value}" for name, value in (("model", what.model), ("policy", what.policy or "e2")) if value]
    token = "with a token" if http["api_key"] else "without a token"
    _say(f"{who}, {', '.join(about)}, at http://{what.serve.host}:{what.serve.port} {token}")
    return 0


def _options(before: Any, words: list[str]) -> dict[str, Any]:
    """Add options to those of a file. Raises ConfigurationError."""
    if before is not None and not isinstance(before, dict):
        raise ConfigurationError("--engine-option: the file has options for each worker: add it there")
    return {**(before or {}), **dict(map(_option, words))}


def _option(word: str) -> tuple[str, Any]:
    name, equals, value = word.partition("=")
    if not name or not equals:
        raise ConfigurationError(f"--engine-option: {word!r} is not NAME=VALUE")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        return name, value  # a word without quotes


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
