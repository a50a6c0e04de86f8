from __future__ import annotations

import json

import pytest

from bench.gpu.__main__ import main, parse, workloads
from bench.gpu.shapes import SHAPES, write_config
from bench.gpu.wheels import needs
from preble.backends.torch.config import read_config


def test_a_run_on_the_cpu_goes_the_way_of_one_on_a_gpu(tmp_path, capsys):
    report, page = tmp_path / "report.json", tmp_path / "page.md"
    options = ["--quick", "--out", str(tmp_path), "--requests", "6", "--calibration", "4", "--workers", "1"]
    options += ["--policy", "e2"]
    assert main([*options, "--json", str(report), "--markdown", str(page)]) == 0
    result = json.loads(report.read_text())
    assert result["metrics"]["toolbench_e2_live_ttft_mean"] > 0
    assert result["calibrations"]["toolbench"]["cost"]["pieces"]
    assert result["setting"]["options"] == {"device": "cpu", "load_format": "dummy"}
    assert "python -m bench.gpu --quick" in page.read_text()
    assert "A prefill of n tokens" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "toy").iterdir()] == ["config.json"]


def test_a_gpu_that_is_not_there_is_one_line_and_status_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # the workers see none, on a machine with GPUs too
    assert main(["--shape", "toy", "--out", str(tmp_path)]) == 2
    assert "no CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "billions"), [("1b", 1.236), ("8b", 8.030)])
def test_the_shapes_are_those_of_the_models_and_their_workers_fit(name, billions, tmp_path):
    shape = SHAPES[name]
    assert shape.parameters / 1e9 == pytest.approx(billions, abs=0.001)
    assert shape.workers * shape.bytes(2) < 70e9
    config = read_config(write_config(tmp_path, shape, "bfloat16"))
    assert (config.hidden, config.layers, config.kv_heads, config.tied) == (
        shape.hidden, shape.layers, shape.kv_heads, shape.tied
    )  # fmt: skip
    assert (config.vocab_size, config.context_limit, config.dtype) == (128_256, shape.context_limit, "bfloat16")


def test_a_large_model_gets_whole_prompts_that_fit_its_context():
    arguments = parse(["--requests", "30"])
    whole, cut = workloads(arguments, SHAPES["8b"]), workloads(arguments, SHAPES["toy"])
    for name, requests in whole.items():
        assert requests[0].prompt_tokens > 1.9 * cut[name][0].prompt_tokens
        assert max(request.prompt_tokens + request.output_tokens for request in requests) < SHAPES["8b"].context_limit


def test_what_a_bare_machine_needs_is_what_the_project_depends_on_without_numpy():
    names = {need.partition(">")[0] for need in needs()}
    assert {"jinja2", "msgspec", "pyzmq", "sortedcontainers", "tokenizers", "uvloop", "safetensors"} <= names
    assert "numpy" not in names
