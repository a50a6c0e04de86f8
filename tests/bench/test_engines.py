from __future__ import annotations

from bench.engines import engine_options

SIZES = {"kv_tokens": 1000, "context_limit": 500, "block_size": 16, "max_running": 8, "max_batched_tokens": 256}


def test_vllm_gets_whole_blocks_of_32_and_one_that_stands_for_none():
    options = engine_options("vllm", **SIZES)
    assert (options["block_size"], options["num_gpu_blocks_override"]) == (32, 1000 // 32 + 1)
    assert (options["max_model_len"], options["max_num_seqs"], options["max_num_batched_tokens"]) == (500, 8, 256)


def test_vllm_is_not_asked_for_a_context_that_its_cache_has_no_room_for():
    assert engine_options("vllm", kv_tokens=1000)["max_model_len"] == 1000 // 32 * 32
    assert engine_options("vllm", kv_tokens=100, context_limit=500)["max_model_len"] == 96
    assert "max_model_len" not in engine_options("vllm", block_size=32)


def test_sglang_is_not_asked_for_a_longer_context_than_the_model_may_have():
    options = engine_options("sglang", **SIZES)
    assert (options["max_total_tokens"], options["page_size"], options["context_length"]) == (1000, 16, 500)
    assert (options["max_running_requests"], options["chunked_prefill_size"]) == (8, 256)


def test_tokens_can_be_compared():
    assert engine_options("vllm")["dtype"] == engine_options("sglang")["dtype"] == "float32"


def test_our_own_engines_take_the_sizes_as_they_are():
    assert engine_options("torch", **SIZES) == engine_options("sim", **SIZES) == SIZES
