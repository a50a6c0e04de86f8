"""Fixtures for tests of what talks to a model: `preble_cluster`, `preble_llm`, `preble_openai`, `preble_chaos`.

pytest loads this module at every start, also where no test uses it, so that it imports nothing but pytest. The parts
that the fixtures need are imported when the first of them is used.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from preble import PrebleCluster
    from preble.pytest_plugin.chaos import Chaos
    from preble.pytest_plugin.facade import Cluster
    from preble.pytest_plugin.model import ScriptedModel

_running = pytest.StashKey["list[Cluster]"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("preble")
    group.addoption("--preble-backend", default="sim", metavar="NAME", help="engine of preble_cluster (default: sim)")
    group.addoption("--preble-model", default=None, metavar="PATH", help="model of preble_cluster (default: none)")
    group.addoption("--preble-workers", default=2, type=int, metavar="N", help="its workers (default: 2)")
    group.addoption("--preble-seed", default=0, type=int, metavar="N", help="its seed (default: 0)")
    group.addoption(
        "--preble-processes",
        action="store_true",
        help="a process for each worker; all but sim and torch have it anyway",
    )
    group.addoption("--preble-record", action="store_true", help="ask the source for what preble_replay does not have")


def pytest_configure(config: pytest.Config) -> None:
    """Begin with no clusters."""
    config.stash[_running] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    """Let each test count from its own beginning."""
    for cluster in item.config.stash[_running]:
        cluster.begin()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fail the test that leaves requests behind on a cluster that outlives it."""
    result = yield
    for cluster in item.config.stash[_running]:
        cluster.check_idle()
    return result


@pytest.fixture(scope="session")
def preble_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster for all tests, with a thread and an event loop of its own: `preble.pytest_plugin.facade.Cluster`."""
    from preble.pytest_plugin.start import described

    cluster = described(request.config, {})
    yield from _started(request, cluster)


@pytest.fixture
def preble_cluster_factory(request: pytest.FixtureRequest) -> Iterator[Callable[..., Cluster]]:
    """A function that starts a cluster for this test, with the keywords of `PrebleCluster`."""
    from contextlib import ExitStack, contextmanager

    from preble.pytest_plugin.start import described

    with ExitStack() as stack:

        def start(**options: Any) -> Cluster:
            cluster = described(request.config, options)
            return stack.enter_context(contextmanager(_started)(request, cluster))

        yield start


@pytest.fixture
def preble_llm(request: pytest.FixtureRequest) -> Iterator[ScriptedModel]:
    """A model that says what this test tells it to: `preble.pytest_plugin.model.ScriptedModel`."""
    from preble.pytest_plugin.start import scripted

    model = scripted(request.config)
    for _ in _started(request, model.cluster):
        yield model
    model.script.check()


@pytest.fixture
def preble_replay(request: pytest.FixtureRequest) -> Iterator[Callable[..., ScriptedModel]]:
    """A function of a file and of what makes a cluster: a model with the recorded answers of that cluster.

    The path is taken from the folder of the test's file. With `--preble-record` the cluster is made and asked.
    """
    from contextlib import ExitStack, contextmanager

    from preble.pytest_plugin.start import replayed

    models: list[ScriptedModel] = []
    with ExitStack() as stack:

        def start(path: str | Path, source: Callable[[], PrebleCluster] | None = None) -> ScriptedModel:
            model = replayed(request.config, request.path.parent / path, source)
            models.append(model)
            stack.enter_context(contextmanager(_started)(request, model.cluster))
            return model

        yield start
    for model in models:
        model.script.check()


@pytest.fixture
def preble_openai(request: pytest.FixtureRequest) -> Iterator[Any]:
    """An `openai.OpenAI` client: of `preble_llm` in a test that uses it, else of `preble_cluster`."""
    client = _used(request).openai()
    yield client
    client.close()


@pytest.fixture
def preble_async_openai(request: pytest.FixtureRequest) -> Any:
    """An `openai.AsyncOpenAI` client for any event loop, of the cluster that `preble_openai` takes."""
    return _used(request).async_openai()


@pytest.fixture
def preble_chaos(request: pytest.FixtureRequest) -> Iterator[Chaos]:
    """What can go wrong with workers, of the cluster that `preble_openai` takes; undone at the end of the test."""
    from preble.pytest_plugin.chaos import Chaos

    chaos = Chaos(_used(request))
    yield chaos
    chaos.undo()


def _used(request: pytest.FixtureRequest) -> Cluster:
    if "preble_llm" in request.fixturenames:
        return request.getfixturevalue("preble_llm").cluster  # type: ignore[no-any-return]
    return request.getfixturevalue("preble_cluster")  # type: ignore[no-any-return]


def _started(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Cluster]:
    running = request.config.stash[_running]
    with cluster:
        running.append(cluster)
        try:
            yield cluster
        finally:
            running.remove(cluster)
        cluster.check_idle()
