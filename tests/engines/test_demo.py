"""The demo's load test on the real engines: both policies' tokens are the same, and every prompt was served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="the demo draws")
pytest.importorskip("rich", reason="the demo shows a table")

from bench.demo.__main__ import main
from preble.testing import make_model
from tests.engines.conformance import require


@pytest.mark.parametrize("backend", ["vllm", "sglang"])
def test_both_policies_give_the_same_tokens(backend: str, tmp_path: Path):
    require(backend)
    model = make_model(tmp_path / "model", hidden=64, layers=2, heads=2, kv_heads=1, intermediate=128, vocab=2048)
    out = tmp_path / "out"
    assert main(["--quick", "--seconds", "1", "--backend", backend, "--model", str(model), "--out", str(out)]) == 0
    result = json.loads((out / "result.json").read_text())
    assert result.keys() == {"backend", "load"}
    assert (result["backend"], result["load"]["same_tokens"]) == (backend, True)
    for policy in result["load"]["policies"].values():
        assert policy["requests"] >= 24
        assert 0 < policy["cached_tokens"] < policy["prompt_tokens"]
