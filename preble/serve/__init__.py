"""The HTTP face of a cluster: one ASGI application that speaks OpenAI's and Anthropic's protocols.

It adds nothing to what a cluster does: a body becomes the arguments of `PrebleCluster.stream`, and chunks
become events.
Importing it needs the packages of the extra `serve`.
"""

from __future__ import annotations

from preble.serve.app import create_app

__all__ = ["create_app"]
