"""From the options of pytest to clusters, not yet started."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from preble import PrebleCluster
from preble.backends import find_backend
from preble.pytest_plugin.facade import Cluster
from preble.pytest_plugin.model import ScriptedModel
from preble.testing import Faults, Recording, Script


def described(config: pytest.Config, options: Mapping[str, Any]) -> Cluster:
    """Return a cluster as the options of pytest describe it, but for the keywords in `options`."""
    given = {
        "backend": config.getoption("--preble-backend"),
        "model": config.getoption("--preble-model"),
        "workers": config.getoption("--preble-workers"),
        "seed": config.getoption("--preble-seed"),
        **options,
    }
    backend, processes = given["backend"], config.getoption("--preble-processes")
    engine = find_backend(backend) if isinstance(backend, str) else None
    if given.pop("processes", processes or engine is None or not engine.embedded):
        return Cluster(PrebleCluster(**given, processes=True))
    faults = Faults()
    if engine is not None:  # which the cluster does not know by name then
        given["engine_options"] = {**engine.seed(given["seed"] or 0, 0), **(given.get("engine_options") or {})}
    given["backend"] = faults.around(backend)
    return Cluster(PrebleCluster(**given, processes=False), faults=faults)


def scripted(config: pytest.Config) -> ScriptedModel:
    """Return a model that says what a script says."""
    return _model(config, Script())


def replayed(config: pytest.Config, path: Path, source: Callable[[], PrebleCluster] | None) -> ScriptedModel:
    """Return a model with the answers in a file. If pytest is to record, the source adds to them."""
    asked = source() if source is not None and config.getoption("--preble-record") else None
    return _model(config, Script(Recording(path, asked).answer), source=asked)


def _model(config: pytest.Config, script: Script, source: PrebleCluster | None = None) -> ScriptedModel:
    faults = Faults()
    workers, seed = config.getoption("--preble-workers"), config.getoption("--preble-seed")
    cluster = script.cluster(faults=faults, workers=workers, seed=seed)
    return ScriptedModel(script, Cluster(cluster, faults=faults, source=source))
