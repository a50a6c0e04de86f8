from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from preble.errors import ConfigurationError
from preble.testing import CHAT_TEMPLATE, SHAPES, SIZES, SPECIAL_TOKENS, main, make_model

TINY = {"hidden": 32, "layers": 2, "heads": 4, "kv_heads": 2, "intermediate": 48, "vocab": 300, "context": 128}


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_two_builds_are_byte_identical(tmp_path):
    first = contents(make_model(tmp_path / "a"))
    code = "import sys; from preble.testing import make_model; make_model(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "b")], check=True)
    assert first == contents(tmp_path / "b")
    assert set(first) == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_needs_neither_torch_nor_transformers(tmp_path):
    code = (
        "import sys; from preble.testing import make_model; make_model(sys.argv[1], vocab=300);"
        "assert not {'torch', 'transformers', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_loads_every_shape_completely_and_generates(tmp_path, shape):
    make_model(tmp_path, shape=shape, **TINY)
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    assert type(model).__name__ == SHAPES[shape][0]
    stored = load_torch_file(tmp_path / "model.safetensors")
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())
    output = model.generate(torch.arange(6, 22)[None], max_new_tokens=8, min_new_tokens=8, do_sample=False)
    assert output.shape == (1, 24)


def test_greedy_output_depends_on_the_first_token(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(make_model(tmp_path))
    prompts = torch.tensor([[6 + 7 * i % 4000 for i in range(64)]] * 2)
    prompts[1, 0] = 99
    first, second = model.generate(prompts, max_new_tokens=16, min_new_tokens=16, do_sample=False)[:, 64:].tolist()
    assert first != second
    assert len(set(first)) > 8


def test_default_size_is_five_million_parameters_and_the_other_is_82(tmp_path):
    weights = load_file(make_model(tmp_path) / "model.safetensors")
    assert sum(value.size for value in weights.values()) == pytest.approx(5.05e6, rel=0.01)
    assert abs(weights["lm_head.weight"].std() - 0.08) < 1e-3
    assert (weights["model.norm.weight"] == 1).all()
    big = SIZES["82m"]
    layer = big["hidden"] ** 2 * (2 + 2 * big["kv_heads"] / big["heads"]) + 3 * big["hidden"] * big["intermediate"]
    assert big["layers"] * layer + 2 * 4096 * big["hidden"] == pytest.approx(82e6, rel=0.01)


def test_seed_changes_the_weights_only(tmp_path):
    one, two = contents(make_model(tmp_path / "a", **TINY)), contents(make_model(tmp_path / "b", **TINY, seed=1))
    assert {name for name in one if one[name] != two[name]} == {"model.safetensors"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_lower_precision_is_the_rounded_float32(tmp_path, dtype):
    full = load_torch_file(make_model(tmp_path / "a", **TINY) / "model.safetensors")
    half = load_torch_file(make_model(tmp_path / "b", **TINY, dtype=dtype) / "model.safetensors")
    assert all(torch.equal(half[name], full[name].to(getattr(torch, dtype))) for name in full)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "b", dtype="auto").dtype == getattr(torch, dtype)


def test_tokenizer_has_special_ids_first_and_covers_every_byte(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(make_model(tmp_path, **TINY))
    assert tokenizer.convert_ids_to_tokens(list(range(6))) == list(SPECIAL_TOKENS)
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert tokenizer.model_max_length == TINY["context"]
    text = " naïve 🙂 漢字\x00\t"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert 0 not in ids


def test_the_template_shows_tools_calls_and_results(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(make_model(tmp_path, **TINY))
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
    turns = [
        {"role": "user", "content": "Where is it warm?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "21 degrees"},
    ]
    text = tokenizer.apply_chat_template(turns, tools=[tool], tokenize=False, add_generation_prompt=True)
    assert json.dumps(tool) in text
    assert text.endswith(
        '<|user|>Where is it warm?<|end|><|assistant|><tool_call>{"name": "weather", "arguments": {"city": "Rome"}}'
        "</tool_call><|end|><|tool|>21 degrees<|end|><|assistant|>"
    )
    assert tokenizer.apply_chat_template(turns[:1], tokenize=False) == "<|user|>Where is it warm?<|end|>"


def test_vocabulary_larger_than_the_corpus_gives_is_padded(tmp_path):
    make_model(tmp_path, **(TINY | {"vocab": 200_000, "layers": 1}))
    assert json.loads((tmp_path / "config.json").read_text())["vocab_size"] == 200_000
    assert load_file(tmp_path / "model.safetensors")["lm_head.weight"].shape == (200_000, 32)
    assert len(AutoTokenizer.from_pretrained(tmp_path)) < 200_000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shape", "gpt2"),
        ("dtype", "int8"),
        ("hidden", 34),
        ("kv_heads", 3),
        ("vocab", 100),
        ("layers", 0),
        ("context", -1),
    ],
)
def test_bad_arguments_are_named_and_nothing_is_written(tmp_path, name, value):
    with pytest.raises(ConfigurationError, match=name):
        make_model(tmp_path / "model", **(TINY | {name: value}))
    assert not (tmp_path / "model").exists()


def test_command_line_writes_what_the_function_writes(tmp_path, capsys):
    options = [text for name, value in TINY.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    assert main([str(tmp_path / "a"), "--shape", "qwen3", *options]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "a")
    assert contents(tmp_path / "a") == contents(make_model(tmp_path / "b", shape="qwen3", **TINY))
    with pytest.raises(SystemExit):
        main([str(tmp_path / "c"), "--hidden", "7"])
    assert "hidden" in capsys.readouterr().err


def test_weights_are_numpy_readable_normals(tmp_path):
    weights = load_file(make_model(tmp_path, **TINY) / "model.safetensors")
    assert all(value.dtype == np.float32 and np.isfinite(value).all() for value in weights.values())
