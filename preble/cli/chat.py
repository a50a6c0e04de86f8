"""`preble chat`: a conversation with a model, in the terminal."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeAlias

from preble import Chunk, PrebleError, SamplingParams
from preble.cli import where

HELP = "/reset forgets the conversation, /exit or Ctrl-D ends the program, Ctrl-C stops an answer"

Ask: TypeAlias = Callable[[list[dict[str, Any]]], AsyncGenerator[Chunk, None]]
"""`ask(messages)` streams the answer to a conversation."""


class Terminal:
    """Where lines are read and text is shown. Notes are dim if `colour`."""

    def __init__(self, read: Callable[[str], str], write: Callable[[str], object], *, colour: bool) -> None:
        """`read(prompt)` returns a line and raises EOFError at the end; it may block, and runs in a thread."""
        self._read = read
        self.write = write
        self._dim = ("\x1b[2m", "\x1b[0m") if colour else ("", "")

    async def line(self) -> str | None:
        """Return the next line without the white space around it, or None at the end."""
        try:
            return (await asyncio.to_thread(self._read, "> ")).strip()
        except EOFError:
            return None

    def note(self, text: str) -> None:
        """Show a line that is not of the conversation."""
        begin, end = self._dim
        self.write(f"{begin}{text}{end}\n")


class Conversation:
    """Messages in turn. An answer that is stopped stays as far as it came; one that fails takes its question along."""

    def __init__(self, ask: Ask, terminal: Terminal, system: str | None, clock: Callable[[], float]) -> None:
        self._ask = ask
        self._terminal = terminal
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self._clock = clock
        self._answering: asyncio.Task[None] | None = None
        self.messages = list(self._system)

    def reset(self) -> None:
        """Forget all but the system's message."""
        self.messages = list(self._system)

    def interrupt(self) -> None:
        """Stop the answer that is being shown; between answers, say how to leave."""
        if self._answering is None:
            self._terminal.note(f"\n{HELP}")
        else:
            self._answering.cancel()

    async def run(self) -> None:
        """Read and answer until the end of the input or /exit."""
        while (line := await self._terminal.line()) not in (None, "/exit"):
            if line == "/reset":
                self.reset()
                self._terminal.note("the conversation is forgotten")
            elif line.startswith("/"):
                self._terminal.note(HELP)
            elif line:
                await self._exchange(line)

    async def _exchange(self, line: str) -> None:
        self.messages.append({"role": "user", "content": line})
        self._answering = asyncio.create_task(self._answer())
        await asyncio.wait([self._answering])
        answered, self._answering = self._answering, None
        if answered.cancelled():
            self._terminal.note("[stopped]")
        elif (error := answered.exception()) is not None:
            if not isinstance(error, PrebleError):
                raise error
            self._terminal.note(f"[{error}]")
        if self.messages[-1]["role"] == "user":  # nothing came
            self.messages.pop()

    async def _answer(self) -> None:
        begun, first, chunk, texts = self._clock(), None, None, []
        try:
            async with contextlib.aclosing(self._ask(self.messages)) as chunks:
                async for chunk in chunks:
                    first = self._clock() - begun if first is None else first
                    texts.append(chunk.text)
                    self._terminal.write(chunk.text)
        finally:
            self._terminal.write("\n")
            if texts:
                self.messages.append({"role": "assistant", "content": "".join(texts)})
        if chunk is not None and first is not None:
            self._terminal.note(described(chunk, first))


def described(last: Chunk, ttft: float) -> str:
    """The line below an answer: what was cached, the time to the first token, and the worker."""
    cached = f"{last.usage.cached_tokens} of {last.usage.prompt_tokens} prompt tokens cached, " if last.usage else ""
    length = ", cut at --max-tokens" if last.finish_reason == "length" else ""
    return f"[{cached}first token after {ttft:.2f} s, worker {last.worker}{length}]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command understands to its parser."""
    parser.description = f"A conversation with a model. {HELP}."
    parser.add_argument("model", metavar="MODEL", nargs="?", help=f"{where.MODEL}, by default the server's")
    parser.add_argument("--system", metavar="TEXT", help="what the model is told before the conversation")
    where.add_arguments(parser)
    parser.add_argument("--max-tokens", type=int, default=1024, metavar="N", help="longest answer (%(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (%(default)s)")


async def converse(arguments: argparse.Namespace) -> None:
    """Hold the conversation that the arguments describe, on standard input and output."""
    sampling = SamplingParams(max_tokens=arguments.max_tokens, temperature=arguments.temperature)
    terminal = _terminal()
    async with where.cluster(arguments) as cluster:
        conversation = Conversation(
            lambda messages: cluster.stream(messages, sampling, session="chat"),
            terminal,
            arguments.system,
            time.monotonic,
        )
        terminal.note(HELP)
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, conversation.interrupt)
        await conversation.run()


def _terminal() -> Terminal:
    with contextlib.suppress(ImportError):  # not every platform has it; with it lines can be edited and recalled
        import readline  # noqa: F401

    def write(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    return Terminal(input, write, colour=sys.stdout.isatty())
