"""The scheduling is pure, and nothing imports upwards: read from the sources, and from a fresh interpreter."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import preble

PACKAGE = Path(preble.__file__).parent

PURE = [
    "tokens.py",
    "types.py",
    "errors.py",
    *(
        path.relative_to(PACKAGE).as_posix()
        for folder in ("tree", "wait_queue", "core", "dispatch")
        for path in (PACKAGE / folder).rglob("*.py")
    ),
    "backends/batching.py",
    "backends/block_events.py",
    "backends/cache.py",
    "backends/checks.py",
]
MODULES_FOR_PURE = {
    "__future__", "_heapq", "abc", "array", "bisect", "collections", "dataclasses", "difflib", "enum", "functools",
    "heapq", "itertools", "math", "msgspec", "numpy", "operator", "preble", "sortedcontainers", "struct", "sys",
    "typing",
}  # fmt: skip
"""No asyncio, logging, os, pathlib, select, socket, threading, time, torch, zmq."""
ALSO = {
    "core/fleet.py": {"random"},
    "core/policies/baselines/session_hash.py": {"random"},
    "errors.py": {"inspect"},
}
"""A seeded `random.Random` breaks ties; a ring needs one hash in all processes; a signature has names."""
IMPURE_NAMES = {"environ", "input", "open", "print", "np.random"}
GENERATORS = {"random.Random"}

LAYERS = [
    {"_pack", "errors"},
    {"model_files", "parts", "tokens", "types"},
    {"tree"},
    {"wait_queue"},
    {"core"},
    {"backends", "text"},
    {"transport"},
    {"dispatch"},
    {"workers"},
    {"cluster", "simulate", "replay"},
    {"testing"},
    {"serve"},
    {"client"},
    {"pytest_plugin"},
    {"cli"},
    {"__main__"},
]
"""From the bottom up: a part imports itself and lower layers."""
FACES = {"testing", "serve", "client", "pytest_plugin", "cli", "__main__"}
"""What stands on the public names in `preble/__init__.py`; nothing else imports those."""
APART = [
    ({"transport"}, {"core", "tree", "text"}, "bytes know nothing of scheduling"),
    ({"text"}, {"core", "tree"}, "text knows nothing of scheduling"),
    ({"workers"}, {"core", "tree", "dispatch"}, "workers are told what to do by messages"),
    ({"cluster"}, {"simulate", "replay"}, "a simulation is another world"),
    ({"simulate"}, {"cluster", "workers", "text"}, "a simulation has neither processes nor text"),
]


def modules(path: Path) -> Iterator[str]:
    """Every module that a file imports, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def names(path: Path) -> Iterator[str]:
    """Every name, and every attribute with what stands directly before it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
            if isinstance(node.value, ast.Name):
                yield f"{node.value.id}.{node.attr}"


def part(module: str) -> str:
    return ([*module.split("."), ""])[1]


def imports_between_parts() -> Iterator[tuple[str, str, Path]]:
    for path in PACKAGE.rglob("*.py"):
        relative = path.relative_to(PACKAGE)
        importer = relative.parts[0].removesuffix(".py")
        for module in modules(path) if importer != "__init__" else ():
            if module == "preble" or module.startswith("preble."):
                yield importer, part(module), relative


def layer(name: str) -> int:
    found = [index for index, parts in enumerate(LAYERS) if name in parts]
    assert found, f"preble/{name}: which layer is it in?"
    return found[0]


@pytest.mark.parametrize("name", PURE)
def test_a_pure_file_imports_and_names_nothing_impure(name: str):
    path = PACKAGE / name
    roots = {module.split(".")[0] for module in modules(path)}
    assert roots <= MODULES_FOR_PURE | ALSO.get(name, set())
    used = set(names(path))
    assert not used & IMPURE_NAMES
    assert {each for each in used if each.startswith("random.")} <= GENERATORS


def test_nothing_imports_upwards():
    upwards = {
        f"{path} imports preble.{imported}"
        for importer, imported, path in imports_between_parts()
        if imported != importer and (layer(imported) >= layer(importer) if imported else importer not in FACES)
    }
    assert not upwards


@pytest.mark.parametrize(("importers", "forbidden", "why"), APART)
def test_parts_that_know_nothing_of_each_other(importers: set[str], forbidden: set[str], why: str):
    known = {
        f"{path} imports preble.{imported}"
        for importer, imported, path in imports_between_parts()
        if importer in importers and imported in forbidden
    }
    assert not known, why


def test_every_part_has_its_layer():
    for path in PACKAGE.iterdir():
        if path.suffix == ".py" or (path / "__init__.py").exists():
            assert path.stem == "__init__" or layer(path.stem) >= 0


def test_imports_are_seen_wherever_they_stand(tmp_path: Path):
    """What the tests above stand on."""
    file = tmp_path / "file.py"
    file.write_text("import os.path\ndef f():\n    from time import sleep\n    return np.random.rand(), open('x')\n")
    assert list(modules(file)) == ["os.path", "time"]
    assert {"np.random", "open"} <= set(names(file))


def loaded(*imports: str) -> set[str]:
    """The modules in a fresh interpreter after these imports."""
    code = f"import sys, {', '.join(imports)}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_core_loads_nothing_beyond_its_libraries():
    libraries = loaded("msgspec", "msgspec.structs", "numpy", "numpy.typing", "sortedcontainers", "random")
    pure = loaded("preble.tree", "preble.core.scheduler", "preble.wait_queue.local", "preble.dispatch.dispatcher")
    impure = {"asyncio", "logging", "selectors", "socket", "ssl", "subprocess", "tempfile", "torch", "zmq"}
    assert not (pure - libraries) & impure
    ours = {module for module in pure - libraries if not module.startswith("preble")}
    assert ours <= MODULES_FOR_PURE, "new modules of the standard library: pure ones belong in the list"
