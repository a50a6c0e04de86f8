"""Public routers as they are, beside Preble: `python -m bench.peers --json FILE --markdown FILE [--quick]`.

SGLang's router (sglang-router 0.3.2, `cache_aware` and `round_robin`) and its successor (smg 1.13.0, `cache_aware`),
installed from the package registry into environments of their own, run as processes in front of HTTP workers; Preble
runs in the client's process in front of its own workers. All workers hold the same `sim` engine, and all sides get the
same requests: tool use after ToolBench, as text over HTTP (four letters a token), as lists of ids to Preble. What does
not install or start is reported as skipped. Linux only.

First with engines that answer at once, one token per request. One request at a time: time to the first token, to the
end, and what routing adds to the first token, which is the median of the same workers asked in turn without router or
scheduler taken off. Then 64 at once: requests per second, and CPU of the client's process and the router's together:
over HTTP the client is a small one, and with Preble it is the caller of `stream`, who has the router inside. Processes
share the machine's cores as the system sees fit. The HTTP client has every read acknowledged at once; what an ordinary
client sees is a column of its own, because sglang-router leaves Nagle's algorithm on towards its clients.

Then with engines that take the time of Mistral 7B on an A6000, in open loop, Poisson, 10 requests/s per worker, caches
cold, answers of 43 tokens: the share of prompt tokens found in caches, and times since the intended arrival.

Each round starts all processes anew and turns the order of the sides. A figure is the median over rounds; a ratio is
taken within each round, and there is none where a round's noise is as large as what was added.

With `--engine vllm` or `sglang`: sglang-router and Preble in front of the same two real servers of that engine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

import msgspec
import uvloop

from bench.micro.figures import Figures, turns
from bench.peers import over_engines
from bench.peers.attempts import Rounds, Skipped, attempted
from bench.peers.environment import UnavailableError
from bench.peers.servers import KINDS
from bench.peers.sides import CLUSTERS, FULL, QUICK, ROUTERS, SIDES, Scale, overhead, serving
from bench.peers.table import added, document, note, notes, table
from bench.progress import progress
from bench.report import command_line, page, positive, save


async def measure(scale: Scale) -> tuple[Rounds, Skipped]:
    """Return what each round of each side gave, and why some have none."""
    rounds: Rounds = {side: [{} for _ in range(scale.rounds)] for side in SIDES}
    skipped: Skipped = {}
    timed = (*ROUTERS, *CLUSTERS)
    with progress("instant", scale.rounds * len(SIDES)) as done:
        for number, side in turns(tuple(SIDES), scale.rounds):
            rounds[side][number] |= await attempted(side, skipped, partial(overhead, side, scale, number))
            done()
    with progress("real time", scale.replays * len(timed) * scale.replayed) as done:
        for number, side in turns(timed, scale.replays):
            rounds[side][number] |= await attempted(side, skipped, partial(serving, side, scale, number, done))
    return {side: measured for side, measured in rounds.items() if side not in skipped}, skipped


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; return 0, or 2 if there are no engines to measure with."""
    parser = command_line(__doc__)
    parser.add_argument(
        "--engine", choices=("sim", *KINDS), default="sim", help="what the workers run; vllm and sglang as real servers"
    )
    full = over_engines.FULL
    parser.add_argument("--rounds", type=positive(int), help=f"with real servers ({full.rounds})")
    parser.add_argument("--requests", type=positive(int), help=f"in each round, with real servers ({full.requests})")
    parser.add_argument("--markdown", metavar="FILE", help="write the table there, with machine and date")
    parser.add_argument(
        "--quick", action="store_true", help="under a minute once the routers are installed; real servers take longer"
    )
    options = parser.parse_args(argv)
    if options.engine not in KINDS and (options.rounds or options.requests):
        parser.error("--rounds and --requests are for real servers, see --engine")
    figures = Figures()
    try:
        rounds, skipped = uvloop.run(_measured(options))
    except UnavailableError as error:
        sys.stderr.write(f"bench.peers: {options.engine}: {error}\n")
        return 2
    note(figures, rounds)
    _report(figures, skipped, options)
    return 0


def _report(figures: Figures, skipped: Skipped, options: argparse.Namespace) -> None:
    """Print the figures and write the files that were asked for."""
    more = {"spread": figures.spread, "skipped": skipped, "quick": options.quick, "engine": options.engine}
    save(options.json, "peers", figures.metrics, **more)
    sides, title, about = SIDES, "Public routers beside Preble", __doc__
    if options.engine in KINDS:
        sides, about = over_engines.SIDES, over_engines.__doc__
        title = f"SGLang's router and Preble over real {options.engine} servers"
    rows = table(figures, skipped, tuple(sides))
    sys.stdout.write("\n" + rows)
    if options.markdown:
        page(options.markdown, document(title, about or "", notes(figures, options.quick), rows))


async def _measured(options: argparse.Namespace) -> tuple[Rounds, Skipped]:
    if options.engine not in KINDS:
        rounds, skipped = await measure(QUICK if options.quick else FULL)
        return added(rounds), skipped
    scale = over_engines.QUICK if options.quick else over_engines.FULL
    given = {name: value for name in ("rounds", "requests") if (value := getattr(options, name))}
    return await over_engines.measure(options.engine, msgspec.structs.replace(scale, **given))


if __name__ == "__main__":
    sys.exit(main())
