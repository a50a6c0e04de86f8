"""Projects with tests of their own, which use the plugin."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

import pytest

TIMEOUT = 120
LOADED = any(each.value == "preble.pytest_plugin" for each in entry_points(group="pytest11"))
PLUGIN = () if LOADED else ("-p", "preble.pytest_plugin")

INI = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = session
asyncio_default_test_loop_scope = {scope}
"""

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Run a test file in a process of its own, which must end."""

    def run(code: str, *arguments: str, scope: str = "function") -> pytest.RunResult:
        pytester.makeini(INI.format(scope=scope))
        pytester.makepyfile(code)
        return pytester.runpytest_subprocess(*PLUGIN, "-p", "no:cacheprovider", *arguments, timeout=TIMEOUT)

    return run
