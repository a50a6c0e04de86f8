"""The load and the sizes that vLLM and SGLang publish."""

from __future__ import annotations

import re

import msgspec

from preble.backends import Load
from preble.backends.openai.http import decoded


class Sizes(msgspec.Struct, frozen=True):
    """Sizes of a server in tokens, None where it does not publish them."""

    kv_tokens: int | None = None
    block_size: int | None = None
    max_running: int | None = None


class _SglangLoad(msgspec.Struct):
    num_running_reqs: int = 0
    num_waiting_reqs: int = 0
    num_used_tokens: int = 0


class _SglangLoads(msgspec.Struct):
    loads: list[_SglangLoad] = []


class _SglangInfo(msgspec.Struct):
    max_total_num_tokens: int | None = None
    page_size: int | None = None
    max_running_requests: int | None = None


_NUMBER = r"\d+(?:\.\d+)?(?:[eE][-+]?\d{1,2})?"  # and no NaN
_loads = msgspec.json.Decoder(_SglangLoads)
_info = msgspec.json.Decoder(_SglangInfo)


def value(page: str, name: str) -> float | None:
    """Return the sum over all label sets of a metric on a Prometheus page; None if the metric is not there."""
    found = re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? ({_NUMBER})(?: |$)", page, re.MULTILINE)
    return sum(map(float, found)) if found else None


def vllm_load(page: str, kv_tokens: int) -> Load | None:
    """Return the load on vLLM's page of metrics; None if the page has none."""
    running, waiting = value(page, "vllm:num_requests_running"), value(page, "vllm:num_requests_waiting")
    if running is None or waiting is None:
        return None
    usage = value(page, "vllm:kv_cache_usage_perc") or 0.0
    return Load(int(running), int(waiting), round(usage * kv_tokens))


def vllm_sizes(page: str) -> Sizes:
    """Return the size of the KV cache on vLLM's page of metrics."""
    line = re.search(r"^vllm:cache_config_info\{(.*)\} ", page, re.MULTILINE)
    labels = dict(re.findall(r'(\w+)="([^"]*)"', line[1])) if line else {}
    block, blocks = labels.get("block_size", ""), labels.get("num_gpu_blocks", "")
    if not (block.isdecimal() and blocks.isdecimal()):
        return Sizes()
    return Sizes(kv_tokens=int(block) * int(blocks), block_size=int(block))


def sglang_load(body: bytes) -> Load:
    """Return the load in a response of `/v1/loads`, summed over ranks. Raises EngineError if it is malformed."""
    loads = decoded(body, _loads).loads
    running, waiting = sum(each.num_running_reqs for each in loads), sum(each.num_waiting_reqs for each in loads)
    return Load(running, waiting, sum(each.num_used_tokens for each in loads))


def sglang_sizes(body: bytes) -> Sizes:
    """Return the sizes in a response of `/server_info`. Raises EngineError if it is malformed."""
    info = decoded(body, _info)
    return Sizes(info.max_total_num_tokens, info.page_size, info.max_running_requests)
