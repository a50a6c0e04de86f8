"""A GGUF file as the engine reads a Hugging Face folder: the entries of config.json, and tensors by their names there.

The values are taken apart by the package `gguf`, with numpy.
"""

from __future__ import annotations

import math
import re
from functools import partial
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from preble.backends.torch.stored import StoredTensor
from preble.errors import ConfigurationError, ModelError
from preble.model_files.gguf import GgufFile, TensorEntry, read_gguf

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""Values of `general.architecture` that are served."""

_ENDS = ("eos", "eot", "eom")
_REFUSED = ("expert_count", "logit_scale", "attention.scale", "residual_scale", "embedding_scale", "rope.scaling.alpha",
            "rope.scaling.attn_factor", "rope.scaling.yarn_log_multiplier", "rope.scaling.yarn_ext_factor",
            "rope.scaling.yarn_attn_factor")  # fmt: skip
"""Keys that ask for another computation, unless they are 0 or 1."""

_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ROPE_FACTORS = "rope_freqs.weight"
_NAME = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")

_F16, _BF16 = 1, 30


def config_entries(path: Path) -> dict[str, Any]:
    """Return what config.json of the same model would say. Raises ModelError naming the key that is wrong."""
    file = read_gguf(path)
    architecture = _architecture(file)
    if architecture not in ARCHITECTURES:
        raise ModelError(f"{path}: architecture {architecture!r} is none of {', '.join(ARCHITECTURES)}")
    for name in _REFUSED:
        if (value := file.metadata.get(f"{architecture}.{name}", 0)) not in (0, 1):
            raise ModelError(f"{path}: {architecture}.{name} {value} is not supported")
    return _sizes(file, architecture) | {
        "model_type": architecture,
        "rope_parameters": _rope(file, architecture),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "dtype": _dtype(file),
        "eos_token_id": _end_tokens(file),
    }


def open_gguf(path: Path) -> dict[str, StoredTensor]:
    """Return what is stored, by the names of a Hugging Face folder. Each is read as float32.

    Raises ModelError for a tensor that is missing, unknown or of an unknown quantization, and for a short file.
    """
    file, package = read_gguf(path), _package()
    layers = file.require(f"{_architecture(file)}.block_count", int)
    tensors: dict[str, StoredTensor] = {}
    for name, entry in file.tensors.items():
        _check_extent(file, name, entry, package)
        if name != _ROPE_FACTORS:
            tensors[_hub_name(file, name)] = StoredTensor(path, name, partial(_read, file, name, package))
    _check_complete(file, layers)
    return tensors


def _architecture(file: GgufFile) -> str:
    return file.require("general.architecture", str)


def _sizes(file: GgufFile, architecture: str) -> dict[str, Any]:
    def key(name: str) -> str:
        return f"{architecture}.{name}"

    return {
        "vocab_size": _vocab_size(file),
        "hidden_size": file.require(key("embedding_length"), int),
        "num_hidden_layers": file.require(key("block_count"), int),
        "num_attention_heads": file.require(key("attention.head_count"), int),
        "num_key_value_heads": file.get(key("attention.head_count_kv"), int),
        "head_dim": _head_dim(file, architecture),
        "intermediate_size": file.require(key("feed_forward_length"), int),
        "max_position_embeddings": file.require(key("context_length"), int),
        "rms_norm_eps": _shortest(file.require(key("attention.layer_norm_rms_epsilon"), float)),
        "sliding_window": file.get(key("attention.sliding_window"), int),
    }


def _head_dim(file: GgufFile, architecture: str) -> int:
    """Return the size of a head. Raises ModelError if values are of another size, or only a part is rotated."""
    heads = file.require(f"{architecture}.attention.head_count", int)
    shared = file.require(f"{architecture}.embedding_length", int) // max(1, heads)
    head_dim = file.get(f"{architecture}.attention.key_length", int) or shared
    for key in (f"{architecture}.attention.value_length", f"{architecture}.rope.dimension_count"):
        if (value := file.get(key, int)) not in (None, head_dim):
            raise ModelError(f"{file.path}: {key} {value} is not that of a head, {head_dim}")
    return head_dim


def _vocab_size(file: GgufFile) -> int:
    if "token_embd.weight" not in file.tensors:
        raise ModelError(f"{file.path}: tensor token_embd.weight is missing")
    return file.tensors["token_embd.weight"].shape[0]


def _rope(file: GgufFile, architecture: str) -> dict[str, Any]:
    prefix = f"{architecture}.rope."
    kind = file.get(f"{prefix}scaling.type", str) or "none"
    return {
        "rope_type": "default" if kind == "none" else kind,
        "rope_theta": _shortest(file.get(f"{prefix}freq_base", float) or 10000.0),
        "factor": None if kind == "none" else file.get(f"{prefix}scaling.factor", float),
        "original_max_position_embeddings": file.get(f"{prefix}scaling.original_context_length", int),
        "beta_fast": file.get(f"{prefix}scaling.yarn_beta_fast", float),
        "beta_slow": file.get(f"{prefix}scaling.yarn_beta_slow", float),
        "divisors": _divisors(file),
    }


def _divisors(file: GgufFile) -> list[float]:
    """Return what divides the frequencies of the rotation, one for each: how converters write Llama 3's stretching."""
    if _ROPE_FACTORS not in file.tensors:
        return []
    package = _package()
    _check_extent(file, _ROPE_FACTORS, file.tensors[_ROPE_FACTORS], package)
    values: list[float] = _values(file, _ROPE_FACTORS, package).ravel().tolist()
    return values


def _dtype(file: GgufFile) -> str:
    """Return the dtype of the matrices; quantized ones are computed in float32, which is nearest to what they hold."""
    kinds = {entry.type for entry in file.tensors.values() if len(entry.shape) > 1}
    return "float16" if kinds == {_F16} else "bfloat16" if kinds == {_BF16} else "float32"


def _end_tokens(file: GgufFile) -> list[int]:
    ids = (file.get(f"tokenizer.ggml.{name}_token_id", int) for name in _ENDS)
    return list(dict.fromkeys(id for id in ids if id is not None))


def _shortest(value: float) -> float:
    # 9.999999747378752e-06 is what a float32 makes of 1e-05, which the model was trained with.
    return float(str(np.float32(value)))


def _hub_name(file: GgufFile, name: str) -> str:
    if name in _OUTER:
        return _OUTER[name]
    match = _NAME.fullmatch(name)
    if match is None or match[2] not in _LAYER:
        raise ModelError(f"{file.path}: tensor {name} is none that a {_architecture(file)} model has")
    return f"model.layers.{match[1]}.{_LAYER[match[2]]}.{match[3]}"


def _check_complete(file: GgufFile, layers: int) -> None:
    optional = {"attn_q_norm", "attn_k_norm"} if _architecture(file) != "qwen3" else set()
    names = (f"blk.{number}.{part}.weight" for number in range(layers) for part in _LAYER if part not in optional)
    for name in chain(("output_norm.weight",), names):  # lazily: a damaged file may say that it has millions of layers
        if name not in file.tensors:
            raise ModelError(f"{file.path}: tensor {name} is missing")


def _check_extent(file: GgufFile, name: str, entry: TensorEntry, package: ModuleType) -> None:
    try:
        block, size = package.GGML_QUANT_SIZES[package.GGMLQuantizationType(entry.type)]
    except (ValueError, KeyError):
        raise ModelError(f"{file.path}: {name} is of the unknown quantization {entry.type}") from None
    if entry.shape[-1] % block:
        raise ModelError(f"{file.path}: {name} has rows of {entry.shape[-1]}, no multiple of {block}")
    if entry.offset + math.prod(entry.shape) // block * size > file.path.stat().st_size:
        raise ModelError(f"{file.path}: the file ends before {name} does: is it complete?")


def _read(file: GgufFile, name: str, package: ModuleType) -> Tensor:
    values = _values(file, name, package)
    if _architecture(file) == "llama" and (part := name.split(".")[-2]) in ("attn_q", "attn_k"):
        heads = file.require("llama.attention.head_count", int)
        kv_heads = file.get("llama.attention.head_count_kv", int) or heads
        values = _by_halves(values, heads if part == "attn_q" else kv_heads)
    return torch.from_numpy(values)


def _by_halves(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Return the rows of Q or K in the order of Hugging Face: of each head the first half, then the second.

    GGUF stores those of the architecture llama in turn, one of each half, since llama.cpp rotates neighbours.
    """
    if len(rows) % (2 * heads):
        return rows  # of another shape than the model's, which is refused later
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _values(file: GgufFile, name: str, package: ModuleType) -> NDArray[np.float32]:
    """Return a tensor's values, writable and in the shape of its entry."""
    entry = file.tensors[name]
    kind = package.GGMLQuantizationType(entry.type)
    block, size = package.GGML_QUANT_SIZES[kind]
    stored = (*entry.shape[:-1], entry.shape[-1] // block * size)
    raw = np.asarray(np.memmap(file.path, np.uint8, "r", entry.offset, stored))
    try:
        return np.require(package.dequantize(raw, kind), np.float32, "W")
    except NotImplementedError:
        raise ModelError(f"{file.path}: {name} is quantized as {kind.name}, which gguf cannot take apart") from None


def _package() -> ModuleType:
    try:
        import gguf
    except ImportError:
        raise ConfigurationError('a GGUF file needs the package gguf; pip install "preble[gguf]"') from None
    return gguf
