"""Files of a Hugging Face folder, read with a limit and refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preble.errors import ModelError

MAX_FILE_BYTES = 16 << 20
"""Largest template or configuration file that is read."""


def read_config(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, empty if there is no such file. Raises ModelError if it is malformed."""
    if not path.exists():
        return {}
    try:
        config = json.loads(read(path))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} does not hold an object")
    return config


def read(path: Path) -> str:
    """Return the text of a file. Raises ModelError if it is too large or is not text."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ModelError(f"{path} has more than {MAX_FILE_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None


def named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the entries such as `eos_token`, whose values are text or objects with the text as `content`."""
    named = {name: value for name, value in config.items() if name.endswith("_token")}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in named.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}
