"""Where a command's requests go: to workers that it starts, or to servers that run already."""

from __future__ import annotations

import argparse
import os
import urllib.error
import urllib.request
from pathlib import Path

from preble import POLICIES, ConfigurationError, PrebleCluster
from preble.backends import BACKENDS
from preble.backends.openai.models import model_cards

MODEL = "a Hugging Face folder or a GGUF file; for a --url the one with its tokenizer"
STARTED = ", ".join(name for name, backend in BACKENDS.items() if not backend.remote)
_USUAL_KEY = "OPENAI_API_KEY"
_PATIENCE = 5.0
"""Seconds that a server has to name its models."""
_LONGEST = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where requests go."""
    parser.add_argument("--backend", default="torch", help=f'{STARTED} or "module:Class" (%(default)s)')
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="worker processes (%(default)s)")
    parser.add_argument("--policy", default="e2", help=f"{', '.join(POLICIES)} (%(default)s)")
    parser.add_argument("--url", action="append", help="a server that runs the model already; may be given again")
    key = f"environment variable with the API key for a --url ({_USUAL_KEY}, if it is set)"
    parser.add_argument("--api-key-env", metavar="NAME", help=key)


def cluster(arguments: argparse.Namespace) -> PrebleCluster:
    """Return the cluster that the arguments describe. Raises ConfigurationError, which names the option, OSError."""
    if not arguments.url:
        return PrebleCluster(
            arguments.model, backend=arguments.backend, workers=arguments.workers, policy=arguments.policy
        )
    key = _api_key(arguments.api_key_env)
    model = arguments.model or _served_folder(arguments.url[0], key)
    return PrebleCluster.connect(arguments.url, model=model, api_key=key, policy=arguments.policy)


def _api_key(name: str | None) -> str | None:
    if name is not None and not os.environ.get(name):
        raise ConfigurationError(f"--api-key-env: there is no environment variable {name}, or it is empty")
    return os.environ.get(name or _USUAL_KEY) or None


def _served_folder(url: str, key: str | None) -> str:
    """Return the folder of the model that a server runs, if it is on this machine: only there is its tokenizer."""
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"--url: {url!r} does not begin with http:// or https://")
    body = _models(url, key)
    try:
        cards = model_cards(body, url.rstrip("/").removesuffix("/v1"))
    except ConfigurationError as error:
        raise ConfigurationError(f"--url: {url} does not say which models it runs ({error}): give MODEL") from None
    names = [name for card in cards for name in (card.root, card.id) if name]
    for name in names:
        if Path(name).exists():
            return name
    raise ConfigurationError(f"MODEL: {url} runs {', '.join(names) or 'nothing'}, no folder here: give its tokenizer's")


def _models(url: str, key: str | None) -> bytes:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    request = urllib.request.Request(f"{url.rstrip('/').removesuffix('/v1')}/v1/models", headers=headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE) as response:  # noqa: S310
            return bytes(response.read(_LONGEST))
    except urllib.error.HTTPError as error:
        hint = ": the API key is missing or wrong (--api-key-env)" if error.code in (401, 403) else ""
        raise ConfigurationError(f"--url: {url} answers {error.code} {error.reason}{hint}") from None
    except OSError as error:  # HTTPError is one too
        reason = getattr(error, "reason", error)
        raise ConfigurationError(f"--url: {url} cannot be reached: {reason}") from None
