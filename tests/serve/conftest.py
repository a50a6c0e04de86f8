"""A cluster of `sim` workers in this process, behind its ASGI application."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from preble import PrebleCluster
from preble.serve import create_app


class Face:
    """Asks an application, without a socket."""

    def __init__(self, cluster: PrebleCluster, app: Any) -> None:
        self.cluster = cluster
        self.app = app
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://preble")

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self.http.post(path, json=body)

    async def json(self, path: str, **body: Any) -> dict[str, Any]:
        response = await self.post(path, **body)
        assert response.status_code == 200, response.text
        return response.json()

    async def events(self, path: str, **body: Any) -> list[dict[str, Any]]:
        """The events of a stream, whose end must be marked."""
        response = await self.post(path, stream=True, **body)
        assert response.status_code == 200, response.text
        *lines, last = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
        assert last == "[DONE]"
        return [json.loads(line) for line in lines]


@asynccontextmanager
async def face_of(cluster: PrebleCluster, **options: Any) -> AsyncIterator[Face]:
    face = Face(cluster, create_app(cluster, **options))
    async with face.http:
        yield face


@pytest.fixture
async def face() -> AsyncIterator[Face]:
    async with PrebleCluster(backend="sim", workers=2, processes=False, seed=1) as cluster, face_of(cluster) as face:
        yield face
        cluster.check()
        assert cluster.stats().in_flight == 0
