"""Projects with tests of their own, which use the plugin."""

from __future__ import annotations

from collections.abc import Callable

import pytest

TIMEOUT = 120
PLUGINS = ("-p", "preble.pytest_plugin", "-p", "pytest_asyncio.plugin", "-p", "xdist.plugin")
"""What the tests within tests load; other plugins that are installed would make each start slow."""

INI = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = session
asyncio_default_test_loop_scope = {scope}
"""

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a test file in a process of its own, which must end."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(code: str, *arguments: str, scope: str = "function") -> pytest.RunResult:
        pytester.makeini(INI.format(scope=scope))
        pytester.makepyfile(code)
        return pytester.runpytest_subprocess(*PLUGINS, "-p", "no:cacheprovider", *arguments, timeout=TIMEOUT)

    return run
