"""A GGUF file that was made of a folder gives that folder again, for our engine and for transformers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import preble.testing.gguf_folder as module
from preble.backends.torch.config import read_config
from preble.errors import ConfigurationError, ModelError
from preble.testing import convert_gguf, make_model
from preble.text import ChatTemplate, Tokenizer
from tests.gguf_files import write_gguf

TINY = {"hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2, "intermediate": 64, "vocab": 300, "context": 128}
CHAT = [{"role": "user", "content": "Grüße, 你好 🙂!"}]


def made(tmp_path: Path, shape: str = "llama", **changes: object) -> tuple[Path, Path]:
    """A folder, and a GGUF file of it."""
    folder = make_model(tmp_path / "model", shape=shape, **TINY)
    return folder, write_gguf(folder, tmp_path / "model.gguf", tokenizer=True, **changes)


@pytest.mark.parametrize("shape", ["llama", "qwen2", "qwen3"])
def test_weights_configuration_tokenizer_and_template_are_those_of_the_folder(tmp_path, shape):
    folder, file = made(tmp_path, shape)
    copy = convert_gguf(file, tmp_path / "copy")
    wanted, got = load_file(folder / "model.safetensors"), load_file(copy / "model.safetensors")
    assert wanted.keys() == got.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(got[name], values, name)
    assert read_config(copy) == read_config(folder)
    text = ChatTemplate.load(folder).render(CHAT)
    assert ChatTemplate.load(copy).render(CHAT) == text
    assert Tokenizer.load(copy).encode(text) == Tokenizer.load(folder).encode(text)


@pytest.mark.parametrize("shape", ["llama", "qwen2", "qwen3"])
def test_transformers_finds_nothing_missing_and_computes_the_same(tmp_path, shape):
    folder, file = made(tmp_path, shape)
    copy = convert_gguf(file, tmp_path / "copy")
    model, report = AutoModelForCausalLM.from_pretrained(copy, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ids = torch.arange(6, 40)[None]
    assert torch.equal(model(ids).logits, AutoModelForCausalLM.from_pretrained(folder)(ids).logits)
    ours, theirs = AutoTokenizer.from_pretrained(copy), AutoTokenizer.from_pretrained(folder)
    said = ours.apply_chat_template(CHAT, add_generation_prompt=True)
    assert said == theirs.apply_chat_template(CHAT, add_generation_prompt=True)
    assert (ours.bos_token, ours.eos_token) == (theirs.bos_token, theirs.eos_token)


def test_quantized_weights_are_taken_apart_to_float32(tmp_path):
    folder, file = made(tmp_path, kind="Q8_0")
    name = "model.layers.1.self_attn.k_proj.weight"
    wanted = load_file(folder / "model.safetensors")[name]
    got = load_file(convert_gguf(file, tmp_path / "copy") / "model.safetensors")[name]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, atol=0.01)
    assert not np.array_equal(got, wanted)


def test_several_end_tokens_and_templates_are_kept(tmp_path):
    changed = {
        "tokenizer.ggml.eot_token_id": 7,
        "tokenizer.chat_templates": ["tool_use"],
        "tokenizer.chat_template.tool_use": "with tools",
    }
    _, file = made(tmp_path, changed=changed)
    copy = convert_gguf(file, tmp_path / "copy")
    assert json.loads((copy / "generation_config.json").read_text())["eos_token_id"] == [2, 7]
    assert ChatTemplate.load(copy).render(CHAT, tools=[{"name": "look"}]) == "with tools"


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_a_stretched_rotation_stays_stretched(tmp_path, kind):
    scaling = {"type": kind, "factor": 4.0, "original_context_length": 32}
    changed = {f"llama.rope.scaling.{name}": value for name, value in scaling.items()}
    _, file = made(tmp_path, changed=changed)
    assert read_config(convert_gguf(file, tmp_path / "copy")).rope == read_config(file).rope


def test_factors_without_a_name_are_refused_and_nothing_is_left(tmp_path):
    _, file = made(tmp_path, tensors={"rope_freqs.weight": np.full(8, 2.0, np.float32)})
    with pytest.raises(ModelError, match="rope_freqs"):
        convert_gguf(file, tmp_path / "new" / "copy")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_folder_that_is_there_is_kept(tmp_path):
    (tmp_path / "copy").mkdir()
    assert convert_gguf(tmp_path / "none.gguf", tmp_path / "copy") == tmp_path / "copy"
    assert list((tmp_path / "copy").iterdir()) == []


def test_another_process_may_be_sooner(tmp_path, monkeypatch):
    folder, file = made(tmp_path)
    write = module._write

    def slowly(file: Path, scratch: Path) -> None:
        write(file, scratch)
        monkeypatch.setattr(module, "_write", write)
        convert_gguf(file, tmp_path / "copy")

    monkeypatch.setattr(module, "_write", slowly)
    assert read_config(convert_gguf(file, tmp_path / "copy")) == read_config(folder)


def test_without_torch_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "preble.backends.torch.gguf", None)
    _, file = made(tmp_path)
    with pytest.raises(ConfigurationError, match=r"preble\[torch,gguf\]"):
        convert_gguf(file, tmp_path / "copy")
