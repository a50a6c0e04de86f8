"""Dockerfile and compose.yaml: what they run is what the command line understands. `make lint` reads the Dockerfile."""

from __future__ import annotations

import argparse
import json
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from preble.cli import serve, settings

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]


def entry(name: str) -> list[str]:
    """The words of an instruction of the Dockerfile, given as a list."""
    return json.loads(re.search(rf"^{name} (\[.*\])$", DOCKERFILE, re.MULTILINE)[1])


@pytest.mark.parametrize("name", SERVICES)
def test_the_command_line_understands_what_a_service_runs(name, monkeypatch):
    for variable in SERVICES[name]["environment"]:
        monkeypatch.setenv(variable, "token")
    program, command, *first = entry("ENTRYPOINT")
    assert (program, command) == ("preble", "serve")
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    told = serve.chosen(parser.parse_args([*first, *SERVICES[name]["command"]]))
    assert told.http() == {"host": "0.0.0.0", "port": 8000, "api_key": "token"}  # noqa: S104
    told.cluster()


def test_the_gateway_reaches_every_replica_at_the_port_that_it_listens_at():
    port = settings.Http().port
    replicas = [name for name in SERVICES if name != "gateway"]
    assert [word for word in SERVICES["gateway"]["command"] if word.startswith("http")] == [
        f"http://{name}:{port}/v1" for name in replicas
    ]
    assert list(SERVICES["gateway"]["depends_on"]) == replicas
    assert f"EXPOSE {port}\n" in DOCKERFILE


def test_what_the_image_copies_is_there_and_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text().split()
    kept = [line[1:] for line in ignored if line.startswith("!")]
    for line in re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for name in line.split():
            assert (ROOT / name).exists(), name
            assert any(fnmatch(name, pattern) for pattern in kept), name
