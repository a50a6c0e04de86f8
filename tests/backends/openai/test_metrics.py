"""Pages as vLLM 0.32 and SGLang 0.5.23 give them, shortened."""

from __future__ import annotations

import pytest

from preble.backends import Load
from preble.backends.openai.metrics import (
    Sizes,
    sglang_load,
    sglang_priority,
    sglang_sizes,
    value,
    vllm_load,
    vllm_sizes,
)
from preble.errors import EngineError

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m {5}"} 3.0
vllm:num_requests_running{engine="1",model_name="m {5}"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m {5}"} 7.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m {5}",reason="capacity"} 99.0
vllm:kv_cache_usage_perc{engine="0",model_name="m {5}"} 0.25
vllm:cache_config_info{_block_size_resolved="True",block_size="32",engine="0",num_gpu_blocks="160",x="None"} 1.0
process_open_fds 7
big 1.5e+03 1795262687
unknown NaN
"""
SGLANG = b"""{"timestamp": "2026-11-21T12:08:21", "loads": [
  {"dp_rank": 0, "num_running_reqs": 2, "num_waiting_reqs": 1, "num_used_tokens": 300, "token_usage": 0.1},
  {"dp_rank": 1, "num_running_reqs": 1, "num_waiting_reqs": 0, "num_used_tokens": 20}]}"""


def test_a_metric_is_summed_over_its_labels_and_its_name_is_whole():
    assert value(VLLM, "vllm:num_requests_running") == 5.0
    assert value(VLLM, "vllm:num_requests_waiting") == 7.0
    assert value(VLLM, "process_open_fds") == 7.0
    assert value(VLLM, "big") == 1500.0
    assert value(VLLM, "vllm:num_requests") is None
    assert value(VLLM, "unknown") is None


def test_vllm_s_load_and_sizes():
    assert vllm_load(VLLM, 5120) == Load(5, 7, 1280)
    assert vllm_sizes(VLLM) == Sizes(kv_tokens=5120, block_size=32)


@pytest.mark.parametrize(
    "page",
    [
        "",
        "llamacpp:requests_processing 3",
        'vllm:cache_config_info{block_size="None"} 1.0',
        f'vllm:cache_config_info{{block_size="{"9" * 5000}",num_gpu_blocks="1"}} 1.0',
        f"vllm:num_requests_running {'9' * 5000}",
    ],
)
def test_pages_of_others_tell_nothing(page: str):
    assert vllm_load(page, 5120) is None
    assert vllm_sizes(page) == Sizes()


def test_sglang_s_load_and_sizes():
    assert sglang_load(SGLANG) == Load(3, 1, 320)
    body = b'{"max_total_num_tokens": 5120, "page_size": 16, "max_running_requests": 8, "internal_states": [{}]}'
    assert sglang_sizes(body) == Sizes(5120, 16, 8)
    with pytest.raises(EngineError, match="not understood"):
        sglang_load(b"<html>")
    assert sglang_sizes(b'{"max_total_num_tokens": "5120", "page_size": null, "more": {}}') == Sizes(5120)
    assert sglang_load(b'{"loads": [{"num_running_reqs": null, "num_waiting_reqs": "1"}]}') == Load(0, 1, 0)
    assert sglang_load(b'{"loads": null}') == Load(0, 0, 0)


@pytest.mark.parametrize(
    ("fields", "sign"),
    [
        ('"enable_priority_scheduling": true, "schedule_low_priority_values_first": false', -1),
        ('"enable_priority_scheduling": true, "schedule_low_priority_values_first": true', 1),
        ('"enable_priority_scheduling": true, "schedule_low_priority_values_first": null', -1),
        ('"enable_priority_scheduling": true', -1),
        ('"enable_priority_scheduling": "true", "schedule_low_priority_values_first": "true"', 1),
        ('"enable_priority_scheduling": false, "schedule_low_priority_values_first": true', 0),
        ('"schedule_low_priority_values_first": true', 0),
    ],
)
def test_sglang_tells_what_its_priorities_mean(fields: str, sign: int):
    assert sglang_priority(f"{{{fields}}}".encode()) == sign
