"""The command line: `preble` or `python -m preble`."""

from __future__ import annotations

import argparse
import asyncio
import os
import select
import sys
from collections.abc import Coroutine, Sequence
from typing import Any

from preble import PrebleError, __version__, native
from preble.cli import chat, generate, get_model, serve
from preble.replay import command as replay
from preble.simulate import command as simulate

_EXAMPLE = """example, with nothing downloaded:
  preble make-model out/model
  preble generate out/model "def hello():" --max-tokens 16

and with a small model that answers:
  preble chat $(preble get-model smollm2-135m)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status: 2 if it is wrong or cannot be done, with the reason on stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _written(words)
    except (PrebleError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():  # it has seen enough, as `head` has
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains at its end
            return 0
        print(f"preble: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _reader_is_gone() -> bool:
    """Whether nobody reads standard output any more."""
    output = select.poll()
    output.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in output.poll(0))


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
    _run(generate.generate(arguments))
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    _run(serve.serve(arguments))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="preble",
        description="Several LLM engine replicas as one.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=None)
    parser.add_argument("--version", action="store_true", help="show the version and exit")
    parser.add_argument("-v", "--verbose", action="store_true", help="with --version: show which parts run in C")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    commands.add_parser("make-model", help="write a small model with random weights", add_help=False)
    for name, about, add in (
        ("get-model", "fetch a small real model", _add_get_model),
        ("chat", "hold a conversation with a model", _add_chat),
        ("generate", "generate text, shown as it comes", _add_generate),
        ("serve", "serve a model over HTTP, for OpenAI and Anthropic clients", _add_serve),
        ("check", "check a settings file of serve", _add_check),
        ("replay", "decide a decision log again, under another policy", _add_replay),
        ("simulate", "compare policies on a workload, in virtual time", _add_simulate),
    ):
        add(commands.add_parser(name, help=about, allow_abbrev=False))
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


def _add_serve(parser: argparse.ArgumentParser) -> None:
    serve.add_arguments(parser)
    parser.set_defaults(run=_serve)


def _add_check(parser: argparse.ArgumentParser) -> None:
    serve.add_check_arguments(parser)
    parser.set_defaults(run=serve.check)


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_generate)
    generate.add_arguments(parser)


if __name__ == "__main__":
    sys.exit(main())
