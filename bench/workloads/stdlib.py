"""Tool use and questions about long documents, from text that every machine has: Python's own standard library.

A tool set is a module's functions as tool descriptions (signature and docstring) before a task for one of them. A
document is the beginning of a module's source before a question about something defined in it. Requests for one tool
set or document share all but their last line. The same seed and Python version give the same requests.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from itertools import islice

import msgspec

from bench.workloads import Request, poisson, zipf

TOOL_SETS = (
    "shutil", "statistics", "random", "subprocess", "logging", "calendar", "zipfile", "difflib", "tarfile", "ipaddress",
    "mailbox", "imaplib", "smtplib", "configparser", "ftplib", "fractions",
)  # fmt: skip
"""Modules with much documented to call."""

DOCUMENTS = (
    "json.decoder", "csv", "tempfile", "tokenize", "enum", "email.message", "bdb", "selectors", "dataclasses", "queue",
    "traceback", "argparse", "textwrap", "sched", "heapq", "http.client",
)  # fmt: skip
"""Modules to read."""

_DOCSTRING_CHARACTERS = 400


class Topic(msgspec.Struct, frozen=True):
    """A prefix that many requests share, and the questions that follow it."""

    name: str
    prefix: str
    questions: tuple[str, ...]


def topics(
    tool_sets: int = 8, documents: int = 8, *, tool_characters: int = 4500, document_characters: int = 6000
) -> list[Topic]:
    """Return tool sets and documents, alternating while both last.

    `tool_characters` and `document_characters` bound their prefixes; a token of the tokenizer of `preble make-model` is
    about 2.8 characters.
    """
    tools = [tool_set(module, tool_characters) for module in TOOL_SETS[:tool_sets]]
    texts = [document(module, document_characters) for module in DOCUMENTS[:documents]]
    shared = min(len(tools), len(texts))
    pairs = [topic for pair in zip(tools, texts, strict=False) for topic in pair]
    return pairs + tools[shared:] + texts[shared:]


def requests(
    topics: list[Topic], count: int, *, rate: float, seed: int = 0, exponent: float = 0.8, max_tokens: int = 16
) -> list[Request]:
    """Return `count` requests in the order of arrival: Poisson, `rate` a second, topics by Zipf in random order."""
    chance = random.Random(seed)
    ranked = chance.sample(topics, len(topics))
    chosen = chance.choices(ranked, zipf(len(ranked), exponent), k=count)
    arrivals = islice(poisson(rate, chance), count)
    return [
        Request(arrival, topic.prefix + chance.choice(topic.questions), max_tokens, topic.name)
        for arrival, topic in zip(arrivals, chosen, strict=True)
    ]


def tool_set(module: str, characters: int) -> Topic:
    """Return the functions of a module as tools, with tasks that call for one of them."""
    prefix = f"You are an assistant that can call these tools of {module}.\n\n"
    questions = []
    for name, arguments, docstring in functions(module):
        entry = f"{name}({arguments})\n    {docstring}\n\n"
        if len(prefix) + len(entry) <= characters:
            prefix += entry
            questions.append(f"User: {docstring.splitlines()[0]} Which tool, with which arguments?\nAssistant:")
    return Topic(f"tools/{module}", prefix, tuple(dict.fromkeys(questions)))


def document(module: str, characters: int) -> Topic:
    """Return the beginning of a module's source, with questions about what is defined in it."""
    text = source(module)[:characters]
    prefix = f"Read this module of Python, {module}, and answer the question below.\n\n{text}\n\n"
    asked = dict.fromkeys(re.findall(r"^ *(?:def|class) (\w+)", text, re.MULTILINE)) or [module]
    return Topic(
        f"document/{module}",
        prefix,
        tuple(f"Question: {start} {name}?\nAnswer:" for name in asked for start in ("What is", "What could fail in")),
    )


@cache
def source(module: str) -> str:
    """Return a module's source text. Raises LookupError if this Python was installed without it."""
    spec = find_spec(module)
    text = spec.loader.get_source(module) if spec and spec.loader and hasattr(spec.loader, "get_source") else None
    if not text:
        raise LookupError(f"this Python has no source text of its module {module}")
    return str(text)


@cache
def functions(module: str) -> tuple[tuple[str, str, str], ...]:
    """Return all documented public functions of a module, methods too: name, arguments, beginning of the docstring."""
    return tuple(_documented(ast.parse(source(module)), module))


def _documented(scope: ast.Module | ast.ClassDef, path: str) -> Iterator[tuple[str, str, str]]:
    for node in scope.body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
            continue
        if isinstance(node, ast.ClassDef):
            yield from _documented(node, f"{path}.{node.name}")
        elif docstring := ast.get_docstring(node):
            yield f"{path}.{node.name}", ast.unparse(node.args), docstring[:_DOCSTRING_CHARACTERS]
