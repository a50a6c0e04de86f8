"""The model of an engine that loads it by itself (vLLM, SGLang): a folder, or a name on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from preble.errors import ConfigurationError, ModelError


def check_model(model: str | None, *, engine: str) -> str:
    """Return the model. Raises ConfigurationError if there is none, ModelError for a folder that is not one."""
    if not model:
        raise ConfigurationError(f"model: the {engine} engine needs a model folder, or a name on the Hugging Face hub")
    path = Path(model).expanduser()
    if path.is_absolute() and path.is_file():
        raise ModelError(f"{path}: a file; the {engine} engine needs a folder, or a name on the Hugging Face hub")
    if path.is_absolute() and not path.is_dir():
        raise ModelError(f"{path}: no such folder")
    if path.is_dir() and not (path / "config.json").is_file():
        raise ModelError(f"{path / 'config.json'}: no such file")
    return str(path) if model.startswith("~") else model
