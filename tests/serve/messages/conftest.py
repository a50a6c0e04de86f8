"""Anthropic's own client, over a socket."""

from collections.abc import AsyncIterator

import anthropic
import pytest

from tests.serve.conftest import Face


@pytest.fixture
async def anthropic_client(face: Face) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with (
        face.cluster.serve_http() as url,
        anthropic.AsyncAnthropic(base_url=url.removesuffix("/v1"), api_key="none", max_retries=0) as client,
    ):
        yield client
