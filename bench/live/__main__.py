"""Workloads against a running cluster under several policies, beside the simulator's prediction or each other.

With `--beside simulation`, for engines that report what their steps take: for each workload, a cost model is first
fitted to workers without a pause. It is what schedulers begin with, and it says how often requests arrive: as often as
keeps simulated workers busy for a part of the time (--utilisation) under round robin. Every policy gets the same, live
and simulated, from cold caches. A machine's speed changes within minutes: what simulates a run is a cost model fitted
to traffic of all shapes that the same workers serve right before and right after it, and never to the run itself.

With `--beside policies`, for all engines: requests arrive as often as a part (--utilisation) of what the engines serve
of them under round robin without pauses, and every policy's figures are compared with those of `e2`, within each round.

Times count from the intended arrival. Workloads are those of simulations with fewer tokens, sent as token ids.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from bench.engines import SIMULATED, TIMED
from bench.live import ratios, side_by_side
from bench.live.calibrate import PHASES, Calibration, calibrate, calibration
from bench.live.comparison import HEADERS, Row, cells, flat, measured, simulated
from bench.live.fitting import predicted, priced
from bench.live.recording import recorded
from bench.live.report import markdown
from bench.live.setting import Setting, vocabulary_of
from bench.live.shapes import shapes
from bench.live.traffic import LIVE, paced, workload
from bench.progress import progress
from bench.report import command_line, completed, page, positive, save
from preble.backends import find_backend
from preble.core.cost import CostModel
from preble.core.policies import POLICIES
from preble.simulate import Request, simulate
from preble.testing import make_model

DEFAULTS = {
    "simulation": (
        ("toolbench", "loogle", "programming", "airline"), ("round-robin", "sglang-cache-aware", "e2"), 0.55,
    ),
    "policies": (
        ("toolbench", "loogle", "programming"), ("round-robin", "sglang-cache-aware", "dynamo-kv", "e2"), 0.8,
    ),
}  # fmt: skip
"""By what is compared: workloads, policies, utilisation."""
QUICK_POLICIES = ("round-robin", "e2")
PATHS = ("--json", "--markdown", "--out", "--model")


async def run(arguments: argparse.Namespace, console: Console) -> None:
    """Serve every workload under every policy; print the table and write the files."""
    setting = described(arguments)
    workloads = {name: workload(name, arguments.requests, arguments.seed) for name in arguments.workload}
    if arguments.beside == "policies":
        await beside_policies(setting, workloads, arguments, console)
    else:
        await beside_simulation(setting, workloads, arguments, console)


async def beside_policies(
    setting: Setting, workloads: Mapping[str, Sequence[Request]], arguments: argparse.Namespace, console: Console
) -> None:
    """Compare every policy with `e2`."""
    rounds = await ratios.compare(
        setting,
        workloads,
        arguments.policy,
        rounds=arguments.rounds,
        utilisation=arguments.utilisation,
        seed=arguments.seed,
    )
    found = ratios.figures(rounds)
    rows = side_by_side.rows(rounds, found)
    console.print(table(side_by_side.HEADERS, rows))
    if arguments.json:
        keep(arguments, setting, found.metrics, spread=found.spread, rounds=arguments.rounds)
    page(arguments.markdown, side_by_side.page(rows, rounds.rates, setting, arguments))


async def beside_simulation(
    setting: Setting, workloads: Mapping[str, Sequence[Request]], arguments: argparse.Namespace, console: Console
) -> None:
    """Calibrate, serve and simulate each workload, at its generator's own pace."""
    rows, calibrations = list[Row](), dict[str, Calibration]()
    for name, requests in workloads.items():
        found = calibrations[name] = await calibrated(setting, requests, arguments)
        console.print(
            f"Fitted to {found.steps:,} steps, off by {found.error:.0%} of a step on average; "
            f"{found.delay * 1e3:.1f} ms a request outside of the engine."
        )
        console.print(priced(found.cost))
        phases = arriving(requests, setting, found.cost, arguments)
        for policy in arguments.policy:
            rows.append(await compare(name, policy, phases, setting, found, arguments.seed))
    console.print(table(HEADERS, map(cells, rows)))
    if arguments.json:
        fits = {f"{row.workload}_{row.policy}".replace("-", "_"): row.fit for row in rows}
        keep(arguments, setting, flat(rows), calibrations=calibrations, fits=fits)
    page(arguments.markdown, markdown(rows, arguments.command))


def described(arguments: argparse.Namespace) -> Setting:
    """Return the setting that the command line asks for, with a model made if the engine needs one."""
    model = arguments.model
    if model is None and find_backend(arguments.backend).needs_model:
        model = str(make_model(arguments.out / "model"))
    return Setting(
        backend=arguments.backend,
        model=model,
        workers=arguments.workers,
        kv_tokens=arguments.kv_tokens,
        context_limit=arguments.context_limit,
        block_size=16,
        max_running=64,
        max_batched_tokens=512,
        vocabulary=vocabulary_of(model),
        options=SIMULATED.get(arguments.backend, {}),
    )


async def calibrated(setting: Setting, requests: Sequence[Request], arguments: argparse.Namespace) -> Calibration:
    """Fit the model with prompts as long as those of the workload."""
    each = arguments.calibration
    with progress("calibrating", PHASES * each) as done:
        return await calibrate(setting, requests=each, longest=longest(requests), seed=arguments.seed, done=done)


def arriving(
    requests: Sequence[Request], setting: Setting, cost: CostModel, arguments: argparse.Namespace
) -> list[list[Request]]:
    """Return the workload between traffic of all shapes, as long as its prompts, each at the pace asked for."""
    before, after = (shapes(arguments.calibration, longest(requests), arguments.seed + each) for each in (3, 4))
    options = setting.simulated(cost)
    return [
        paced(phase, arguments.utilisation, workers=setting.workers, options=options)
        for phase in (before, requests, after)
    ]


def longest(requests: Sequence[Request]) -> int:
    """Return the tokens of the longest prompt."""
    return max(request.prompt_tokens for request in requests)


async def compare(
    name: str, policy: str, phases: Sequence[Sequence[Request]], setting: Setting, found: Calibration, seed: int
) -> Row:
    """Serve the second phase live, and simulate it by what the first and the third took.

    The live scheduler begins with the prices of `found`, and has learned from the first phase when the second begins;
    the simulated one begins with those of the fit.
    """
    with progress(f"{name}, {policy}", sum(map(len, phases))) as done:
        before, live, after = await recorded(setting, policy, phases, done, seed=seed, cold=True, cost=found.cost)
    fit = calibration([*before.steps, *after.steps], found.delay)
    result = simulate(
        phases[1],
        policy=policy,
        workers=setting.workers,
        options=setting.simulated(fit.cost),
        seed=seed,
        report_delay=found.delay,
    )
    return Row(
        workload=name,
        policy=policy,
        requests=len(live.records),
        rate=len(live.records) / max(record.end for record in live.records),
        live=measured(live.records, setting.workers),
        simulated=simulated(result),
        fit=fit,
        steps=sum(timing.seconds for timing in live.steps) / float(predicted(fit.cost, live.steps).sum()),
    )


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Return the rows for a terminal."""
    grid = Table(*headers)
    for column in grid.columns[2:]:
        column.justify = "right"
    for row in rows:
        grid.add_row(*row)
    return grid


def keep(arguments: argparse.Namespace, setting: Setting, metrics: dict[str, float], **more: Any) -> None:
    """Write the figures, with what they were measured on."""
    described = msgspec.structs.replace(setting, model=None)
    more |= {"setting": described, "command": arguments.command}
    save(arguments.json, "live", metrics, **msgspec.to_builtins(more))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = command_line(__doc__)
    parser.add_argument("--backend", default="torch", help="torch, vllm, sglang, sim or another (%(default)s)")
    parser.add_argument("--beside", choices=DEFAULTS, help=f"simulation for {' and '.join(TIMED)}, else policies")
    parser.add_argument("--model", help="as the backend takes it (one with 5M random parameters is made)")
    parser.add_argument("--out", type=Path, default=Path("out/live"), help="where that is made (%(default)s)")
    parser.add_argument("--workers", type=positive(int), default=2, help="replicas (%(default)s)")
    parser.add_argument("--kv-tokens", type=positive(int), default=16_384, help="KV cache of each (%(default)s)")
    parser.add_argument(
        "--context-limit", type=positive(int), default=8_192, help="tokens of the longest (%(default)s)"
    )
    parser.add_argument(
        "--policy", action="append", choices=POLICIES, help=f"repeatable, of {', '.join(POLICIES)}", metavar="NAME"
    )
    parser.add_argument(
        "--workload", action="append", choices=LIVE, help=f"repeatable, of {', '.join(LIVE)}", metavar="NAME"
    )
    parser.add_argument("--utilisation", type=positive(float), help="under round robin (0.55, beside policies 0.8)")
    parser.add_argument("--rounds", type=positive(int), help="beside policies (3)")
    parser.add_argument("--requests", type=positive(int), help="of each workload (250)")
    parser.add_argument("--calibration", type=positive(int), help="requests in each phase of it (40)")
    parser.add_argument("--seed", type=int, default=0, help="of workloads and ties (%(default)s)")
    parser.add_argument(
        "--quick", action="store_true", help="one workload, 40 requests, two policies: to see that it works"
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    arguments = parser.parse_args(argv)
    _fill_in(arguments)
    arguments.command = command(sys.argv[1:] if argv is None else argv)
    return arguments


def _fill_in(arguments: argparse.Namespace) -> None:
    """Set what was left open, by what is compared and by --quick."""
    quick = arguments.quick
    arguments.beside = arguments.beside or ("simulation" if arguments.backend in TIMED else "policies")
    workloads, policies, utilisation = DEFAULTS[arguments.beside]
    arguments.workload = arguments.workload or (workloads[:1] if quick else workloads)
    arguments.policy = arguments.policy or (QUICK_POLICIES if quick else policies)
    arguments.utilisation = arguments.utilisation or utilisation
    arguments.rounds = arguments.rounds or (1 if quick else 3)
    arguments.requests = arguments.requests or (40 if quick else 250)
    arguments.calibration = arguments.calibration or (12 if quick else 40)


def command(argv: Sequence[str], module: str = "bench.live") -> str:
    """Return the command for the page, without the names of files and folders."""
    words = iter(["python", "-m", module, *argv])
    kept = []
    for word in words:
        if word in PATHS:
            next(words, None)
        elif word.partition("=")[0] not in PATHS:
            kept.append(word)
    return " ".join(kept)


def main(argv: Sequence[str] | None = None) -> int:
    """Run; return 0, or 2 if something is wrong with the setting."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    return completed("bench.live", run(parse(argv), console))


if __name__ == "__main__":
    sys.exit(main())
