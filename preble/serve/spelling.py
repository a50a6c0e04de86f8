"""A protocol that is another spelling of chat completions: what engines take beside its fields, errors in its words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from preble.errors import InvalidRequestError
from preble.serve import chat, errors, sampling
from preble.serve.served import Served

PASSED = (sampling.FIELDS - {"n"}) | {"chat_template_kwargs", "session_params", "priority", "cache_salt", "documents"}
"""Fields that are passed on as they are; their names are those of chat completions."""


def split(fields: Mapping[str, Any], own: frozenset[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of the protocol itself, which are its `own` or nobody's, and those that are passed on.

    Null is as good as not given.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    passed = {name: value for name, value in given.items() if name in PASSED - own}
    return {name: value for name, value in given.items() if name not in passed}, passed


async def read_chat(
    served: Served, fields: Mapping[str, Any], session: str | None, names: Mapping[str, str]
) -> chat.Chat:
    """Return the chat that the fields ask for. An error names a field as it is called in `names`."""
    try:
        return await chat.read(served, fields, session)
    except InvalidRequestError as error:
        raise errors.renamed(error, names) from None
