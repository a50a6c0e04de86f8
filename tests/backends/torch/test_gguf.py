"""A GGUF file gives the logits of the same weights in a Hugging Face folder; what is not served is refused by name."""

from __future__ import annotations

import contextlib
import json
import math
import shutil

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from preble.backends.torch.config import read_config
from preble.backends.torch.gguf import open_gguf
from preble.backends.torch.weights import load_weights
from preble.errors import ConfigurationError, ModelError
from preble.model_files.gguf import read_gguf
from tests.backends.torch.network import Network, prompt
from tests.gguf_files import write_gguf

LENGTH = 200
SHAPES = ["llama", "llama-tied", "llama-biases", "llama-all-heads", "linear-rope", "yarn-rope", "qwen2", "qwen2-tied",
          "qwen3", "qwen3-one-kv-head"]  # fmt: skip
CPU = torch.device("cpu")


def logits(path):
    return Network(path).run(prompt(LENGTH), [LENGTH - 1, 1])


def rounded(folder, copy, kind):
    """A copy of a folder whose matrices hold what is left of them in a quantization."""
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors")
    quantization = gguf.GGMLQuantizationType[kind]
    for name, values in weights.items():
        if values.ndim > 1:
            weights[name] = gguf.dequantize(gguf.quantize(values, quantization), quantization)
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    return copy


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_those_of_the_folder(build, tmp_path, shape):
    folder = build(shape)
    path = write_gguf(folder, tmp_path / "model.gguf")
    assert torch.equal(logits(path), logits(folder))


def test_llama_3_stretches_its_rotation_as_the_folder_does(build, tmp_path):
    path = write_gguf(build("llama3-rope"), tmp_path / "model.gguf")
    torch.testing.assert_close(logits(path), logits(build("llama3-rope")), rtol=1e-4, atol=1e-4)
    unstretched = write_gguf(build("llama3-rope"), tmp_path / "plain.gguf", tensors={"rope_freqs.weight": None})
    assert (logits(unstretched) - logits(build("llama3-rope"))).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
@pytest.mark.parametrize("shape", ["llama", "qwen3"])
def test_quantized_weights_are_those_of_the_folder(build, tmp_path, shape, kind):
    path = write_gguf(build(shape), tmp_path / "model.gguf", kind=kind)
    assert torch.equal(logits(path), logits(rounded(build(shape), tmp_path / "copy", kind)))
    assert not torch.equal(logits(path), logits(build(shape)))


PACKED = [kind for kind in gguf.GGMLQuantizationType if kind in gguf.quants._type_traits]


@pytest.mark.parametrize("kind", PACKED, ids=lambda kind: kind.name)
def test_every_quantization_of_the_package_is_read(tmp_path, kind):
    """Its values are whatever random bytes below infinity mean: most kinds can be taken apart there, but not made."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(0).integers(0, 120, (6, 512 // block * size), np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "qwen2")
    writer.add_block_count(0)
    writer.add_tensor("token_embd.weight", raw, raw_dtype=kind)
    writer.add_tensor("output_norm.weight", np.ones(512, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    read = open_gguf(tmp_path / "model.gguf")["model.embed_tokens.weight"].read()
    assert read.shape == (6, 512)
    assert read.dtype == torch.float32
    np.testing.assert_array_equal(read.numpy(), gguf.dequantize(raw, kind))


@pytest.mark.parametrize("shape", [*SHAPES, "llama3-rope"])
def test_the_configuration_is_that_of_the_folder(build, tmp_path, shape):
    ours = read_config(write_gguf(build(shape), tmp_path / "model.gguf"))
    theirs = read_config(build(shape))
    assert {name for name in ours.__struct_fields__ if getattr(ours, name) != getattr(theirs, name)} <= {"rope"}
    assert ours.rope.theta == theirs.rope.theta
    if shape != "llama3-rope":
        assert (ours.rope.kind, ours.rope.factor) == (theirs.rope.kind, theirs.rope.factor)


@pytest.mark.parametrize(
    ("kind", "dtype"), [("F32", "float32"), ("F16", "float16"), ("BF16", "bfloat16"), ("Q8_0", "float32")]
)
def test_the_dtype_is_that_of_the_matrices(build, tmp_path, kind, dtype):
    assert read_config(write_gguf(build("qwen2"), tmp_path / "model.gguf", kind=kind)).dtype == dtype


def test_end_tokens_are_all_that_the_file_names(build, tmp_path):
    ends = {"tokenizer.ggml.eos_token_id": 7, "tokenizer.ggml.eot_token_id": 9, "tokenizer.ggml.eom_token_id": 7}
    assert read_config(write_gguf(build("llama"), tmp_path / "m.gguf", changed=ends)).eos_token_ids == (7, 9)


def refused(folder, path, match, **options):
    write_gguf(folder, path, **options)
    with pytest.raises(ModelError, match=match) as caught:
        load_weights(path, read_config(path), torch.float32, CPU)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"llama.block_count": None}, r"key llama\.block_count is missing"),
        ({"llama.attention.layer_norm_rms_epsilon": None}, r"key llama\.attention\.layer_norm_rms_epsilon is missing"),
        ({"llama.embedding_length": "wide"}, r"llama\.embedding_length is of the type str, not int"),
        ({"llama.attention.head_count": 0}, "num_attention_heads 0"),
        ({"llama.attention.head_count_kv": [2, 2, 1]}, r"llama\.attention\.head_count_kv is of the type list"),
        ({"llama.expert_count": 8}, r"llama\.expert_count 8 is not supported"),
        ({"llama.logit_scale": 0.5}, r"llama\.logit_scale 0.5 is not supported"),
        ({"llama.rope.dimension_count": 8}, r"llama\.rope\.dimension_count 8 is not that of a head, 16"),
        ({"llama.rope.scaling.type": "longrope"}, "rope scaling 'longrope'"),
        ({"llama.rope.freq_base": 1.0}, "rope_theta 1 is not above 1"),
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": math.inf}, "rope scaling factor inf"),
        ({"llama.context_length": 0}, "max_position_embeddings is below 2"),
        ({"split.count": 3}, "one of 3 parts"),
        ({"general.alignment": 0}, r"general\.alignment is 0"),
    ],
)
def test_metadata_that_it_cannot_serve(build, tmp_path, changed, match):
    refused(build("llama"), tmp_path / "model.gguf", match, changed=changed)


@pytest.mark.parametrize("value", ["text", 7, 2.5, True, [1, 2], ["a"]])
def test_no_value_of_a_key_is_another_error(build, tmp_path, value):
    path = write_gguf(build("llama"), tmp_path / "model.gguf")
    for key in read_gguf(path).metadata:
        write_gguf(
            build("llama"), path, changed={key: value} if key != "general.architecture" else {"general.name": value}
        )
        with contextlib.suppress(ModelError, ConfigurationError):
            load_weights(path, read_config(path), torch.float32, CPU)


@given(at=st.integers(0, 3000), byte=st.integers(0, 255))
def test_no_damage_is_another_error(build, tmp_path_factory, at, byte):
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    if not path.exists() or at == 0:
        write_gguf(build("llama"), path)
    content = bytearray(path.read_bytes())
    content[at] = byte
    damaged = path.with_suffix(".now")
    damaged.write_bytes(content)
    with contextlib.suppress(ModelError, ConfigurationError):
        load_weights(damaged, read_config(damaged), torch.float32, CPU)


def test_another_architecture(build, tmp_path):
    refused(build("llama"), tmp_path / "model.gguf", "architecture 'gemma3' is none of llama", architecture="gemma3")


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"token_embd.weight": None}, r"tensor token_embd\.weight is missing"),
        ({"blk.1.ffn_up.weight": None}, r"tensor blk\.1\.ffn_up\.weight is missing"),
        ({"output_norm.weight": None}, r"tensor output_norm\.weight is missing"),
        ({"blk.0.ssm_a.weight": np.ones((2, 32), np.float32)}, r"tensor blk\.0\.ssm_a\.weight is none that a llama"),
        ({"blk.0.attn_q.weight": np.ones((63, 64), np.float32)}, r"blk\.0\.attn_q\.weight is torch.float32 \[63, 64\]"),
        ({"rope_freqs.weight": np.ones(3, np.float32)}, "3 divisors of rope frequencies"),
    ],
)
def test_tensors_that_it_cannot_serve(build, tmp_path, tensors, match):
    refused(build("llama"), tmp_path / "model.gguf", match, tensors=tensors)


def test_qwen3_needs_its_head_norms(build, tmp_path):
    match = r"tensor blk\.0\.attn_k_norm\.weight is missing"
    refused(build("qwen3"), tmp_path / "model.gguf", match, tensors={"blk.0.attn_k_norm.weight": None})


def test_a_quantization_that_cannot_be_taken_apart(build, tmp_path, monkeypatch):
    def unknown(*_):
        raise NotImplementedError

    path = write_gguf(build("llama"), tmp_path / "model.gguf", kind="Q8_0")
    monkeypatch.setattr(gguf, "dequantize", unknown)
    with pytest.raises(ModelError, match=r"token_embd\.weight is quantized as Q8_0"):
        load_weights(path, read_config(path), torch.float32, CPU)


@pytest.mark.parametrize("size", [0, 3, 4, 7, 20, 100, 700, 3000, 50_000])
def test_a_file_that_ends_too_early(build, tmp_path, size):
    path = write_gguf(build("llama"), tmp_path / "model.gguf")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ModelError, match=r"model\.gguf: (not a GGUF file|the file is damaged|the file ends)"):
        load_weights(path, read_config(path), torch.float32, CPU)


def test_the_last_byte_is_missed(build, tmp_path):
    path = write_gguf(build("llama"), tmp_path / "model.gguf")
    path.write_bytes(path.read_bytes().rstrip(b"\0")[:-1])
    with pytest.raises(ModelError, match=r"the file ends before output_norm\.weight does"):
        load_weights(path, read_config(path), torch.float32, CPU)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"GGML" + bytes(60), "not a GGUF file"),
        (b"GGUF" + (1).to_bytes(4, "little") + bytes(60), "version 1, want 2 or 3"),
        (b"GGUF" + (3).to_bytes(4, "big") + bytes(60), "little-endian"),
        (b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 60, "damaged"),
        (json.dumps({"model_type": "llama"}).encode(), "not a GGUF file"),
    ],
)
def test_what_is_no_gguf_file(tmp_path, content, match):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=match):
        read_config(path)


def test_without_the_package_it_says_what_to_install(build, tmp_path, monkeypatch):
    path = write_gguf(build("llama"), tmp_path / "model.gguf")
    config = read_config(path)
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(ConfigurationError, match=r"pip install \"preble\[gguf\]\""):
        load_weights(path, config, torch.float32, CPU)
