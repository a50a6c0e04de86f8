"""`GET /v1/models`: the names that requests may use."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from preble.serve.endpoint import Answer
from preble.serve.errors import HttpError
from preble.serve.served import Served


async def listed(served: Served, request: Request, raw: bytes) -> Answer:
    """Answer with all of them: the model's names, then the adapters that its workers have."""
    return Answer({"object": "list", "data": [_card(served, name) for name in served.listed]})


async def one(served: Served, request: Request, raw: bytes) -> Answer:
    """Answer with one of them, or 404."""
    name = request.path_params["name"]
    if name not in served.listed:
        raise HttpError(404, f"there is no model {name!r}", code="model_not_found", param="model")
    return Answer(_card(served, name))


def _card(served: Served, name: str) -> dict[str, Any]:
    infos = served.cluster.engines().values()
    card: dict[str, Any] = {"id": name, "object": "model", "created": served.created, "owned_by": "preble"}
    card["max_model_len"] = max((info.context_limit for info in infos), default=None)
    return {**card, "parent": served.listed[0]} if name in served.adapters else card
