"""Writes a Hugging Face folder as a GGUF file, with the writer of the package `gguf`, as llama.cpp's converter does."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import load_file

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(
    folder: Path,
    path: Path,
    *,
    kind: str = "F32",
    architecture: str | None = None,
    changed: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray | None] | None = None,
    tokenizer: bool = False,
) -> Path:
    """Write the model of `folder`, its matrices as `kind`. `changed` and `tensors` replace entries; None leaves out."""
    config = json.loads((folder / "config.json").read_text())
    name = architecture or config["model_type"]
    writer = gguf.GGUFWriter(path, name)
    entries = (metadata(config, name) | (tokens(folder) if tokenizer else {}) | (changed or {})).items()
    for key, value in entries:
        if value is not None:
            add(writer, key, value)
    for tensor, values in (gguf_tensors(folder, config) | (tensors or {})).items():
        if values is not None:
            store(writer, tensor, values, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def store(writer: gguf.GGUFWriter, name: str, values: np.ndarray, kind: str) -> None:
    quantization = gguf.GGMLQuantizationType[kind if values.ndim > 1 else "F32"]
    writer.add_tensor(name, gguf.quantize(values, quantization), raw_dtype=quantization)


def metadata(config: dict[str, Any], name: str) -> dict[str, Any]:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    entries = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "rope.freq_base": float(rope.get("rope_theta") or config["rope_theta"]),
        "rope.dimension_count": head,
    }
    if rope.get("rope_type") in ("linear", "yarn"):
        entries |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": float(rope["factor"])}
        entries["rope.scaling.original_context_length"] = rope.get("original_max_position_embeddings")
    return {f"{name}.{key}": value for key, value in entries.items()} | {
        "tokenizer.ggml.bos_token_id": config["bos_token_id"],
        "tokenizer.ggml.eos_token_id": config["eos_token_id"],
    }


def gguf_tensors(folder: Path, config: dict[str, Any]) -> dict[str, np.ndarray]:
    found = {}
    for name, values in load_file(folder / "model.safetensors").items():
        stem, _, kind = name.rpartition(".")
        if config["model_type"] == "llama" and stem.endswith(("q_proj", "k_proj")):
            heads = config["num_attention_heads" if stem.endswith("q_proj") else "num_key_value_heads"]
            values = permuted(values, heads)
        if stem.startswith("model.layers."):
            number, _, part = stem.removeprefix("model.layers.").partition(".")
            found[f"blk.{number}.{NAMES[part]}.{kind}"] = values
        else:
            found[f"{NAMES[stem]}.{kind}"] = values
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type") == "llama3":
        head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        found["rope_freqs.weight"] = llama3_divisors(rope, head)
    return found


def permuted(weights: np.ndarray, heads: int) -> np.ndarray:
    """The rows of Q and K as llama.cpp's converter has them for the architecture llama."""
    shape = (heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return np.ascontiguousarray(weights.reshape(shape).swapaxes(1, 2).reshape(weights.shape))


def llama3_divisors(rope: dict[str, Any], head: int) -> np.ndarray:
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    context = rope["original_max_position_embeddings"]
    divisors = []
    for dimension in range(0, head, 2):
        wave = 2 * math.pi * rope["rope_theta"] ** (dimension / head)
        if wave < context / high:
            divisors.append(1.0)
        elif wave > context / low:
            divisors.append(factor)
        else:
            smooth = (context / wave - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, np.float32)


def tokens(folder: Path, pre: str = "smollm") -> dict[str, Any]:
    """The entries of the folder's byte-level tokenizer."""
    file = json.loads((folder / "tokenizer.json").read_text())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    vocabulary = sorted(file["model"]["vocab"], key=file["model"]["vocab"].get)
    special = {token["content"] for token in file["added_tokens"] if token["special"]}
    added = {token["content"] for token in file["added_tokens"]} - special
    types = gguf.TokenType
    kinds = [types.CONTROL if t in special else types.USER_DEFINED if t in added else types.NORMAL for t in vocabulary]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": vocabulary,
        "tokenizer.ggml.token_type": [int(kind) for kind in kinds],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in file["model"]["merges"]],
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": config["chat_template"],
    }
