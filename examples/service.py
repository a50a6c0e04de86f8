"""An HTTP service of your own over one cluster, with FastAPI: whole answers, and streams of server-sent events.

pip install fastapi uvicorn
python -m uvicorn --app-dir examples service:app
curl localhost:8000/generate -H "Content-Type: application/json" -d '{"prompt": "def quicksort(items):"}'
curl -N localhost:8000/stream -H "Content-Type: application/json" -d '{"prompt": "def quicksort(items):"}'
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from preble import (
    Chunk,
    DeadlineExceededError,
    Generation,
    InvalidRequestError,
    OverloadedError,
    PrebleCluster,
    PrebleError,
    SamplingParams,
)
from preble.testing import make_model

STATUS = {InvalidRequestError: 400, OverloadedError: 429, DeadlineExceededError: 504}


class Ask(BaseModel):
    """What a client sends."""

    prompt: str
    max_tokens: int = 32
    temperature: float = 0.0
    session: str | None = None

    def sampling(self) -> SamplingParams:
        """Return how tokens are chosen. Raises InvalidRequestError."""
        return SamplingParams(max_tokens=self.max_tokens, temperature=self.temperature)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Start the workers with the service, and stop them with it."""
    model = make_model("out/model", hidden=64, layers=1)
    # The engine is simulated: leave out `backend` with a model of yours.
    async with PrebleCluster(model, backend="sim", workers=2) as app.state.cluster:
        yield


app = FastAPI(lifespan=lifespan)


@app.exception_handler(PrebleError)
async def refused(_: Request, error: PrebleError) -> JSONResponse:
    """Say by the status who is at fault."""
    status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 503)
    return JSONResponse({"error": str(error)}, status)


@app.get("/stats")
async def stats() -> dict[str, Any]:
    """Tell what the cluster does."""
    cluster: PrebleCluster = app.state.cluster
    return cluster.stats().to_dict()


@app.post("/generate")
async def generate(ask: Ask, request: Request) -> dict[str, Any]:
    """Answer at the end. A client that goes away cancels its request on the worker."""
    cluster: PrebleCluster = app.state.cluster
    answer = cluster.generate(ask.prompt, ask.sampling(), session=ask.session, timeout=60)
    return (await unless_gone(request, answer)).to_dict()


async def unless_gone(request: Request, answer: Coroutine[Any, Any, Generation]) -> Generation:
    """Await an answer while the client is there. FastAPI itself would go on without it."""
    task = asyncio.create_task(answer)
    try:
        while not task.done():
            if await request.is_disconnected():
                raise HTTPException(499)
            await asyncio.wait({task}, timeout=0.5)
        return task.result()
    finally:
        task.cancel()


@app.post("/stream")
async def stream(ask: Ask) -> StreamingResponse:
    """Answer piece by piece. A client that goes away cancels its request on the worker."""
    cluster: PrebleCluster = app.state.cluster
    chunks = cluster.stream(ask.prompt, ask.sampling(), session=ask.session, timeout=60)
    first = await anext(chunks)  # what is wrong with the request is raised here, before status 200 is sent
    return StreamingResponse(events(first, chunks), media_type="text/event-stream")


async def events(first: Chunk, chunks: AsyncGenerator[Chunk]) -> AsyncIterator[str]:
    """Write each chunk as a server-sent event."""
    async with aclosing(chunks):
        yield event(first)
        async for chunk in chunks:
            yield event(chunk)


def event(chunk: Chunk) -> str:
    """Return a chunk as a server-sent event."""
    return f"data: {json.dumps(chunk.to_dict())}\n\n"
