"""What the named engines need and what becomes of a worker's GPUs and threads, known without loading any of them."""

from __future__ import annotations

import ast
import importlib.util
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from preble.backends import BACKENDS, find_backend
from preble.errors import ConfigurationError
from preble.transport.schema import Ticket
from preble.workers.worker import make_engine
from tests.test_purity import PACKAGE, loaded

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("backend", "options", "devices", "threads", "bound"),
    [
        ("vllm", {}, 2, 0, {"tensor_parallel_size": 2}),
        ("vllm", {}, 0, 0, {}),
        ("vllm", {"pipeline_parallel_size": 2}, 4, 0, {"tensor_parallel_size": 2}),
        ("vllm", {"tensor_parallel_size": 1, "pipeline_parallel_size": 2}, 2, 0, {}),
        ("vllm", {"pipeline_parallel_size": "x"}, 2, 0, {}),
        ("sglang", {}, 2, 0, {"tp_size": 2}),
        ("sglang", {"tp_size": 2}, 2, 0, {}),
        ("torch", {}, 1, 0, {"device": "cuda"}),
        ("torch", {"device": "cpu", "threads": 1}, 1, 2, {}),
        ("torch", {}, 0, 2, {"threads": 2}),
        ("sim", {}, 2, 2, {}),
        ("my.own:Engine", {"a": 1}, 2, 0, {}),
    ],
)
def test_a_replica_is_computed_by_all_its_devices(
    backend: str, options: dict[str, Any], devices: int, threads: int, bound: dict[str, Any]
):
    assert find_backend(backend).bind(options, devices, threads) == options | bound


@pytest.mark.parametrize(
    ("backend", "options"),
    [("torch", [{"seed": 7}] * 2), ("sim", [{"seed": 7}] * 2), ("openai", [{}, {}]), ("my.own:Engine", [{}, {}])],
)
def test_engines_that_draw_by_request_get_the_cluster_s_seed_alike(backend: str, options: list[dict[str, int]]):
    assert [find_backend(backend).seed(7, worker) for worker in range(2)] == options


@pytest.mark.parametrize(("backend", "name"), [("vllm", "seed"), ("sglang", "random_seed")])
def test_engines_that_draw_in_turn_get_one_seed_for_each_worker(backend: str, name: str):
    found = [find_backend(backend).seed(seed, worker) for seed in (-1, 0, 1, 12345) for worker in range(4)]
    assert {*map(tuple, found)} == {(name,)}
    seeds = [options[name] for options in found]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 1 << 31 for seed in seeds)


def test_a_class_of_a_named_engine_is_that_engine():
    assert find_backend(BACKENDS["torch"].path) is BACKENDS["torch"]


def test_an_unknown_name_is_refused_and_a_class_of_ones_own_is_not():
    with pytest.raises(ConfigurationError, match="backend: unknown 'nonsense', one of openai, sim"):
        find_backend("nonsense")
    assert find_backend("my.own:Engine").path == "my.own:Engine"


@pytest.mark.parametrize("backend", BACKENDS)
def test_paths_lead_to_modules_that_exist(backend: str):
    module = BACKENDS[backend].path.partition(":")[0]
    assert importlib.util.find_spec(module)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_it_is_told_to_install_is_there(backend: str):
    """An extra of this project, or the version of a package that the tests install."""
    install = BACKENDS[backend].install
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    tested = (ROOT / "tests" / "engines" / "environment.sh").read_text()
    assert install == "" or install in {f"preble[{extra}]" for extra in extras} or f" {install} " in tested
    assert all(extras.values())


def test_an_engine_that_cannot_be_imported_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "preble.backends.torch.engine", None)
    ticket = Ticket(worker="w", incarnation="0", nonce="n", address="a", backend="torch", model="m")
    with pytest.raises(ConfigurationError, match=r'torch\S* cannot be imported: .*; pip install "preble\[torch\]"$'):
        make_engine(ticket)


def test_the_callers_process_loads_no_engine():
    heavy = {"torch", "vllm", "sglang", "safetensors"}
    assert not heavy & {module.partition(".")[0] for module in loaded("preble", "preble.backends.named")}


def compared(source: str) -> Iterator[object]:
    """Every constant that is compared with something, also those in a tuple or set."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            yield from (each.value for each in ast.walk(node) if isinstance(each, ast.Constant))


def test_no_engine_is_compared_by_its_name():
    assert "sim" in set(compared("backend not in ('sim', 'x')"))
    bench = Path(__file__).parents[2] / "bench"
    sources = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "backends"]
    found = {path for path in [*sources, *bench.rglob("*.py")] if BACKENDS.keys() & set(compared(path.read_text()))}
    assert not found
