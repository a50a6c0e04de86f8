"""config.json is read in the old and the new form; what the engine cannot do is refused with the reason."""

from __future__ import annotations

import json

import pytest

from preble.backends.torch.config import read_config
from preble.errors import ConfigurationError, ModelError

BASE = {
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 1024,
}


def write(folder, **changes):
    (folder / "config.json").write_text(json.dumps(BASE | changes))
    return folder


def test_defaults(tmp_path):
    config = read_config(write(tmp_path))
    assert (config.kv_heads, config.head_dim, config.dtype, config.tied) == (4, 16, "float32", False)
    assert (config.rope.kind, config.rope.theta, config.context_limit) == ("default", 10000.0, 1024)
    assert config.eos_token_ids == ()


def test_old_and_new_rope_agree(tmp_path):
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 128}
    old = read_config(write(tmp_path, rope_theta=5e5, rope_scaling={"type": "llama3", **scaling}))
    new = read_config(write(tmp_path, rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **scaling}))
    assert old.rope == new.rope
    assert (new.rope.theta, new.rope.factor, new.rope.original_context) == (5e5, 8.0, 128)


def test_yarn_extends_the_context(tmp_path):
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
    assert read_config(write(tmp_path, rope_scaling=yarn)).context_limit == 4096


def test_end_tokens_of_the_generation_config_come_first(tmp_path):
    write(tmp_path, eos_token_id=3)
    assert read_config(tmp_path).eos_token_ids == (3,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [4, 5]}')
    assert read_config(tmp_path).eos_token_ids == (4, 5)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": null}')
    assert read_config(tmp_path).eos_token_ids == (3,)


TOKENIZER = {"added_tokens": [{"id": 7, "content": "<|eot|>"}], "model": {"vocab": {"</s>": 2, "far": 512}}}
UNIGRAM = {"added_tokens": [{"id": 7, "content": "<|eot|>"}], "model": {"vocab": [["</s>", 0.0]]}}


@pytest.mark.parametrize(
    ("files", "own"),
    [
        ({"tokenizer_config.json": {"eos_token": "<|eot|>"}}, (7,)),
        ({"tokenizer_config.json": {"eos_token": {"content": "<|eot|>", "lstrip": False}}}, (7,)),
        ({"special_tokens_map.json": {"eos_token": {"content": "<|eot|>"}}}, (7,)),
        ({"tokenizer_config.json": {"eos_token": "</s>"}, "special_tokens_map.json": {"eos_token": "<|eot|>"}}, (2,)),
        ({"tokenizer_config.json": {"eos_token": "e", "added_tokens_decoder": {"9": {"content": "e"}}}}, (9,)),
        ({"tokenizer_config.json": {"eos_token": "</s>"}, "tokenizer.json": UNIGRAM}, ()),
        ({"tokenizer_config.json": {"eos_token": None}}, ()),
        ({"tokenizer_config.json": {"eos_token": "unknown"}}, ()),
        ({"tokenizer_config.json": {"eos_token": "far"}}, ()),
    ],
)
def test_the_tokenizer_s_own_end_token_ends_texts_too(tmp_path, files, own):
    write(tmp_path, eos_token_id=[3, 7] if own == (7,) else 3)
    for name, content in ({"tokenizer.json": TOKENIZER} | files).items():
        (tmp_path / name).write_text(json.dumps(content))
    assert read_config(tmp_path).eos_token_ids == ((3, 7) if own == (7,) else (3, *own))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "mamba"}, "model_type 'mamba'"),
        ({"quantization_config": {"bits": 4}}, "quantized"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "rope scaling 'longrope'"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0.5}}, "factor 0.5"),
        ({"partial_rotary_factor": 0.5}, "partial rotary"),
        ({"num_key_value_heads": 3}, "4 heads are not a multiple of 3"),
        ({"head_dim": 15}, "head_dim 15"),
        ({"num_hidden_layers": 0}, "num_hidden_layers 0"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"max_position_embeddings": 1}, "max_position_embeddings"),
    ],
)
def test_refused(tmp_path, changes, reason):
    with pytest.raises(ModelError, match=reason) as caught:
        read_config(write(tmp_path, **changes))
    assert "config.json" in str(caught.value)


def test_missing_key_and_file(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="vocab_size"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("not json")
    with pytest.raises(ModelError, match=r"config\.json"):
        read_config(tmp_path)


def test_sliding_window(tmp_path):
    write(tmp_path, model_type="mistral", sliding_window=512)
    with pytest.raises(ConfigurationError, match="sliding_window 512"):
        read_config(tmp_path)
    assert read_config(tmp_path, context_limit=512).context_limit == 512
    write(tmp_path, model_type="qwen2", sliding_window=512, use_sliding_window=False)
    assert read_config(tmp_path).context_limit == 1024


@pytest.mark.parametrize("limit", [1, 1025])
def test_context_limit_is_bounded(tmp_path, limit):
    with pytest.raises(ConfigurationError, match="context_limit"):
        read_config(write(tmp_path), context_limit=limit)
