"""Small random models of every supported shape, made by transformers, which our network must agree with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from tests.backends.torch.network import Network

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 320,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}

SHAPES = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-all-heads": ("Llama", {"num_key_value_heads": 4}),
    "llama3-rope": ("Llama", {"rope_scaling": LLAMA3, "rope_theta": 500000.0}),
    "linear-rope": ("Llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    "dynamic-rope": ("Llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
    "yarn-rope": ("Llama", {"rope_scaling": YARN}),
    "yarn-mscale": ("Llama", {"rope_scaling": YARN | {"mscale": 1.0, "mscale_all_dim": 0.5, "truncate": False}}),
    "mistral": ("Mistral", {"sliding_window": None, "head_dim": 32}),
    "qwen2": ("Qwen2", {"rope_theta": 1e6}),
    "qwen2-tied": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "qwen3-one-kv-head": ("Qwen3", {"head_dim": 16, "num_key_value_heads": 1}),
}

torch.set_num_threads(1)

Builder = Callable[..., Path]


def _randomize(model: transformers.PreTrainedModel) -> None:
    # transformers starts biases at 0 and norms at 1, which would hide a mistake in either.
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    """Return a function that writes a model of a shape once, and returns its folder."""
    made: dict[tuple[str, str], Path] = {}

    def write(shape: str, max_shard_size: str = "1GB") -> Path:
        if (shape, max_shard_size) not in made:
            family, settings = SHAPES[shape]
            config = getattr(transformers, f"{family}Config")(**(SIZES | settings))
            torch.manual_seed(0)
            model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
            _randomize(model)
            folder = tmp_path_factory.mktemp(shape)
            model.save_pretrained(folder, max_shard_size=max_shard_size)
            made[shape, max_shard_size] = folder
        return made[shape, max_shard_size]

    return write


@pytest.fixture(scope="session")
def reference(build: Builder) -> Callable[[str], transformers.PreTrainedModel]:
    """Return a function that loads a shape's model with transformers, in float32."""
    loaded: dict[str, transformers.PreTrainedModel] = {}

    def load(shape: str) -> transformers.PreTrainedModel:
        if shape not in loaded:
            model = transformers.AutoModelForCausalLM.from_pretrained(build(shape), dtype=torch.float32)
            loaded[shape] = model.eval()
        return loaded[shape]

    return load


@pytest.fixture
def network(build: Builder) -> Callable[..., Network]:
    """Return a function that loads a shape's model with our own code."""
    return lambda shape, **options: Network(build(shape), **options)


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> str:
    """Each shape in turn."""
    return str(request.param)
