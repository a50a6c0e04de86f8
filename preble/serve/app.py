"""The ASGI application: which path is answered by which file."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from preble import PrebleCluster
from preble.errors import names_checked
from preble.serve import chat, completions, errors, forward, models, state, tokens
from preble.serve.endpoint import Endpoint
from preble.serve.errors import Failure
from preble.serve.guard import LOCAL, Guard
from preble.serve.messages import endpoint as messages
from preble.serve.parsers import reasons, tool_format
from preble.serve.responses import endpoint as responses
from preble.serve.served import Served

MAX_BODY = 16 << 20
"""Bytes of the longest body."""


@names_checked
def create_app(
    cluster: PrebleCluster,
    *,
    api_key: str | None = None,
    served_model_name: str | Sequence[str] | None = None,
    tool_parser: str | None = "auto",
    reasoning_parser: str | None = "auto",
    max_body: int = MAX_BODY,
    allowed_hosts: Collection[str] | None = None,
) -> ASGIApp:
    """Return an ASGI application that serves a cluster, which must be started before the first request.

    * `api_key`: the bearer token that clients must send. Without one, all may ask.
    * `served_model_name`: the name, or names, of the model; others are refused. Without it, any name is accepted.
    * `tool_parser`, `reasoning_parser`: names of `preble.serve.parsers`, "module:Class", "auto" for what the model's
      chat template uses, or None for text as it is.
    * `max_body`: the longest body in bytes.
    * `allowed_hosts`: names by which the server may be called, "*" for any. By default those of this machine, or any if
      there is an `api_key`: a page in a browser cannot send that.
    """
    tool_format(tool_parser, "")
    reasons(reasoning_parser, "")
    names = (served_model_name,) if isinstance(served_model_name, str) else tuple(served_model_name or ())
    served = Served(
        cluster=cluster,
        names=names,
        tool_parser=tool_parser,
        reasoning_parser=reasoning_parser,
        created=int(time.time()),
    )
    hosts = allowed_hosts if allowed_hosts is not None else (LOCAL if api_key is None else ("*",))
    app = Starlette(routes=routes(served, max_body), exception_handlers={HTTPException: _no_route, Exception: _bug})
    return Guard(app, api_key=api_key, allowed_hosts=None if "*" in hosts else hosts)


def routes(served: Served, max_body: int) -> list[Route]:
    """Return the paths. What is posted to a cluster of servers is forwarded."""
    gets = [
        ("/v1/models", models.listed),
        ("/v1/models/{name:path}", models.one),
        ("/health", state.health),
        ("/metrics", state.metrics),
    ]
    asked = [
        Route(path, Endpoint(partial(handler, served), max_body=max_body), methods=["GET"]) for path, handler in gets
    ]
    return asked + (_forwarded(served, max_body) if served.cluster.forwards else _ours(served, max_body))


def _forwarded(served: Served, max_body: int) -> list[Route]:
    endpoint = Endpoint(partial(forward.forward, served), max_body=max_body)
    return [Route(path, endpoint, methods=["POST"]) for path in forward.PATHS]


def _ours(served: Served, max_body: int) -> list[Route]:
    posts: list[tuple[str, Any, Mapping[str, str]]] = [
        ("/v1/chat/completions", chat.complete, chat.NAMES),
        ("/v1/completions", completions.complete, completions.NAMES),
        ("/tokenize", tokens.tokenize, {}),
        ("/detokenize", tokens.detokenize, {}),
    ]
    return [
        *(
            Route(path, Endpoint(partial(handler, served), max_body=max_body, names=names), methods=["POST"])
            for path, handler, names in posts
        ),
        *responses.routes(served, max_body),
        *messages.routes(served, max_body),
    ]


def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = "method_not_allowed" if error.status_code == 405 else "not_found"
    told = Failure(error.status_code, code, f"{request.method} {request.url.path}: {error.detail}")
    return _response(told, dict(error.headers or {}))


def _bug(request: Request, error: Exception) -> Response:
    return _response(Failure(500, "internal_error", "this server failed: its log says why"), {})


def _response(told: Failure, headers: dict[str, str]) -> Response:
    content = errors.encoded(told)
    return Response(content, told.status, {**errors.headers(told), **headers}, media_type="application/json")
