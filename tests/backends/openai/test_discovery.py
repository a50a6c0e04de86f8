"""What is found out about a server from the pages that it has."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from preble.backends.openai.discovery import Described, describe
from preble.backends.openai.options import replica_options
from preble.errors import ConfigurationError, EngineError, InvalidRequestError
from tests.text.kinds import kind

SGLANG = [{"id": "m", "owned_by": "sglang", "max_model_len": 64}]
TOKENIZER, _ = kind("gpt-2")


class Pages:
    """A server of these pages, which answers a probe with `probe`."""

    url = "http://a"

    def __init__(self, pages: dict[str, Any], probe: bytes | Exception) -> None:
        self.pages = pages
        self.probe = probe

    async def get(self, path: str, *, timeout: float) -> bytes:
        if path not in self.pages:
            raise ConfigurationError("HTTP 404")
        return msgspec.json.encode(self.pages[path])

    async def stream(self, path: str, body: bytes) -> AsyncIterator[bytes]:
        if isinstance(self.probe, Exception):
            raise self.probe
        yield self.probe


async def described(pages: dict[str, Any], *, probe: bytes | Exception = b"{}", **options: Any) -> Described:
    http: Any = Pages(pages, probe)
    return await describe(http, replica_options({"url": "http://a", **options}), model=None, text=TOKENIZER)


@pytest.mark.parametrize("path", ["/server_info", "/get_server_info"])
async def test_sglang_s_page_has_two_names(path: str):
    found = await described({"/v1/models": SGLANG, path: {"max_total_num_tokens": 128, "page_size": 8}}, vocab_size=9)
    assert (found.protocol, found.info.kv_tokens, found.info.block_size) == ("sglang", 128, 8)


async def test_a_page_that_is_not_as_it_should_be_tells_nothing():
    found = await described({"/v1/models": SGLANG, "/server_info": {"page_size": "eight"}}, vocab_size=9)
    assert (found.info.kv_tokens, found.info.block_size) == (200_000, 16)


@pytest.mark.parametrize(
    ("pages", "limit"),
    [
        ({"/props": {"default_generation_settings": {"n_ctx": 64}}}, 64),
        ({"/props": {"default_generation_settings": None}, "/info": {"max_total_tokens": "64"}}, 64),
        ({"/props": {"error": "unexpected"}, "/info": []}, None),
        ({"/props": {"default_generation_settings": {"n_ctx": -1}}}, None),
    ],
)
async def test_a_context_that_the_list_of_models_lacks_may_be_elsewhere(
    pages: dict[str, Any], limit: int | None, caplog: pytest.LogCaptureFixture
):
    found = await described({"/v1/models": ["m"], **pages})
    assert found.info.context_limit == (limit or 131_072)
    assert ("131072 is assumed" in caplog.text) == (limit is None)


async def test_of_several_models_the_first_is_used_and_that_is_said(caplog: pytest.LogCaptureFixture):
    models = {"/v1/models": [{"id": "lora", "parent": "a"}, {"id": "a"}, {"id": "b"}]}
    assert (await described(models)).info.model == "a"
    assert "serves a; give served_model= for another: b" in caplog.text
    caplog.clear()
    assert (await described(models, served_model="b")).info.model == "b"
    assert "served_model" not in caplog.text


@pytest.mark.parametrize(
    ("probe", "protocol"),
    [
        (b'{"choices": [{"text": "x", "token_ids": [7]}]}', "tokens"),
        (b'{"choices": [{"text": "x", "token_ids": ["7"]}]}', "tokens"),
        (b'{"choices": [{"text": "x", "token_ids": null}]}', "text"),
        (b'{"choices": [null]}', "text"),
        (b'{"choices": null}', "text"),
        (b'{"error": "Unexpected endpoint"}', "text"),
        (b"<html>", "text"),
        (InvalidRequestError("no", field="prompt"), "text"),
        (EngineError("no"), "text"),
    ],
)
async def test_a_probe_shows_what_it_speaks(probe: bytes | Exception, protocol: str):
    assert (await described({"/v1/models": ["m"]}, probe=probe)).protocol == protocol


async def test_a_context_that_is_no_size_is_told_unless_another_is_given(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.WARNING)
    models = {"/v1/models": [{"id": "m", "max_model_len": -5}]}
    with pytest.raises(EngineError, match="context of 'm' is -5"):
        await described(models)
    assert (await described(models, context_limit=64)).info.context_limit == 64
    assert "assumed" not in caplog.text
