"""The models, with the sizes of workers that serve them: data, the same for a CPU and a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """A Llama and its workers, sizes in elements and tokens; the defaults are what Llama 3's sizes have in common.

    `whole` says that prompts and outputs are as long as the workloads' generators make them, and not cut for a small
    model.
    """

    hidden: int
    layers: int
    intermediate: int
    heads: int = 32
    kv_heads: int = 8
    vocab: int = 128_256
    tied: bool = False
    workers: int
    kv_tokens: int
    context_limit: int = 65_536
    max_batched_tokens: int = 512
    whole: bool = True

    @property
    def parameters(self) -> int:
        """How many numbers the weights are."""
        attention = 2 * self.hidden * self.hidden * (self.heads + self.kv_heads) // self.heads
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        embeddings = 1 if self.tied else 2
        return self.layers * layer + embeddings * self.vocab * self.hidden + self.hidden

    def bytes(self, each: int) -> int:
        """Memory of one worker's weights and KV cache, of numbers of `each` bytes."""
        cached = 2 * self.layers * self.hidden * self.kv_heads // self.heads
        return each * (self.parameters + self.kv_tokens * cached)


SHAPES = {
    "toy": Shape(
        hidden=128,
        layers=2,
        intermediate=352,
        heads=4,
        kv_heads=2,
        vocab=4096,
        workers=2,
        kv_tokens=16_384,
        context_limit=8_192,
        whole=False,
    ),
    "1b": Shape(hidden=2048, layers=16, intermediate=8_192, tied=True, workers=4, kv_tokens=131_072),
    "8b": Shape(hidden=4096, layers=32, intermediate=14_336, workers=2, kv_tokens=98_304),
}
"""The sizes of Llama 3.2 1B and of Llama 3.1 8B; four and two workers fit a GPU of 80 GB."""


def write_config(folder: Path, shape: Shape, dtype: str) -> Path:
    """Write a config.json, all that `load_format="dummy"` needs, and return the folder."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "intermediate_size": shape.intermediate,
        "vocab_size": shape.vocab,
        "tie_word_embeddings": shape.tied,
        "max_position_embeddings": shape.context_limit,
        "rope_theta": 500_000.0,
        "torch_dtype": dtype,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder
