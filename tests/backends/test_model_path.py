from __future__ import annotations

import pytest

from preble.backends.model_path import check_model
from preble.errors import ConfigurationError, ModelError


def test_a_folder_with_a_model_is_one_and_so_may_be_a_name(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for model in (str(tmp_path), "maker/model"):
        assert check_model(model, engine="vllm") == model


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"config\.json"):
        check_model(str(tmp_path), engine="vllm")
    with pytest.raises(ModelError, match="nowhere"):
        check_model(str(tmp_path / "nowhere"), engine="vllm")
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ModelError, match=r"model\.gguf: a file; the vllm engine needs a folder"):
        check_model(str(tmp_path / "model.gguf"), engine="vllm")
    with pytest.raises(ConfigurationError, match="model: the vllm engine"):
        check_model(None, engine="vllm")


def test_a_folder_at_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    assert check_model("~/m", engine="vllm") == str(tmp_path / "m")
