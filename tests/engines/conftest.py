"""A small model for all engines, and one start of each for a whole module: starts take long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from preble.testing import make_model
from tests.engines.conformance import CONTEXT, ENGINES, VOCAB, Running, make_engine, require, serving


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), vocab=VOCAB, context=2 * CONTEXT)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=list(ENGINES))
async def started(request: pytest.FixtureRequest, model: Path) -> AsyncIterator[Running]:
    case = require(request.param)
    with serving(case, model) as where:
        engine = make_engine(case, model, **where)
        async with asyncio.timeout(300):
            running = Running(case, engine, await engine.start())
        yield running
        async with asyncio.timeout(60):
            await engine.close()
            await engine.close()
        with pytest.raises(Exception, match="closed"):
            await running.generate([1, 2, 3])


@pytest_asyncio.fixture(loop_scope="module")
async def engine(started: Running) -> AsyncIterator[Running]:
    """An engine that has nothing cached and nothing to do."""
    await started.forget()
    yield started
    await started.idle()
    started.check()
