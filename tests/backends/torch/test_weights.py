"""Weights come from one file or several; what is wrong with them is named."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from preble.backends.torch.config import read_config
from preble.backends.torch.weights import load_weights
from preble.errors import ModelError
from tests.backends.torch.network import Network, prompt


def load(folder):
    return load_weights(folder, read_config(folder), torch.float32, torch.device("cpu"))


@pytest.fixture
def copy(build, tmp_path):
    return shutil.copytree(build("llama"), tmp_path / "copy")


def change(folder, **tensors):
    path = folder / "model.safetensors"
    loaded = load_file(path) | {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    save_file({name: tensor for name, tensor in loaded.items() if tensor is not None}, path)


def test_shards(build):
    folder = build("llama", "100KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    tokens = prompt(40)
    assert torch.equal(Network(folder).run(tokens, [40]), Network(build("llama")).run(tokens, [40]))


def test_missing_shard(build, tmp_path):
    folder = shutil.copytree(build("llama", "100KB"), tmp_path / "copy")
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ModelError, match=shard.name):
        load(folder)


@pytest.mark.parametrize("index", ["nonsense", '{"weight_map": {"a": "../other.safetensors"}}'])
def test_bad_index(copy, index):
    (copy / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ModelError, match=r"model\.safetensors\.index\.json"):
        load(copy)


def test_missing_tensor(copy):
    change(copy, model__layers__1__mlp__up_proj__weight=None)
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight is missing"):
        load(copy)


@pytest.mark.parametrize("tensor", [torch.zeros(63), torch.zeros(64, dtype=torch.int8)])
def test_wrong_tensor(copy, tensor):
    change(copy, model__norm__weight=tensor)
    with pytest.raises(ModelError, match=r"model\.norm\.weight is torch\.\w+ \[\d+\], want floats \[64\]"):
        load(copy)


def test_no_weights_and_damaged_weights(copy):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load(copy)
    path.unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors: no such file"):
        load(copy)


def test_a_tied_model_needs_no_head(build):
    names = load_file(build("llama-tied") / "model.safetensors")
    assert "lm_head.weight" not in names
    assert json.loads((build("llama-tied") / "config.json").read_text())["tie_word_embeddings"]
    assert load(build("llama-tied")).embedding.shape == (320, 64)
