"""The environment of chat templates, which is that of transformers.

A template comes with a model and may be hostile, so it runs in Jinja's immutable sandbox, with plain JSON values and no
object of ours. That keeps it from running code but does not bound its time: choose models with care.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, Undefined, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing


def make_environment(now: Callable[[], datetime]) -> ImmutableSandboxedEnvironment:
    """Return a fresh environment; `now` is the clock behind `strftime_now`."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = _to_json
    environment.tests["none"] = _is_none
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: now().strftime(form)
    return environment


class _Generation(Extension):
    """Accepts `{% generation %} ... {% endgeneration %}`, which marks text for training, and renders what is inside."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML, which models were not trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _is_none(value: Any) -> bool:
    # Null fields are left out of messages, since templates would print them as None. Some ask `content is none` first.
    return value is None or (isinstance(value, Undefined) and value._undefined_obj is not missing)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)
