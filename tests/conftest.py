"""Settings of all tests, and what many need."""

import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Machines are noisy: an example that takes long is no failure.
settings.register_profile("preble", deadline=None)
settings.load_profile("preble")


@pytest.fixture
def short_tmp(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A temporary folder for all that the test starts, empty at first; pytest's own are too long for sockets."""
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield folder
