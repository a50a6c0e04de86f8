"""A GGUF file as a Hugging Face folder, for engines that read no GGUF or not that of this model."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from preble.errors import ConfigurationError, ModelError
from preble.model_files.gguf import GgufFile, read_gguf
from preble.text.gguf import build_tokenizer, chat_templates

_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_IDS = {"bos_token_id": "bos", "pad_token_id": "padding"}


def convert_gguf(file: str | Path, folder: str | Path) -> Path:
    """Write the model of a GGUF file as a Hugging Face folder at `folder`, and return its path.

    Weights are taken apart to float32, so the folder holds four bytes for each parameter, and all of them are in memory
    at once. Tokenizer, chat template and end tokens are those of the file. A `folder` that is there already is kept as
    it is; several processes may write it at once. Raises ModelError for what the `torch` engine does not serve either
    and for a rotation that config.json cannot express, ConfigurationError if torch or gguf is not installed, and
    OSError.
    """
    file, folder = Path(file), Path(folder)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".converting-") as scratch:
        written = Path(scratch, "model")
        written.mkdir()
        _write(file, written)
        try:
            written.rename(folder)
        except OSError:  # another process was sooner
            if not folder.is_dir():
                raise
    return folder


def _write(file: Path, folder: Path) -> None:
    try:
        from safetensors.torch import save_file

        from preble.backends.torch.gguf import config_entries, open_gguf
    except ImportError:
        raise ConfigurationError('to convert a GGUF file needs torch; pip install "preble[torch,gguf]"') from None
    head = read_gguf(file)
    stored = open_gguf(file)
    config = _config(head, config_entries(file), set(stored))
    build_tokenizer(file).save(str(folder / "tokenizer.json"))
    _write_json(folder / "config.json", config)
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(file, config))
    _write_json(folder / "generation_config.json", {key: config[key] for key in config if key.endswith("_token_id")})
    save_file({name: each.read() for name, each in stored.items()}, folder / "model.safetensors", {"format": "pt"})


def _config(head: GgufFile, entries: dict[str, Any], tensors: set[str]) -> dict[str, Any]:
    ids = {name: head.get(f"tokenizer.ggml.{key}_token_id", int) for name, key in _IDS.items()}
    ends = entries["eos_token_id"]
    rope = {name: value for name, value in entries["rope_parameters"].items() if value is not None}
    if rope.pop("divisors"):
        raise ModelError(f"{head.path}: rope_freqs.weight has factors that config.json cannot express")
    config = entries | ids | {
        "architectures": [_ARCHITECTURES[entries["model_type"]]],
        "hidden_act": "silu",
        "dtype": "float32",
        "eos_token_id": ends[0] if len(ends) == 1 else ends,
        "rope_parameters": rope,
        "rope_theta": rope["rope_theta"],  # where readers older than rope_parameters look, as for rope_scaling
        "rope_scaling": rope if rope["rope_type"] != "default" else None,
        "attention_bias": "model.layers.0.self_attn.q_proj.bias" in tensors,
        "mlp_bias": "model.layers.0.mlp.gate_proj.bias" in tensors,
    }  # fmt: skip
    return {name: value for name, value in config.items() if value is not None}


def _tokenizer_config(file: Path, config: dict[str, Any]) -> dict[str, Any]:
    templates, special = chat_templates(file)
    named = [{"name": name, "template": template} for name, template in templates.items()]
    return special | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
        "chat_template": templates["default"] if list(templates) == ["default"] else named,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
