"""Measure each peer on the prompts that ours gets, both from lists, alternating."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.micro.figures import Figures, micro
from bench.micro.prompts import Prompts, unpacked
from bench.micro.rows import LENGTH, WORKERS, Scale
from bench.micro.served import Served
from bench.peers.environment import Child, UnavailableError, installed


def beside(figures: Figures, scale: Scale) -> dict[str, str]:
    """Note ratios peer / ours for every peer that can be run; return for each how that went."""
    return {peer: _attempt(measure, figures, scale) for peer, measure in PEERS.items()}


def dynamo(figures: Figures, scale: Scale) -> None:
    """Both of Dynamo's parts, each told where our scheduler put the prompts that fill the trees."""
    python = installed("dynamo", "ai-dynamo-runtime==1.6.1", "pyzmq", "msgpack")
    with tempfile.TemporaryDirectory() as folder, Child(python, Path(__file__).with_name("dynamo.py")) as child:
        file = Path(folder) / "prompts"

        def ask(do: str, prompts: list[bytes], workers: list[int] | None = None) -> list[int]:
            file.write_bytes(b"".join(prompts))
            answer: list[int] = child.ask(do=do, path=str(file), length=LENGTH, count=WORKERS, workers=workers or [])
            return answer

        prompts = Prompts(LENGTH, scale.requests)
        served, fill = Served(workers=WORKERS), prompts.take(min(2000, scale.requests // 4))
        ask("fill", fill, [_placed(served, prompt) for prompt in fill])
        for part in ("tree", "service"):
            _compare(figures, part, served, prompts, ask, scale)


def sglang_router(figures: Figures, scale: Scale) -> None:
    """The tree of SGLang's router, if its package lets one call it."""
    python = installed("sglang-router", "sglang-router==0.3.2")
    with Child(python, Path(__file__).with_name("sglang_router.py")) as child:
        child.ask(do="tree")


PEERS = {"dynamo": dynamo, "sglang-router": sglang_router}


def _attempt(measure: Callable[[Figures, Scale], None], figures: Figures, scale: Scale) -> str:
    try:
        measure(figures, scale)
    except UnavailableError as error:
        return f"skipped: {error}"
    return "measured"


def _placed(served: Served, prompt: bytes) -> int:
    """Serve a prompt and return the number of the worker that got it."""
    served.fill([prompt])
    return int(served.scheduler.explain(served.number).worker[1:])


def _compare(
    figures: Figures,
    part: str,
    served: Served,
    prompts: Prompts,
    ask: Callable[[str, list[bytes]], list[int]],
    scale: Scale,
) -> None:
    queries = [prompts.take(scale.queries // 5) for _ in range(2 * scale.rounds)]
    ask(part, prompts.take(100))
    served.time(unpacked(prompts.take(100)))
    ours, theirs = figures.compare(
        f"dynamo_{part}_ratio_p50",
        lambda number: micro(served.time(unpacked(queries[number]))[0]),
        lambda number: micro(ask(part, queries[number])),
        2 * scale.rounds,
    )
    figures.note(f"dynamo_{part}_p50_us", theirs)
    figures.note(f"dynamo_{part}_ours_list_p50_us", ours)
