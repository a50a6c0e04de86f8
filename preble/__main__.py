"""The command line: `preble` or `python -m preble`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Coroutine, Sequence
from typing import Any

from preble import PrebleCluster, PrebleError, SamplingParams, __version__, native
from preble.backends import BACKENDS
from preble.cli import chat, get_model
from preble.core.policies import POLICIES
from preble.replay import command as replay
from preble.simulate import command as simulate

_EXAMPLE = """example, with nothing downloaded:
  preble make-model out/model
  preble generate out/model "def hello():" --max-tokens 16

and with a small model that answers:
  preble chat $(preble get-model smollm2-135m)
"""
_STARTED = ", ".join(name for name, backend in BACKENDS.items() if not backend.remote)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status: 2 if it is wrong or cannot be done, with the reason on stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _written(words)
    except BrokenPipeError:  # the reader has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter flushes, and complains
        return 0
    except (PrebleError, OSError) as error:
        print(f"preble: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _written(words: list[str]) -> int:
    """Run a command, and write all of its output here, where a broken pipe is noticed."""
    try:
        return _make_model(words[1:]) if words[:1] == ["make-model"] else _command(words)
    finally:
        sys.stdout.flush()


def _command(words: list[str]) -> int:
    parser = _parser()
    arguments = parser.parse_args(words)
    if arguments.version:
        print(_version(arguments.verbose))
        return 0
    if arguments.run is None:
        parser.print_help(sys.stderr)
        return 2
    status: int = arguments.run(arguments)
    return status


def _version(verbose: bool) -> str:
    parts = [f"  {name}: {'in C' if used else 'in Python, slower'}" for name, used in native().items()]
    return "\n".join([f"preble {__version__}", *(parts if verbose else ())])


def _make_model(words: list[str]) -> int:
    from preble.testing import main

    return main(words)


def _run(job: Coroutine[Any, Any, None]) -> None:
    try:
        import uvloop
    except ImportError:  # not every platform has it
        asyncio.run(job)
    else:
        uvloop.run(job)


def _chat(arguments: argparse.Namespace) -> int:
    _run(chat.converse(arguments))
    return 0


def _generate(arguments: argparse.Namespace) -> int:
    _run(_generate_text(arguments))
    return 0


async def _generate_text(arguments: argparse.Namespace) -> None:
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    sampling = SamplingParams(max_tokens=arguments.max_tokens, temperature=arguments.temperature)
    async with PrebleCluster(
        arguments.model, backend=arguments.backend, workers=arguments.workers, policy=arguments.policy
    ) as cluster:
        async for chunk in cluster.stream(prompt, sampling):
            print(chunk.text, end="", flush=True)
    print()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="preble",
        description="Several LLM engine replicas as one.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=None)
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    parser.add_argument("-v", "--verbose", action="store_true", help="with --version: show which parts run in C")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    commands.add_parser("make-model", help="write a small model with random weights", add_help=False)
    _add_get_model(commands.add_parser("get-model", help="fetch a small real model"))
    _add_chat(commands.add_parser("chat", help="hold a conversation with a model"))
    _add_generate(commands.add_parser("generate", help="generate text, shown as it comes"))
    _add_replay(commands.add_parser("replay", help="decide a decision log again, under another policy"))
    _add_simulate(commands.add_parser("simulate", help="compare policies on a workload, in virtual time"))
    return parser


def _add_chat(parser: argparse.ArgumentParser) -> None:
    chat.add_arguments(parser)
    parser.set_defaults(run=_chat)


def _add_get_model(parser: argparse.ArgumentParser) -> None:
    get_model.add_arguments(parser)
    parser.set_defaults(run=get_model.run)


def _add_replay(parser: argparse.ArgumentParser) -> None:
    replay.add_arguments(parser)
    parser.set_defaults(run=replay.run)


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    simulate.add_arguments(parser)
    parser.set_defaults(run=simulate.run)


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_generate)
    parser.add_argument("model", metavar="MODEL", help="a Hugging Face folder or a GGUF file")
    parser.add_argument("prompt", metavar="PROMPT", help="text to go on from; - reads standard input")
    parser.add_argument("--backend", default="torch", help=f'{_STARTED} or "module:Class" (%(default)s)')
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="worker processes (%(default)s)")
    parser.add_argument("--policy", default="e2", help=f"{', '.join(POLICIES)} (%(default)s)")
    parser.add_argument("--max-tokens", type=int, default=128, metavar="N", help="generate at most N (%(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (%(default)s)")


if __name__ == "__main__":
    sys.exit(main())
