"""A small model with random weights, written in a second or two without a download.

It needs neither torch nor transformers: the weights are seeded normal numbers of numpy, and the tokenizer is trained on
the sources of this package. The spread of the weights (0.08, head not tied) makes greedy output change with every
prompt token, so a wrong KV cache shows in the tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preble.errors import ConfigurationError

SPECIAL_TOKENS = ("<|unknown|>", "<|begin|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>")
"""Ids 0 to 5 of every model made here."""

CHAT_TEMPLATE = (
    "{% if tools %}{{ '<|system|>Tools:' }}{% for tool in tools %}{{ '\n' + tool | tojson }}{% endfor %}"
    '{{ \'\nCall one so: <tool_call>{"name": ..., "arguments": {...}}</tool_call>\' + eos_token }}{% endif %}'
    "{% for message in messages %}{{ '<|' + message.role + '|>' + (message.content or '') }}"
    "{% for call in message.tool_calls or [] %}{% set call = call.function or call %}"
    "{{ '<tool_call>' + {'name': call.name, 'arguments': call.arguments} | tojson + '</tool_call>' }}{% endfor %}"
    "{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", {"attention_bias": False, "mlp_bias": False}),
    "mistral": ("MistralForCausalLM", {"sliding_window": None}),
    "qwen2": ("Qwen2ForCausalLM", {"use_sliding_window": False}),
    "qwen3": ("Qwen3ForCausalLM", {"attention_bias": False, "use_sliding_window": False}),
}
"""Model type to its architecture and the settings only it has."""

SIZES: dict[str, dict[str, int]] = {
    "5m": {"hidden": 256, "layers": 4, "heads": 4, "kv_heads": 2, "intermediate": 704},
    "82m": {"hidden": 768, "layers": 12, "heads": 12, "kv_heads": 4, "intermediate": 2048},
}
"""Keyword arguments of `make_model` by number of parameters (with the default vocabulary)."""

_NUMBERS = {
    "hidden": "width, in place of the size's",
    "layers": "number of layers, in place of the size's",
    "heads": "attention heads, in place of the size's",
    "kv-heads": "heads of keys and values, in place of the size's",
    "intermediate": "width between the layers' two projections, in place of the size's",
    "vocab": "tokens in the vocabulary (4096)",
    "context": "longest sequence in tokens (8192)",
    "seed": "another one draws other weights (0)",
}
_DTYPES = {"float32": ("F32", "<f4"), "float16": ("F16", "<f2"), "bfloat16": ("BF16", "<u2")}
_MIN_VOCAB = len(SPECIAL_TOKENS) + 256
_SPREAD = 0.08


def make_model(
    path: str | Path,
    *,
    shape: str = "llama",
    hidden: int = 256,
    layers: int = 4,
    heads: int = 4,
    kv_heads: int = 2,
    intermediate: int = 704,
    vocab: int = 4096,
    context: int = 8192,
    seed: int = 0,
    dtype: str = "float32",
) -> Path:
    """Write a model folder in Hugging Face format with random weights at `path`, and return the path.

    `shape` is one of `SHAPES`, `hidden` and `intermediate` are widths, `vocab` and `context` are in tokens, and `dtype`
    is float32, float16 or bfloat16. The defaults give 5.05 million parameters and 20 MB. The same arguments and the
    same version of this package give the same bytes. Raises ConfigurationError, which names the argument.
    """
    _require(shape in SHAPES, f"shape must be one of {', '.join(SHAPES)}, not {shape!r}")
    _require(dtype in _DTYPES, f"dtype must be one of {', '.join(_DTYPES)}, not {dtype!r}")
    sizes = (hidden, layers, heads, kv_heads, intermediate, context)
    _require(min(sizes) >= 1, "hidden, layers, heads, kv_heads, intermediate and context must be positive")
    _require(hidden % (2 * heads) == 0, "hidden must be a multiple of 2 * heads")
    _require(heads % kv_heads == 0, "heads must be a multiple of kv_heads")
    _require(vocab >= _MIN_VOCAB, f"vocab must be at least {_MIN_VOCAB}")
    config = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "intermediate_size": intermediate,
        "vocab_size": vocab,
        "max_position_embeddings": context,
        "torch_dtype": dtype,
        **_settings(shape),
    }
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    _write_tokenizer(folder, vocab, context)
    _write_weights(folder / "model.safetensors", config, seed)
    return folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run `preble make-model PATH [options]`: write the model, print its path, return the exit status."""
    parser = argparse.ArgumentParser(
        prog="preble make-model", description="Write a small model with random weights.", allow_abbrev=False
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="the folder to write it to")
    parser.add_argument("--size", choices=SIZES, default="5m", help="starting point for the widths (%(default)s)")
    parser.add_argument("--shape", choices=SHAPES, default="llama", help="its architecture (%(default)s)")
    parser.add_argument("--dtype", choices=_DTYPES, default="float32", help="type of the weights (%(default)s)")
    for name, meaning in _NUMBERS.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=meaning)
    options = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    path, size = options.pop("path"), options.pop("size")
    try:
        sys.stdout.write(f"{make_model(path, **(SIZES[size] | options))}\n")
    except ConfigurationError as error:
        parser.error(str(error))
    return 0


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigurationError(message)


def _settings(shape: str) -> dict[str, Any]:
    architecture, own = SHAPES[shape]
    return {
        "architectures": [architecture],
        "model_type": shape,
        "hidden_act": "silu",
        "initializer_range": _SPREAD,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **own,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_tokenizer(folder: Path, vocab: int, context: int) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    unknown, begin, end, *_ = SPECIAL_TOKENS
    tokenizer = Tokenizer(models.BPE(unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": unknown,
            "bos_token": begin,
            "eos_token": end,
            "model_max_length": context,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    )


def _corpus() -> Iterator[str]:
    for source in sorted(Path(__file__).parents[1].rglob("*.py")):
        yield source.read_text(encoding="utf-8")


def _tensor_shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, vocab = config["hidden_size"], config["vocab_size"]
    yield "model.embed_tokens.weight", (vocab, hidden)
    for layer in range(config["num_hidden_layers"]):
        for name, shape in _layer_shapes(config):
            yield f"model.layers.{layer}.{name}", shape
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (vocab, hidden)


def _layer_shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, wide, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    yield "input_layernorm.weight", (hidden,)
    for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
        yield f"self_attn.{name}_proj.weight", (count * head, hidden)
        if config["model_type"] == "qwen2":
            yield f"self_attn.{name}_proj.bias", (count * head,)
    yield "self_attn.o_proj.weight", (hidden, heads * head)
    if config["model_type"] == "qwen3":
        yield "self_attn.q_norm.weight", (head,)
        yield "self_attn.k_norm.weight", (head,)
    yield "post_attention_layernorm.weight", (hidden,)
    yield "mlp.gate_proj.weight", (wide, hidden)
    yield "mlp.up_proj.weight", (wide, hidden)
    yield "mlp.down_proj.weight", (hidden, wide)


def _write_weights(path: Path, config: dict[str, Any], seed: int) -> None:
    # The safetensors format is a length, a JSON header and the bytes: written here, one tensor in memory at a time,
    # because numpy has no bfloat16 for the library to save.
    label, storage = _DTYPES[config["torch_dtype"]]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in _tensor_shapes(config):
        begin, end = end, end + int(np.prod(shape)) * np.dtype(storage).itemsize
        header[name] = {"dtype": label, "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in _tensor_shapes(config):
            file.write(_store(_values(name, shape, random), storage))


def _values(name: str, shape: tuple[int, ...], random: np.random.Generator) -> NDArray[np.float32]:
    if name.endswith("norm.weight"):
        return np.ones(shape, dtype=np.float32)
    return random.standard_normal(shape, dtype=np.float32) * np.float32(_SPREAD)


def _store(values: NDArray[np.float32], storage: str) -> bytes:
    if storage != "<u2":
        return values.astype(storage).tobytes()
    bits = values.view(np.uint32)
    nearest_even = bits + 0x7FFF + ((bits >> 16) & 1)
    return (nearest_even >> 16).astype(storage).tobytes()
