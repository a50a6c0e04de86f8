"""Questions about Python's standard library, each behind a long text that others share.

A document is what a module says of itself and of its functions, before questions about them. A tool list is a module's
functions, with signature and description, before tasks that call for one of them. Two answers that the text itself
gives stand before the question, so that a small model knows what is wanted. The questions are such as SmolLM2 with its
135 million parameters has mostly sensible answers to. The same Python version gives the same prompts.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module

import msgspec

from bench.workloads.stdlib import functions

DOCUMENTS: dict[str, dict[str, str]] = {
    "statistics": {
        "What is the median?": "median",
        "What does statistics.mode do?": "mode",
        "What does statistics.mean do?": "mean",
        "What does statistics.harmonic_mean do?": "harmonic_mean",
        "What does statistics.median do?": "median",
    },
    "heapq": {
        "What does heapq.merge do?": "merge",
        "What does heapq.nlargest do?": "nlargest",
        "What does heapq.nsmallest do?": "nsmallest",
        "What does heapq.heapify do?": "heapify",
        "What is a priority queue?": "heappush",
    },
    "inspect": {
        "What does inspect.getfile do?": "getfile",
        "What does inspect.getdoc do?": "getdoc",
        "What does inspect.getsourcefile do?": "getsourcefile",
        "What does inspect.isclass do?": "isclass",
        "What does inspect.isfunction do?": "isfunction",
    },
    "json": {
        "What does json.dumps do?": "dumps",
        "What does json.loads do?": "loads",
        "What does json.dump do?": "dump",
        "What is JSON?": "load",
        "What is serialization?": "dumps",
    },
}
"""Modules to read, with questions about them, and the function that each is about."""

TOOLS: dict[str, dict[str, str]] = {
    "shutil": {
        "Copy a whole directory tree.": "copytree",
        "Delete a directory tree.": "rmtree",
        "Move a file to another folder.": "move",
        "Make an archive.": "make_archive",
        "Copy a file.": "copyfile",
    },
    "statistics": {
        "Find the middle value of a list.": "median",
        "Compute the average of a list.": "mean",
        "Find the most common value.": "mode",
        "Compute the harmonic mean.": "harmonic_mean",
        "Compute the geometric mean.": "geometric_mean",
    },
    "urllib.parse": {
        "Parse a URL.": "urlparse",
        "Join a base URL and a relative one.": "urljoin",
        "Quote a string.": "quote",
        "Build a URL from its parts.": "urlunparse",
        "Encode a dictionary as a query.": "urlencode",
    },
    "ftplib": {
        "Log in to the server.": "FTP.login",
        "Delete a file.": "FTP.delete",
        "Rename a file.": "FTP.rename",
        "Close the connection.": "FTP.close",
        "Send a command.": "FTP.sendcmd",
    },
}
"""Modules whose functions are tools, with tasks for them, and the function that each calls for."""

_CHARACTERS = 4600
_ABOUT = 1500

Messages = list[dict[str, str]]


class Topic(msgspec.Struct, frozen=True):
    """A conversation that many questions continue, and these questions."""

    name: str
    prefix: Messages
    questions: tuple[str, ...]


class Question(msgspec.Struct, frozen=True):
    """The last words of a conversation, and all of it, on a topic."""

    topic: str
    words: str
    messages: Messages


def topics(count: int = len(DOCUMENTS) + len(TOOLS)) -> list[Topic]:
    """Return the first `count` topics: documents and tool lists in turn."""
    documents = [document(*of) for of in DOCUMENTS.items()]
    pairs = zip(documents, [tools(*of) for of in TOOLS.items()], strict=True)
    return [topic for pair in pairs for topic in pair][:count]


def questions(topics: Sequence[Topic], *, introduced: int, seed: int) -> list[Question]:
    """Return all questions: the first `introduced` of the first topic, then the others in random order."""
    first, *others = [
        [Question(topic.name, words, [*topic.prefix, _message("user", words)]) for words in topic.questions]
        for topic in topics
    ]
    rest = [*first[introduced:], *(question for of in others for question in of)]
    return first[:introduced] + random.Random(seed).sample(rest, len(rest))


def document(module: str, questions: Mapping[str, str]) -> Topic:
    """Return what a module says of itself as a topic."""
    about = (inspect.getdoc(import_module(module)) or "")[:_ABOUT]
    text = f"{about}\n\n{_entries(module, questions.values(), _CHARACTERS - len(about))}"
    system = f"You answer questions about Python's module {module}. Its documentation:\n\n{text}"
    examples = [(f"What does {name} do?", summary) for name, _, summary in _examples(module)]
    return Topic(f"document/{module}", _conversation(system, examples), tuple(questions))


def tools(module: str, tasks: Mapping[str, str]) -> Topic:
    """Return a module's functions as a topic."""
    listed = _entries(module, tasks.values(), _CHARACTERS)
    system = f"These are your tools, functions of Python's module {module}:\n\n{listed}"
    system += "Answer each task with the function to call."
    examples = [(f"Task: {summary}", f"{name}({arguments})") for name, arguments, summary in _examples(module)]
    return Topic(f"tools/{module}", _conversation(system, examples), tuple(f"Task: {task}" for task in tasks))


def _entries(module: str, wanted: Iterable[str], characters: int) -> str:
    """Return those functions that are wanted, and as many others as fit, in the order of the source."""
    entries = {name: f"{name}({arguments})\n    {docstring}\n\n" for name, arguments, docstring in functions(module)}
    chosen = {f"{module}.{name}" for name in wanted}
    for name in entries:
        if sum(len(entries[one]) for one in {*chosen, name}) <= characters:
            chosen.add(name)
    return "".join(entry for name, entry in entries.items() if name in chosen)


def _examples(module: str) -> Iterator[tuple[str, str, str]]:
    """Yield name, arguments and summary of the first two functions."""
    for name, arguments, docstring in functions(module)[:2]:
        yield name, arguments, " ".join(docstring.split("\n\n")[0].split())


def _conversation(system: str, examples: Sequence[tuple[str, str]]) -> Messages:
    messages = [_message("system", system)]
    for asked, answered in examples:
        messages += [_message("user", asked), _message("assistant", answered)]
    return messages


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
