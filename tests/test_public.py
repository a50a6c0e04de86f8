"""What `import preble` gives and costs."""

from __future__ import annotations

import ast
import doctest
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import preble
from preble.core import scheduler

EXPORTED = [name for name in preble.__all__ if name != "__version__"]


def fresh(code: str) -> str:
    """The output of a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def type_checked() -> set[str]:
    """The names that a type checker sees."""
    tree = ast.parse(Path(preble.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    aliases = [alias for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert all(alias.asname == alias.name for alias in aliases), "`as` makes a re-export explicit"
    return {alias.asname or "" for alias in aliases}


def test_importing_it_loads_nothing_heavy():
    heavy = ("asyncio", "jinja2", "logging", "msgspec", "numpy", "tokenizers", "torch", "uvloop", "zmq")
    assert fresh(f"import sys, preble; print(*sys.modules.keys() & set({heavy}))") == ""


def test_using_the_scheduler_loads_neither_torch_nor_zmq():
    assert fresh("import sys, preble; preble.Scheduler; print(*sys.modules.keys() & {'torch', 'zmq', 'asyncio'})") == ""


def test_a_type_checker_sees_what_there_is():
    assert type_checked() | {"native"} == set(EXPORTED)


@pytest.mark.parametrize("name", preble.__all__)
def test_every_name_can_be_imported(name: str):
    assert getattr(preble, name) is getattr(preble, name)
    assert name in dir(preble)


def test_a_name_is_the_one_of_its_home():
    assert preble.Scheduler is scheduler.Scheduler
    assert preble.__version__.count(".") == 2


def test_a_star_import_gives_all():
    assert (
        fresh("from preble import *; print(Scheduler.__name__, SamplingParams.__name__)") == "Scheduler SamplingParams"
    )


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'preble' has no attribute 'Preble'"):
        _ = preble.Preble


@pytest.mark.parametrize("name", EXPORTED)
def test_everything_public_is_documented(name: str):
    thing = getattr(preble, name)
    if not inspect.isclass(thing):
        return
    own = [
        member
        for key, member in vars(thing).items()
        if not key.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
    ]
    assert inspect.getdoc(thing)
    assert [member for member in own if not inspect.getdoc(member)] == []


@pytest.mark.parametrize("name", EXPORTED)
def test_everything_public_is_annotated(name: str):
    thing = getattr(preble, name)
    for key, member in vars(thing).items() if inspect.isclass(thing) else ():
        if inspect.isfunction(member) and not key.startswith("_"):
            signature = inspect.signature(member)
            assert signature.return_annotation is not inspect.Signature.empty, f"{name}.{key}"
            bare = [p.name for p in signature.parameters.values() if p.annotation is inspect.Parameter.empty]
            assert bare in (["self"], ["cls"], []), f"{name}.{key}"


def test_the_scheduler_s_example_runs_as_it_stands():
    example = doctest.DocTestParser().get_doctest(
        str(preble.Scheduler.__doc__), {"Scheduler": preble.Scheduler}, "Scheduler", None, None
    )
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


def test_the_package_says_that_it_is_typed():
    assert (Path(preble.__file__).parent / "py.typed").exists()
