"""What is made of the runs; tests/engines has one with vLLM."""

from __future__ import annotations

import pytest

from bench.engine_queue import WARMING, Run, distinct, main, note, shared
from bench.micro.figures import Figures
from preble.tokens import highest, unpack


def run(seconds: float, cpu: float, token: int = 1, steps: int = 10) -> Run:
    return Run(seconds, cpu, steps, [(token, token), (token,)])


def test_ratios_are_the_queue_s_over_the_engine_s_within_each_round():
    figures = Figures()
    note("w", [run(1.0, 0.5), run(4.0, 2.0)], [run(2.0, 0.6, steps=12), run(4.0, 2.4, steps=12)], figures)
    assert figures.metrics["w_direct_tokens_per_s"] == pytest.approx((3 / 1 + 3 / 4) / 2)
    assert figures.metrics["w_throughput_ratio"] == pytest.approx((0.5 + 1.0) / 2)
    assert figures.metrics["w_cpu_ratio"] == pytest.approx(1.2)
    assert figures.metrics["w_steps_ratio"] == pytest.approx(1.2)


def test_ways_that_do_not_give_the_same_tokens_are_not_compared():
    with pytest.raises(ValueError, match="not the same"):
        note("w", [run(1.0, 1.0)], [run(1.0, 1.0, token=2)], Figures())


def test_distinct_prompts_share_no_first_block_and_those_of_tool_use_share_many():
    def first_blocks(prompts: list[bytes]) -> int:
        return len({tuple(unpack(prompt)[:32]) for prompt in prompts})

    assert first_blocks(distinct(2 * WARMING)) == 2 * WARMING
    prompts = shared(100, 2048)
    assert first_blocks(prompts) < 50
    assert all(highest(prompt) < 2048 for prompt in prompts)


def test_without_vllm_it_is_one_line_and_status_2(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["--quick", "--model", str(tmp_path)]) == 2
    assert "vLLM is not installed" in capsys.readouterr().err
