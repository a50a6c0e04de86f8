"""OpenAI's own client, over a socket."""

from collections.abc import AsyncIterator

import openai
import pytest

from tests.serve.conftest import Face


@pytest.fixture
async def openai_client(face: Face) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        face.cluster.serve_http() as url,
        openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client,
    ):
        yield client
