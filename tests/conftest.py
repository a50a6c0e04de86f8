"""Settings of all tests, and what many need."""

import os
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Machines are noisy: an example that takes long is no failure. HYPOTHESIS_PROFILE=thorough looks twenty times longer.
settings.register_profile("quick", deadline=None, max_examples=50)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture
def short_tmp(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A temporary folder for all that the test starts, empty at first; pytest's own are too long for sockets."""
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield folder
