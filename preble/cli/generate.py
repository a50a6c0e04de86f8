"""`preble generate`: the text that a model makes of a prompt, as it comes, or the whole result as JSON."""

from __future__ import annotations

import argparse
import json
import sys

from preble import SamplingParams
from preble.cli import where


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command understands to its parser."""
    parser.description = "The text that a model makes of a prompt, shown as it comes."
    parser.add_argument("model", metavar="MODEL", help=where.MODEL)
    parser.add_argument("prompt", metavar="PROMPT", help="text to go on from; - reads standard input")
    where.add_arguments(parser)
    parser.add_argument("--max-tokens", type=int, default=128, metavar="N", help="generate at most N (%(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (%(default)s)")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="of the likeliest tokens (%(default)s)")
    parser.add_argument("--seed", type=int, metavar="N", help="draw the same again (another every time)")
    parser.add_argument("--json", action="store_true", help="print the whole result as one line of JSON")


async def generate(arguments: argparse.Namespace) -> None:
    """Do what the arguments say. Raises PrebleError, OSError."""
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    sampling = SamplingParams(
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        seed=arguments.seed,
    )
    async with where.cluster(arguments) as cluster:
        if arguments.json:
            result = await cluster.generate(prompt, sampling)
            sys.stdout.write(json.dumps(result.to_dict(), ensure_ascii=False) + "\n")
            return
        async for chunk in cluster.stream(prompt, sampling):
            sys.stdout.write(chunk.text)
            sys.stdout.flush()
    sys.stdout.write("\n")
