"""Settings files of `preble serve`: every argument by its own name, and what is wrong is named."""

from __future__ import annotations

from inspect import signature

import pytest

from preble import ConfigurationError, PrebleCluster
from preble.cli import settings
from preble.cluster.arguments import ConnectKeywords
from preble.serve import create_app

GIVEN_IN_CODE = {"self", "on_event", "pool"}
"""Arguments that a file cannot describe."""


def read(tmp_path, text):
    file = tmp_path / "preble.toml"
    file.write_text(text)
    return settings.settings(settings.table(file), "preble.toml")


def test_a_file_has_the_arguments_of_a_cluster_by_their_names():
    started = set(signature(PrebleCluster.__init__).parameters) - GIVEN_IN_CODE
    connected = set(signature(PrebleCluster.connect).parameters) | set(ConnectKeywords.__annotations__)
    key = {"api_key"}  # a secret: `api_key_env` names the variable that has it
    assert set(settings.Cluster.__struct_fields__) == (started | connected - {"options"} - GIVEN_IN_CODE - key) | {
        "api_key_env"
    }


def test_a_file_has_the_arguments_of_serve_http_by_their_names():
    told = {*signature(PrebleCluster.serve_http).parameters, *signature(create_app).parameters}
    told -= {"self", "options", "cluster", "api_key"}
    assert set(settings.Http.__struct_fields__) == told | {"api_key_env"}


def test_a_file_describes_a_cluster_and_its_face(tmp_path):
    told = read(
        tmp_path,
        """
        backend = "sim"
        workers = 3
        max_in_flight = 7
        engine_options = {kv_blocks = 100}

        [serve]
        port = 0
        served_model_name = ["small", "tiny"]
        """,
    )
    assert told.cluster().backend == "sim"
    assert (told.workers, told.max_in_flight, told.engine_options) == (3, 7, {"kv_blocks": 100})
    assert told.http() == {
        "host": "127.0.0.1",
        "port": 0,
        "served_model_name": ["small", "tiny"],
        "api_key": None,
    }


def test_servers_that_run_already_get_the_key_of_the_variable_that_the_file_names(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    kept = {}
    monkeypatch.setattr(PrebleCluster, "connect", lambda urls, **given: kept.update(given, urls=urls))
    read(tmp_path, 'urls = ["http://127.0.0.1:1/v1"]\napi_key_env = "MY_KEY"\npolicy = "round-robin"').cluster()
    assert kept == {"urls": ["http://127.0.0.1:1/v1"], "api_key": "secret", "policy": "round-robin"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("polcy = 'e2'", ["preble.toml", "polcy", "did you mean 'policy'"]),
        ("[serve]\nprot = 1", ["[serve]", "prot", "did you mean 'port'"]),
        ("workers = 'two'", ["workers", "int", "str"]),
        ("[serve]\nport = 'x'", ["serve.port", "int"]),
        ("api_key = 'x'", ["api_key", "did you mean 'api_key_env'"]),
        ("workers = ", ["preble.toml"]),
    ],
)
def test_a_mistake_in_a_file_is_named(tmp_path, text, words):
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path, text)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize("name", ["kv_events = []", "min_replicas = 2", "api_key_env = 'HOME'"])
def test_arguments_of_running_servers_need_their_urls(tmp_path, name):
    with pytest.raises(ConfigurationError, match=rf"{name.split()[0]}.*urls"):
        read(tmp_path, f"backend = 'sim'\n{name}").cluster()


def test_a_variable_that_does_not_exist_is_an_error(tmp_path, monkeypatch):
    monkeypatch.delenv("NOT_THERE", raising=False)
    with pytest.raises(ConfigurationError, match="NOT_THERE"):
        read(tmp_path, "[serve]\napi_key_env = 'NOT_THERE'").http()


def test_an_address_that_others_reach_needs_a_token(tmp_path, monkeypatch):
    monkeypatch.delenv(settings.KEY, raising=False)
    told = read(tmp_path, "[serve]\nhost = '0.0.0.0'")
    with pytest.raises(ConfigurationError, match=settings.KEY):
        told.http()
    monkeypatch.setenv(settings.KEY, "token")
    assert told.http()["api_key"] == "token"


def test_a_file_that_is_not_text_is_an_error(tmp_path):
    (tmp_path / "preble.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match=r"preble\.toml"):
        settings.table(tmp_path / "preble.toml")
