"""The load and the sizes that vLLM and SGLang publish."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import Meta

from preble.backends import Load
from preble.backends.openai.http import decoded


class Sizes(msgspec.Struct, frozen=True):
    """Sizes of a server in tokens, None where it does not publish them."""

    kv_tokens: int | None = None
    block_size: int | None = None
    max_running: int | None = None


_Count = Annotated[int, Meta(ge=0, le=1 << 40)]


class _SglangLoad(msgspec.Struct):
    num_running_reqs: _Count | None = None
    num_waiting_reqs: _Count | None = None
    num_used_tokens: _Count | None = None


class _SglangLoads(msgspec.Struct):
    loads: list[_SglangLoad] | None = None


class _SglangInfo(msgspec.Struct):
    max_total_num_tokens: int | None = None
    page_size: int | None = None
    max_running_requests: int | None = None
    enable_priority_scheduling: bool | None = None
    schedule_low_priority_values_first: bool | None = None


_NUMBER = r"\d{1,18}(?:\.\d{1,40})?(?:[eE][-+]?\d{1,2})?"  # and no NaN
_DIGITS = 18  # more make no size
_loads = msgspec.json.Decoder(_SglangLoads, strict=False)
_info = msgspec.json.Decoder(_SglangInfo, strict=False)


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
    if not all(each.isdecimal() and len(each) <= _DIGITS for each in (block, blocks)):
        return Sizes()
    return Sizes(kv_tokens=int(block) * int(blocks), block_size=int(block))


def sglang_load(body: bytes) -> Load:
    """Return the load in a response of `/v1/loads`, summed over ranks. Raises EngineError if it is malformed."""
    loads = decoded(body, _loads).loads or []
    running, waiting = (
        sum(each.num_running_reqs or 0 for each in loads),
        sum(each.num_waiting_reqs or 0 for each in loads),
    )
    return Load(running, waiting, sum(each.num_used_tokens or 0 for each in loads))


def sglang_sizes(body: bytes) -> Sizes:
    """Return the sizes in a response of `/server_info`. Raises EngineError if it is malformed."""
    info = decoded(body, _info)
    return Sizes(info.max_total_num_tokens, info.page_size, info.max_running_requests)


def sglang_priority(body: bytes) -> int:
    """Return by what to multiply a priority of ours, where a lower number is more urgent.

    That is 1 or -1, or 0 if the server takes no notice of priorities, as SGLang does by default. Raises EngineError.
    """
    info = decoded(body, _info)
    if not info.enable_priority_scheduling:
        return 0
    return 1 if info.schedule_low_priority_values_first else -1
