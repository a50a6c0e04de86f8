"""A peer's own virtual environment, and the process that runs in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

FOLDER = Path("out/peers")
_SECONDS_TO_INSTALL = 600


class UnavailableError(Exception):
    """The peer cannot be measured here; the message says why."""


def installed(peer: str, *packages: str) -> Path:
    """Return the Python of the peer's environment with those packages. Raises UnavailableError."""
    folder = (FOLDER / peer).absolute()
    python = folder / "bin" / "python"
    try:
        if not python.exists():
            venv.create(folder, with_pip=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SECONDS_TO_INSTALL)
    except subprocess.CalledProcessError as error:
        raise UnavailableError(f"not installable: {(error.stderr or str(error)).strip().splitlines()[-1]}") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(f"not installable: {error}") from None
    return python


class Child:
    """A script of ours running with a peer's Python; it answers one line of JSON for each."""

    def __init__(self, python: Path, script: Path) -> None:
        self.process = subprocess.Popen(
            [python, "-P", script],  # its folder has files named as the packages are
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sys.stderr,
            text=True,
            env=os.environ | {"DYN_LOG": "error"},
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def ask(self, **question: Any) -> Any:
        """Send a question and return the answer. Raises UnavailableError if there is none."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise UnavailableError("its process ended") from None
        answer = self.process.stdout.readline()
        if not answer:
            raise UnavailableError(f"its process ended with status {self.process.wait()}")
        answered = json.loads(answer)
        if "error" in answered:
            raise UnavailableError(answered["error"])
        return answered["answer"]
