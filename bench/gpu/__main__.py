"""Several workers of the embedded engine on one GPU, with models of 1 and 8 billion random parameters.

It is `python -m bench.live` with other sizes: every policy serves the same requests from cold caches, beside a
simulation by a cost model that is fitted to what the workers' steps took right before and after. Weights are drawn on
the device, so that no model is needed. Beside torch and numpy it needs a few packages: `--wheels FOLDER` downloads them
where there is a network, and `pip install --no-index --no-deps --target SITE FOLDER/*.whl` with PYTHONPATH=SITE does
for the rest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.gpu.shapes import SHAPES, Shape, write_config
from bench.gpu.wheels import download
from bench.live.__main__ import beside_simulation, command
from bench.live.setting import Setting
from bench.live.traffic import LIVE, scaled
from bench.report import command_line, completed, positive
from preble.core.policies import POLICIES
from preble.simulate import Request

COMPARED = ("round-robin", "sglang-cache-aware", "e2")
WORKLOADS = ("toolbench", "loogle", "airline")
"""Tool use, long documents, agent sessions."""
DTYPES = {"cpu": "float32", "cuda": "bfloat16"}
BYTES = {"cpu": 4, "cuda": 2}
"""Of such a number."""


async def run(arguments: argparse.Namespace) -> None:
    """Measure as `bench.live` does."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    shape = SHAPES[arguments.shape]
    console.print(
        f"{arguments.shape}: {shape.parameters / 1e6:,.1f} million random parameters, {arguments.workers} workers on "
        f"{arguments.device}, each with {shape.bytes(BYTES[arguments.device]) / 1e9:.1f} GB of weights and KV cache."
    )
    await beside_simulation(described(arguments, shape), workloads(arguments, shape), arguments, console)


def described(arguments: argparse.Namespace, shape: Shape) -> Setting:
    """Return the workers' setting."""
    return Setting(
        backend="torch",
        model=str(write_config(arguments.out / arguments.shape, shape, DTYPES[arguments.device])),
        workers=arguments.workers,
        kv_tokens=shape.kv_tokens,
        context_limit=shape.context_limit,
        block_size=16,
        max_running=64,
        max_batched_tokens=shape.max_batched_tokens,
        vocabulary=shape.vocab,
        options={"device": arguments.device, "load_format": "dummy"},
    )


def workloads(arguments: argparse.Namespace, shape: Shape) -> dict[str, list[Request]]:
    """Return the requests of each workload, whole or as short as `bench.live` makes them."""
    made = {}
    for name in arguments.workload:
        small = LIVE[name]
        divisors = (1, 1) if shape.whole else (small.prompts, small.outputs)
        requests = small.make(requests=arguments.requests, seed=arguments.seed)[: arguments.requests]
        made[name] = scaled(requests, *divisors)
    return made


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="1b", help="of the model (%(default)s)")
    parser.add_argument("--device", choices=DTYPES, default="cuda", help="of all workers (%(default)s)")
    parser.add_argument("--workers", type=positive(int), help="replicas on it (as many as suit the shape)")
    parser.add_argument(
        "--policy", action="append", choices=POLICIES, help=f"repeatable ({', '.join(COMPARED)})", metavar="NAME"
    )
    parser.add_argument(
        "--workload", action="append", choices=LIVE, help=f"repeatable ({', '.join(WORKLOADS)})", metavar="NAME"
    )
    parser.add_argument(
        "--utilisation", type=positive(float), default=0.55, help="of a worker under round robin (%(default)s)"
    )
    parser.add_argument("--requests", type=positive(int), help="of each workload (200)")
    parser.add_argument("--calibration", type=positive(int), help="requests in each phase of it (40)")
    parser.add_argument("--seed", type=int, default=0, help="of workloads and ties (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), help="where the models go (%(default)s)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--quick", action="store_true", help="the toy on a CPU, one workload: to see that it works")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="only download what a bare machine needs")
    parser.add_argument("--python", default="3.12", help="that machine's Python (%(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.shape, arguments.device = "toy", "cpu"
    arguments.workers = arguments.workers or SHAPES[arguments.shape].workers
    arguments.workload = arguments.workload or (WORKLOADS[:1] if arguments.quick else WORKLOADS)
    arguments.policy = arguments.policy or (COMPARED[::2] if arguments.quick else COMPARED)
    arguments.requests = arguments.requests or (20 if arguments.quick else 200)
    arguments.calibration = arguments.calibration or (8 if arguments.quick else 40)
    arguments.command = command(sys.argv[1:] if argv is None else argv, "bench.gpu")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run; return 0, 2 if something is wrong with the setting, or what pip returns."""
    arguments = parse(argv)
    if arguments.wheels:
        return download(arguments.wheels, arguments.python)
    return completed("bench.gpu", run(arguments))


if __name__ == "__main__":
    sys.exit(main())
