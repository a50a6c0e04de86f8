"""The checked content of a model's config.json or GGUF file, as a `ModelConfig` for the other modules of the engine."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from preble.backends.torch.end_tokens import end_token_ids
from preble.backends.torch.gguf import config_entries
from preble.backends.torch.json_file import decode
from preble.errors import ConfigurationError, ModelError

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
"""Values of `model_type` that share the one network shape of this engine."""

_LARGEST = 1 << 24
"""No size of a model is larger; what is comes from a damaged file, and must not be allocated."""

ROPE_KINDS = ("default", "dynamic", "linear", "llama3", "yarn")


class Rope(msgspec.Struct, frozen=True, kw_only=True):
    """Rotary position embedding: its base `theta` and how it is stretched beyond the trained context.

    `original_context` is the context that the model was trained on before stretching, in tokens. `divisors`, if there
    are any, divide the frequencies one by one; GGUF files have them in place of the kind `llama3`.
    """

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    original_context: int = 0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    divisors: tuple[float, ...] = ()


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The shape of a Llama-family model. Sizes are in elements, `context_limit` in tokens."""

    model_type: str
    vocab_size: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    norm_epsilon: float
    tied: bool
    context_limit: int
    dtype: str
    rope: Rope
    eos_token_ids: tuple[int, ...]


class _RopeFile(msgspec.Struct):
    rope_type: str | None = None
    type: str | None = None
    rope_theta: float | None = None
    factor: float | None = None
    original_max_position_embeddings: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float | None = None
    beta_slow: float | None = None
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    divisors: tuple[float, ...] = ()
    partial_rotary_factor: float = 1.0


class _ConfigFile(msgspec.Struct):
    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"
    tie_word_embeddings: bool = False
    rope_theta: float | None = None
    rope_scaling: _RopeFile | None = None
    rope_parameters: _RopeFile | None = None
    partial_rotary_factor: float = 1.0
    sliding_window: int | None = None
    use_sliding_window: bool | None = None
    torch_dtype: str | None = None
    dtype: str | None = None
    quantization_config: dict[str, Any] | None = None
    eos_token_id: int | list[int] | None = None


def read_config(path: Path, context_limit: int | None = None) -> ModelConfig:
    """Read the configuration of a model: of a Hugging Face folder, with all its end tokens, or of a GGUF file.

    `context_limit` lowers the model's own. Raises ModelError naming the file and what is wrong with it, and
    ConfigurationError for a context limit that the model does not have or a sliding window smaller than the context.
    """
    source = path if path.is_file() else path / "config.json"
    file = _of_gguf(path) if path.is_file() else _of_folder(source)
    _check_sizes(source, file)
    rope = _rope(file)
    _check(source, file, rope)
    config = _model_config(path, file, rope)
    if context_limit is not None:
        config = _limited(config, context_limit)
    _check_window(source, file, config.context_limit)
    return config


def _of_gguf(path: Path) -> _ConfigFile:
    try:
        return msgspec.convert(config_entries(path), _ConfigFile)
    except msgspec.ValidationError as error:
        raise ModelError(f"{path}: {error}") from error


def _of_folder(path: Path) -> _ConfigFile:
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    return decode(path, _ConfigFile)


def _model_config(folder: Path, file: _ConfigFile, rope: Rope) -> ModelConfig:
    return ModelConfig(
        model_type=file.model_type,
        vocab_size=file.vocab_size,
        hidden=file.hidden_size,
        layers=file.num_hidden_layers,
        heads=file.num_attention_heads,
        kv_heads=file.num_key_value_heads or file.num_attention_heads,
        head_dim=_head_dim(file),
        intermediate=file.intermediate_size,
        norm_epsilon=file.rms_norm_eps,
        tied=file.tie_word_embeddings,
        context_limit=_context(file, rope),
        dtype=file.dtype or file.torch_dtype or "float32",
        rope=rope,
        eos_token_ids=tuple(id for id in end_token_ids(folder, file.eos_token_id) if id < file.vocab_size),
    )


def _head_dim(file: _ConfigFile) -> int:
    return file.head_dim or file.hidden_size // file.num_attention_heads


def _context(file: _ConfigFile, rope: Rope) -> int:
    # Models stretched by YaRN often keep the trained context in max_position_embeddings.
    stretched = int(rope.factor * rope.original_context) if rope.kind == "yarn" else 0
    return max(file.max_position_embeddings, stretched)


def _rope(file: _ConfigFile) -> Rope:
    scaling = file.rope_parameters or file.rope_scaling or _RopeFile()
    original = scaling.original_max_position_embeddings or file.max_position_embeddings
    return Rope(
        theta=scaling.rope_theta or file.rope_theta or 10000.0,
        kind=scaling.rope_type or scaling.type or "default",
        factor=scaling.factor or file.max_position_embeddings / original,
        original_context=original,
        low_frequency_factor=scaling.low_freq_factor,
        high_frequency_factor=scaling.high_freq_factor,
        beta_fast=scaling.beta_fast or 32.0,
        beta_slow=scaling.beta_slow or 1.0,
        attention_factor=scaling.attention_factor,
        mscale=scaling.mscale,
        mscale_all_dim=scaling.mscale_all_dim,
        truncate=scaling.truncate,
        divisors=scaling.divisors,
    )


def _check(path: Path, file: _ConfigFile, rope: Rope) -> None:
    kinds = ", ".join(ARCHITECTURES)
    _require(path, file.model_type in ARCHITECTURES, f"model_type {file.model_type!r} is none of {kinds}")
    _require(path, file.quantization_config is None, "quantized weights are not supported")
    _require(path, file.hidden_act == "silu", f"hidden_act {file.hidden_act!r} is not silu")
    _require(path, rope.kind in ROPE_KINDS, f"rope scaling {rope.kind!r} is none of {', '.join(ROPE_KINDS)}")
    partial = {file.partial_rotary_factor, (file.rope_parameters or _RopeFile()).partial_rotary_factor}
    _require(path, partial == {1.0}, "partial rotary embedding is not supported")
    _require(
        path, len(rope.divisors) in (0, _head_dim(file) // 2), f"{len(rope.divisors)} divisors of rope frequencies"
    )
    _require(path, all(each > 0 for each in rope.divisors), "a divisor of the rope frequencies is not positive")
    _require(path, 1 <= rope.factor < math.inf, f"rope scaling factor {rope.factor:g} is below 1 or infinite")
    _require(path, 1 < rope.theta < math.inf, f"rope_theta {rope.theta:g} is not above 1, or infinite")


def _check_sizes(path: Path, file: _ConfigFile) -> None:
    for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
        _require(
            path, 1 <= getattr(file, name) <= _LARGEST, f"{name} {getattr(file, name)} is not positive, or too large"
        )
    heads = file.num_attention_heads
    kv_heads = file.num_key_value_heads or heads
    _require(path, file.max_position_embeddings >= 2, "max_position_embeddings is below 2")
    _require(path, kv_heads > 0 and heads % kv_heads == 0, f"{heads} heads are not a multiple of {kv_heads} KV heads")
    head_dim = _head_dim(file)
    _require(path, head_dim > 0 and head_dim % 2 == 0, f"head_dim {head_dim} is not even and positive")
    _require(path, heads * head_dim <= _LARGEST, f"{heads} heads of {head_dim} are too large")


def _require(path: Path, condition: bool, message: str) -> None:
    if not condition:
        raise ModelError(f"{path}: {message}")


def _limited(config: ModelConfig, context_limit: int) -> ModelConfig:
    if not 2 <= context_limit <= config.context_limit:
        raise ConfigurationError(f"context_limit: must be in [2, {config.context_limit}], not {context_limit}")
    return msgspec.structs.replace(config, context_limit=context_limit)


def _check_window(path: Path, file: _ConfigFile, context: int) -> None:
    window = file.sliding_window if file.use_sliding_window is not False else None
    if window is not None and window < context:
        raise ConfigurationError(
            f"{path}: sliding_window {window} is smaller than the context {context}, "
            f"which is not supported; pass context_limit={window} or less"
        )
