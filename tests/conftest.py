"""Settings of all tests, and what many need."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings

import preble.testing
from preble.errors import ModelError

# Machines are noisy: an example that takes long is no failure. HYPOTHESIS_PROFILE=thorough looks twenty times longer.
settings.register_profile("quick", deadline=None, max_examples=50)
settings.register_profile("thorough", deadline=None, max_examples=1000)
# What `tests.mutations` needs: the same examples every time, and no search for the smallest one.
settings.register_profile(
    "once", deadline=None, max_examples=100, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture
def short_tmp(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A temporary folder for all that the test starts, empty at first; pytest's own are too long for sockets."""
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield folder


@pytest.fixture(scope="session")
def real_model() -> Path:
    """A small model whose answers mean something, as a GGUF file. `.ci/run` makes sure that it is there."""
    try:
        return preble.testing.real_model()
    except (ModelError, OSError) as error:
        pytest.skip(f"no real model: {error}")
