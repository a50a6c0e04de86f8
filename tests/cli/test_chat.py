"""A conversation in the terminal: with a model that is written down here, and with a real process on a terminal."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import pty
import select
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from preble import Chunk, ContextLengthError, Usage
from preble.cli.chat import HELP, Conversation, Terminal
from preble.testing import make_model
from tests.openai_server import OpenAIServer

ANSWERED = "\n[8 of 20 prompt tokens cached, first token after 1.00 s, worker w0]\n"


class Screen:
    """Lines that are typed, and all that is shown."""

    def __init__(self, *lines: str) -> None:
        self.lines = list(lines)
        self.shown = ""

    def read(self, prompt: str) -> str:
        if not self.lines:
            raise EOFError
        return self.lines.pop(0)

    def write(self, text: str) -> None:
        self.shown += text


class Model:
    """Streams each answer word by word, and keeps the messages of every question. An error is raised, None hangs."""

    def __init__(self, *answers: str | Exception | None) -> None:
        self.answers = list(answers)
        self.asked: list[list[dict[str, str]]] = []
        self.hangs = asyncio.Event()
        self.closed = False

    async def ask(self, messages):
        self.asked.append(list(messages))
        answer = self.answers.pop(0)
        try:
            if isinstance(answer, Exception):
                raise answer
            for word in (answer or "Once upon a").split():
                yield Chunk(0, f"{word} ", (1,), worker="w0")
            if answer is None:
                self.hangs.set()
                await asyncio.Event().wait()
            yield Chunk(0, "", (), finish_reason="stop", usage=Usage(20, 8, 4), worker="w0")
        finally:
            self.closed = True


def conversation(screen, model, system=None, colour=False):
    ticks = iter(range(1000))
    terminal = Terminal(screen.read, screen.write, colour=colour)
    return Conversation(model.ask, terminal, system, lambda: next(ticks))


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


async def test_each_answer_and_below_it_what_it_cost():
    screen, model = Screen("Hello", "  And you?  "), Model("Hi there", "Fine")
    await conversation(screen, model).run()
    assert screen.shown == f"Hi there {ANSWERED}Fine {ANSWERED}"
    assert model.asked == [[user("Hello")], [user("Hello"), assistant("Hi there "), user("And you?")]]


async def test_what_is_not_the_conversation_is_dim_on_a_terminal():
    screen = Screen("Hello")
    await conversation(screen, Model("Hi"), colour=True).run()
    assert screen.shown == "Hi \n\x1b[2m[8 of 20 prompt tokens cached, first token after 1.00 s, worker w0]\x1b[0m\n"


async def test_reset_forgets_all_but_the_systems_message():
    screen, model = Screen("Hello", "/reset", "Again"), Model("Hi", "Hi")
    await conversation(screen, model, "Be brief.").run()
    system = {"role": "system", "content": "Be brief."}
    assert model.asked == [[system, user("Hello")], [system, user("Again")]]
    assert "the conversation is forgotten\n" in screen.shown


async def test_empty_lines_ask_nothing_and_unknown_commands_show_those_that_there_are():
    screen, model = Screen("", "  ", "/help", "/exit", "never read"), Model()
    await conversation(screen, model).run()
    assert (screen.shown, screen.lines, model.asked) == (f"{HELP}\n", ["never read"], [])


async def test_an_interrupt_stops_the_answer_and_the_conversation_goes_on():
    screen, model = Screen("A story", "Go on"), Model(None, "The end")
    talk = conversation(screen, model)
    running = asyncio.create_task(talk.run())
    await model.hangs.wait()
    talk.interrupt()
    await running
    assert screen.shown == f"Once upon a \n[stopped]\nThe end {ANSWERED}"
    assert model.asked[1] == [user("A story"), assistant("Once upon a "), user("Go on")]
    assert model.closed


async def test_an_interrupt_between_answers_says_how_to_leave():
    screen = Screen()
    conversation(screen, Model()).interrupt()
    assert screen.shown == f"\n{HELP}\n"


async def test_a_question_that_fails_is_forgotten_and_said():
    screen, model = Screen("Too long", "Short"), Model(ContextLengthError("too much", field="prompt"), "Yes")
    await conversation(screen, model).run()
    assert screen.shown == f"\n[prompt: too much]\nYes {ANSWERED}"
    assert model.asked[1] == [user("Short")]


async def test_a_fault_of_the_program_is_raised():
    with pytest.raises(ZeroDivisionError):
        await conversation(Screen("Hello"), Model(ZeroDivisionError())).run()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    sizes = {"hidden": 64, "layers": 1, "heads": 2, "kv_heads": 1, "intermediate": 64, "vocab": 300}
    return str(make_model(tmp_path_factory.mktemp("model"), **sizes))


class Typed:
    """A process on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "preble", "chat", *arguments]
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=lambda: self._own(theirs)
        )
        os.close(theirs)
        self.shown = ""

    @staticmethod
    def _own(terminal: int) -> None:
        os.setsid()
        import fcntl
        import termios

        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)  # so that Ctrl-C typed there is a signal

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def until(self, text: str, after: int = 0) -> int:
        """Wait for `text`, and return where it ends."""
        end = time.monotonic() + 90
        while text not in self.shown[after:]:
            assert time.monotonic() < end, self.shown
            if select.select([self._ours], [], [], 0.5)[0]:
                self.shown += os.read(self._ours, 1 << 16).decode(errors="replace")
        return self.shown.index(text, after) + len(text)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


def test_on_a_terminal_ctrl_c_stops_an_answer_and_not_the_program(model):
    typed = Typed(model, "--max-tokens", "7000", "--system", "Be brief.")
    try:
        ready = typed.until("> ", typed.until(HELP))
        typed.type("import this\n")
        typed.until("import this\r\n", ready)
        time.sleep(0.5)
        typed.type("\x03")
        stopped = typed.until("> ", typed.until("[stopped]", ready))
        typed.type("/reset\n")
        forgotten = typed.until("> ", typed.until("the conversation is forgotten", stopped))
        typed.type("\x03")
        typed.until(HELP, forgotten)
        typed.type("\x04")
        assert typed.process.wait(60) == 0
    finally:
        typed.close()


@contextmanager
def server(models):
    """A server that knows the names of its models only."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(models).encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


def chat(*arguments):
    command = [sys.executable, "-m", "preble", "chat", *arguments]
    return subprocess.run(command, input="", capture_output=True, text=True, timeout=60, check=False)


async def test_a_server_answers_with_the_tokenizer_that_is_here(model):
    async with OpenAIServer(vocab_size=300) as server:
        command = [sys.executable, "-m", "preble", "chat", model, "--url", server.url, "--max-tokens", "5"]
        done = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        shown, _ = await asyncio.wait_for(done.communicate(b"hello\n"), 60)
    assert done.returncode == 0
    assert f"worker {server.url}" in shown.decode()
    assert [(body["max_tokens"], body["stream"]) for body in server.bodies if body["max_tokens"] == 5] == [(5, True)]


async def preble(*words, key="", given=b""):
    environment = {**os.environ, "OPENAI_API_KEY": key, "OTHER": "secret"}
    command = [sys.executable, "-m", "preble", *words]
    pipe = subprocess.PIPE
    done = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
    shown, errors = await asyncio.wait_for(done.communicate(given), 60)
    return done.returncode, shown.decode(), errors.decode()


@pytest.mark.parametrize(("options", "key"), [((), "secret"), (("--api-key-env", "OTHER"), "")])
async def test_a_server_gets_its_key_from_the_environment(model, options, key):
    async with OpenAIServer(vocab_size=300, api_key="secret") as server:
        words = ("--url", server.url, "--max-tokens", "5", *options)
        status, shown, errors = await preble("chat", model, *words, key=key, given=b"hello\n")
        assert (status, f"worker {server.url}" in shown) == (0, True), errors
        status, shown, errors = await preble("generate", model, "hello", "--json", *words, key=key)
        assert (status, json.loads(shown)["choices"][0]["worker"]) == (0, server.url), errors


async def test_a_key_that_is_wrong_or_missing_is_one_line_and_is_not_shown(model):
    async with OpenAIServer(vocab_size=300, api_key="secret") as server:
        for words, key, reason in (
            ((model,), "wrong", "401"),
            ((), "wrong", "answers 401 Unauthorized: the API key is missing or wrong (--api-key-env)"),
            ((model, "--api-key-env", "NONE"), "secret", "--api-key-env: there is no environment variable NONE"),
        ):
            status, shown, errors = await preble("chat", *words, "--url", server.url, key=key)
            assert (status, shown, errors.count("\n")) == (2, "", 1)
            assert reason in errors
            assert "wrong" not in errors.replace("missing or wrong", "")


@pytest.mark.parametrize(
    ("models", "reason"),
    [
        ({"data": [{"id": "some-model"}]}, "runs some-model, no folder here: give its tokenizer's"),
        ({"models": [{"name": "some-model", "root": 3}]}, "runs some-model, no folder here"),
        (["some-model", {"id": "other", "root": None}], "runs some-model, other, no folder here"),
        ({"data": []}, "runs nothing, no folder here"),
        ({"error": "no"}, "does not say which models it runs"),
    ],
)
def test_a_server_whose_model_is_not_here(models, reason):
    with server(models) as url:
        done = chat("--url", url)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert reason in done.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "model: the torch engine needs the path of a model"),
        (["--url", "localhost:8000"], "--url: 'localhost:8000' does not begin with http://"),
        (["--max-tokens", "0"], "max_tokens: "),
        (["--url", "http://127.0.0.1:9"], "--url: http://127.0.0.1:9 cannot be reached: "),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_2(arguments, reason):
    done = chat(*arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert reason in done.stderr
