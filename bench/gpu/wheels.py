"""What a machine without a network needs beside torch and numpy: wheels, downloaded where there is one."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PRESENT = {"numpy"}
"""What comes with torch."""
BESIDE = ("markupsafe", "safetensors", "rich", "markdown-it-py", "mdurl", "pygments")
"""What these need, and what the benchmark shows its progress and its tables with."""
PLATFORMS = ("manylinux1", "manylinux2014", *(f"manylinux_2_{minor}" for minor in (5, 17, 24, 26, 27, 28, 31, 34)))


def download(folder: Path, python: str) -> int:
    """Fetch the wheels for x86-64 Linux and a version of Python, such as 3.12, into `folder`; return pip's status."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    command += ["--python-version", python, "--implementation", "cp", "-c", str(ROOT / "constraints.txt")]
    for platform in PLATFORMS:
        command += ["--platform", f"{platform}_x86_64"]
    return subprocess.run([*command, *needs()], check=False).returncode


def needs() -> list[str]:
    """Return the requirements: preble's own, but for what is there, and the rest by name."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        own = tomllib.load(file)["project"]["dependencies"]
    return [need.split(";")[0].strip() for need in own if re.split(r"\W", need)[0] not in PRESENT] + list(BESIDE)
