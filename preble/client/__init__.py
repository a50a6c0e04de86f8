"""OpenAI's and Anthropic's clients in the same process, on a transport that calls the cluster without a socket."""

from __future__ import annotations

from preble.client.doors import anthropic_client, http_client, openai_client, openai_sync_client
from preble.client.transport import async_transport, sync_transport

__all__ = [
    "anthropic_client",
    "async_transport",
    "http_client",
    "openai_client",
    "openai_sync_client",
    "sync_transport",
]
