from __future__ import annotations

import json
from typing import Any

import pytest

from preble.backends import EngineRequest, Load
from preble.backends.sglang.engine import SGLangEngine
from preble.backends.sglang.options import arguments
from preble.errors import ConfigurationError, EngineError, ModelError
from preble.tokens import pack
from preble.types import SamplingParams


def given(cpu: bool = True, **options: Any) -> dict[str, Any]:
    return arguments("m", options, cpu=cpu, events="ipc:///e", replay="ipc:///r")


def test_what_the_user_says_goes_before_defaults():
    assert given()["page_size"] == 16
    assert given(page_size=32, sleep_on_idle=False) == given() | {"page_size": 32, "sleep_on_idle": False}


def test_a_cpu_gets_what_runs_there_and_a_gpu_what_sglang_chooses():
    assert given()["attention_backend"] == "torch_native"
    assert not {"device", "attention_backend", "page_size", "max_total_tokens"} & given(cpu=False).keys()
    assert "max_total_tokens" not in given(mem_fraction_static=0.1)


def test_events_are_published_where_they_are_read():
    events = json.loads(given()["kv_events_config"])
    assert (events["endpoint"], events["replay_endpoint"], events["publisher"]) == ("ipc:///e", "ipc:///r", "zmq")


@pytest.mark.parametrize(
    "options",
    [{"kv_events_config": "{}"}, {"dp_size": 2}, {"incremental_streaming_output": False}, {"discipline": "chaos"}],
    ids=str,
)
def test_what_is_not_the_users_to_set_is_refused_before_sglang_is_loaded(tmp_path, options):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        SGLangEngine(model=str(tmp_path), **options)


async def test_after_the_close_there_is_no_news():
    """A worker asks once more before it says that it has stopped."""
    engine = SGLangEngine(model="m")
    await engine.close()
    await engine.close()
    assert (engine.cache_events(), engine.load()) == ([], Load(0, 0, 0))
    with pytest.raises(EngineError, match="closed"):
        engine.generate(EngineRequest(1, pack([1]), SamplingParams()))


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json"):
        SGLangEngine(model=str(tmp_path))
    with pytest.raises(ConfigurationError, match="model"):
        SGLangEngine()
