"""From a model's files to the tensors of the forward pass: fused, converted to a dtype, on their device."""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch
from torch import Tensor

from preble.backends.torch.config import ModelConfig
from preble.backends.torch.gguf import open_gguf
from preble.backends.torch.linear import Linear
from preble.backends.torch.rope import pair_order
from preble.backends.torch.safetensors import open_safetensors
from preble.errors import ModelError


class Layer(msgspec.Struct, frozen=True):
    """One transformer layer. `qkv` gives all heads of Q, then K, then V; `gate_up` the gate, then the value.

    Rows of Q and K are ordered so that the pairs of dimensions that rotate together are neighbours.
    """

    attention_norm: Tensor
    qkv: Linear
    query_norm: Tensor | None
    key_norm: Tensor | None
    output: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear


class Weights(msgspec.Struct, frozen=True):
    """All tensors of a model; `embedding` is [vocab, hidden]."""

    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: Tensor
    head: Linear


def load_weights(path: Path, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> Weights:
    """Read the weights of a model: a Hugging Face folder or a GGUF file.

    Raises ModelError naming the file or the tensor that is wrong.
    """
    return _Loader(path, config, dtype, device).weights()


class _Loader:
    """Reads tensors by name, checking each one's shape."""

    def __init__(self, path: Path, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        self._path = path
        self._config = config
        self._dtype = dtype
        self._device = device
        self._files = open_gguf(path) if path.is_file() else open_safetensors(path)

    def weights(self) -> Weights:
        config = self._config
        embedding = self._place(self._read("model.embed_tokens.weight", config.vocab_size, config.hidden))
        layers = tuple(self._layer(f"model.layers.{number}.") for number in range(config.layers))
        norm = self._place(self._read("model.norm.weight", config.hidden))
        return Weights(embedding, layers, norm, self._head(embedding))

    def _head(self, embedding: Tensor) -> Linear:
        if self._config.tied:
            return Linear(embedding)
        return Linear(self._place(self._read("lm_head.weight", self._config.vocab_size, self._config.hidden)))

    def _layer(self, prefix: str) -> Layer:
        c = self._config
        queries, keys = c.heads * c.head_dim, c.kv_heads * c.head_dim
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        return Layer(
            attention_norm=self._place(self._read(prefix + "input_layernorm.weight", c.hidden)),
            qkv=self._qkv(attention, queries, keys),
            query_norm=self._head_norm(attention + "q_norm.weight"),
            key_norm=self._head_norm(attention + "k_norm.weight"),
            output=self._linear([(attention + "o_proj", c.hidden)], queries),
            mlp_norm=self._place(self._read(prefix + "post_attention_layernorm.weight", c.hidden)),
            gate_up=self._linear([(mlp + "gate_proj", c.intermediate), (mlp + "up_proj", c.intermediate)], c.hidden),
            down=self._linear([(mlp + "down_proj", c.hidden)], c.intermediate),
        )

    def _qkv(self, prefix: str, queries: int, keys: int) -> Linear:
        parts = [(prefix + "q_proj", queries), (prefix + "k_proj", keys), (prefix + "v_proj", keys)]
        head_dim = self._config.head_dim
        heads = torch.arange(queries + keys).view(-1, head_dim)[:, pair_order(head_dim)].reshape(-1)
        return self._linear(parts, self._config.hidden, torch.cat((heads, torch.arange(keys) + queries + keys)))

    def _head_norm(self, name: str) -> Tensor | None:
        if name not in self._files:
            return None
        return self._place(self._read(name, self._config.head_dim)[pair_order(self._config.head_dim)])

    def _linear(self, parts: list[tuple[str, int]], inputs: int, order: Tensor | None = None) -> Linear:
        """Stack the weights of `parts`, (name, rows) each, into one; `order` rearranges the rows."""
        weight = torch.cat([self._read(f"{name}.weight", rows, inputs) for name, rows in parts])
        bias = None
        if f"{parts[0][0]}.bias" in self._files:
            bias = torch.cat([self._read(f"{name}.bias", rows) for name, rows in parts])
        if order is not None:
            weight, bias = weight[order], None if bias is None else bias[order]
        return Linear(self._place(weight), None if bias is None else self._place(bias))

    def _read(self, name: str, *shape: int) -> Tensor:
        if name not in self._files:
            raise ModelError(f"{self._path}: tensor {name} is missing")
        stored = self._files[name]
        tensor = stored.read()
        if tuple(tensor.shape) != shape or not tensor.is_floating_point():
            raise ModelError(
                f"{stored.path}: {stored.name} is {tensor.dtype} {list(tensor.shape)}, want floats {list(shape)}"
            )
        return tensor

    def _place(self, tensor: Tensor) -> Tensor:
        # It is copied, so that nothing refers to the mapped file any more.
        return tensor.to(self._device, self._dtype, copy=True)
