"""Two worker processes serve the same requests under round robin and under E2, in two acts.

In the first a real model (`preble get-model smollm2-135m`) answers questions about Python's standard library that share
long prefixes; see bench/demo/answers.py. In the second, a load test, a small model with random weights serves many
requests that share more prefixes than a cache holds; see bench/demo/load.py. Both policies have to give the same
answers.

The first act needs the torch engine. `--backend vllm` and `sglang` run the second on the real engines, if they are
installed, as `make demo BACKEND=vllm` sees to.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.demo import answers, load
from bench.demo.sides import flat
from bench.report import command_line, completed, positive, save, write
from preble import ModelError
from preble.testing import real_model

ACTS = ("answers", "load")


async def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the acts and write the files; return 0, or 1 if the policies gave different texts or tokens."""
    model = found_model(arguments, console) if "answers" in arguments.acts else None
    first = await answers.run(model, console, quick=arguments.quick, seed=arguments.seed) if model else None
    second = await load.run(arguments, console) if "load" in arguments.acts else None
    parts = {}
    if first:
        parts["answers"] = answers.result(first)
    if second:
        parts["load"] = load.result(second)
    write(arguments.out / "result.json", {"backend": arguments.backend, **parts})
    if arguments.json:
        save(arguments.json, "demo", metrics(first, second))
    console.print(f"Written: {arguments.out / 'result.json'}", soft_wrap=True)
    return int(any(act.differing for act in (first, second) if act))


GGUF_BACKEND = "torch"
"""The engine that takes a GGUF file."""


def found_model(arguments: argparse.Namespace, console: Console) -> str | None:
    """Return the path of the real model; None, after a line that says why, if the first act cannot be."""
    if arguments.backend != GGUF_BACKEND:
        console.print("The first act, a real model that answers, needs --backend torch. The second act follows alone.")
        return None
    try:
        return str(real_model())
    except (ModelError, OSError) as error:
        console.print(f"The first act needs a real model: {error}.", markup=False, soft_wrap=True)
        console.print("With a network, `preble get-model smollm2-135m` fetches it. The second act follows alone.")
        return None


def metrics(first: answers.Answered | None, second: load.Loaded | None) -> dict[str, float]:
    """Return the numbers of the acts; those of the first have `answers_` before their names."""
    of_first = {f"answers_{name}": value for name, value in flat(first.policies).items()} if first else {}
    return of_first | (flat(second.policies) if second else {})


def existing(text: str) -> str:
    """Return an option's path, if there is something: an option's type."""
    if not Path(text).exists():
        raise argparse.ArgumentTypeError(f"no such folder or file: {text}")
    return text


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(__doc__)
    parser.add_argument("--acts", nargs="+", choices=ACTS, default=ACTS, help="both, if not given")
    parser.add_argument(
        "--backend",
        choices=("torch", "vllm", "sglang", "sim"),
        default="torch",
        help="sim computes nothing and only takes the time (%(default)s)",
    )
    parser.add_argument(
        "--model",
        type=existing,
        help="the load test's, a Hugging Face folder or a GGUF file (default: one with 5M random parameters is made)",
    )
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for results (%(default)s)")
    parser.add_argument("--seconds", type=positive(float), help="for how long the load test's requests arrive (18)")
    parser.add_argument(
        "--load", type=positive(float), default=1.6, help="1 is what two workers serve uncached (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of arrivals and their order (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="few prefixes and 2 seconds, to see that it works")
    arguments = parser.parse_args(argv)
    arguments.seconds = arguments.seconds or (2.0 if arguments.quick else 18.0)
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; return 0, or 1 if the policies' answers differ, or 2 if something is wrong with the setting."""
    return completed("bench.demo", run(parse(argv), Console(highlight=False)))


if __name__ == "__main__":
    sys.exit(main())
