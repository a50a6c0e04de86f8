from __future__ import annotations

import asyncio
import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from preble.errors import InvalidRequestError, ModelError
from preble.text import Tokenizer, tokenizer
from preble.text.tokenizer import INLINE_CHARACTERS, MEDIUM_CHARACTERS
from tests.text.conftest import BYTE_LEVEL_IDS


def test_a_folder_without_a_tokenizer_gives_none(tmp_path):
    assert Tokenizer.load(tmp_path) is None
    assert Tokenizer.load(tmp_path / "missing") is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": {"type": "Nonsense"}}', "\x00\xff"])
def test_a_malformed_tokenizer_is_a_model_error(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content, encoding="latin-1")
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


def write(model_path, folder, **files):
    """Copy the test model's tokenizer and change its files: `config` is added to tokenizer_config.json."""
    config = json.loads((model_path / "tokenizer_config.json").read_text()) | files.get("config", {})
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes((model_path / name).read_bytes())
    if "added" in files:
        (folder / "added_tokens.json").write_text(json.dumps(files["added"]))
    return folder


def added(content, special):
    return {"content": content, "lstrip": False, "rstrip": False, "single_word": False, "normalized": False} | {
        "special": special
    }


@pytest.mark.parametrize(
    "files",
    [
        {"config": {"added_tokens_decoder": {"1000": added("<call>", True)}}},
        {"config": {"added_tokens_decoder": {"1001": added("<call>", False), "1000": added("<pad>", True)}}},
        {"config": {"added_tokens_decoder": {"1": added("<|begin|>", True), "1000": added("<call>", False)}}},
        {"added": {"<call>": 1000}},
        {"added": {"<call>": 1001, "<pad>": 1000}, "config": {"pad_token": "<pad>"}},
        {"config": {"pad_token": "<pad>", "additional_special_tokens": ["<call>"]}},
        {"config": {"pad_token": {"content": "<pad>", "__type": "AddedToken"}, "extra_special_tokens": ["<call>"]}},
    ],
)
def test_added_tokens_of_other_files_are_single_ids_as_in_transformers(model_path, tmp_path, files):
    folder = write(model_path, tmp_path, **files)
    ours, theirs = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    text = "go <call>now<pad> <|begin|>end"
    ids = ours.encode(text)
    assert ids == theirs.encode(text)
    assert max(ids) >= 1000
    for skip in (True, False):
        assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


def test_an_added_token_whose_id_cannot_be_the_named_one_is_warned_of(model_path, tmp_path, caplog):
    Tokenizer.load(write(model_path, tmp_path, added={"<call>": 1005}))
    assert "'<call>' is 1000, not 1005" in caplog.text


@pytest.mark.parametrize("config", [{"added_tokens_decoder": {"x": 1}}, {"added_tokens_decoder": ["a"]}])
def test_malformed_added_tokens_are_a_model_error(model_path, tmp_path, config):
    with pytest.raises(ModelError, match="added tokens"):
        Tokenizer.load(write(model_path, tmp_path, config=config))


def test_encodes_and_decodes_as_transformers_does(model_path):
    ours, theirs = Tokenizer.load(model_path), AutoTokenizer.from_pretrained(model_path)
    text = "<|user|>def f(x): return 'naïve 🙂 漢字'<|end|>\n"
    ids = ours.encode(text)
    assert ids == theirs.encode(text)
    assert ids[0] == 3
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert ours.decode(ids, skip_special_tokens=False) == text


def test_special_tokens_are_added_only_when_wanted(model_path):
    rust = RustTokenizer.from_file(str(model_path / "tokenizer.json"))
    rust.post_processor = TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 1)])
    tokenizer = Tokenizer(rust)
    assert tokenizer.encode("return") == [1, *tokenizer.encode("return", add_special_tokens=False)]


def test_padding_and_truncation_of_the_file_are_ignored(model_path, tmp_path):
    rust = RustTokenizer.from_file(str(model_path / "tokenizer.json"))
    rust.enable_truncation(4)
    rust.enable_padding(length=64)
    rust.save(str(tmp_path / "tokenizer.json"))
    text = "import this and that and more of it"
    assert Tokenizer.load(tmp_path).encode(text) == Tokenizer.load(model_path).encode(text)


@pytest.mark.parametrize("text", ["a\ud800b", b"bytes", None, 7])
def test_what_is_not_unicode_text_is_refused(byte_level, text):
    with pytest.raises(InvalidRequestError) as caught:
        byte_level.encode(text)
    assert caught.value.field == "prompt"


async def test_a_text_beyond_the_limit_is_refused(byte_level, monkeypatch):
    monkeypatch.setattr(tokenizer, "MAX_CHARACTERS", 5000)
    assert byte_level.encode("a" * 5000)
    for encode in (byte_level.encode, lambda text: asyncio.run(byte_level.encode_async(text))):
        with pytest.raises(InvalidRequestError, match="5000") as caught:
            await asyncio.to_thread(encode, "a" * 5001)
        assert caught.value.field == "prompt"


SHORT, MEDIUM = INLINE_CHARACTERS, MEDIUM_CHARACTERS


@pytest.mark.parametrize(
    ("sizes", "inline"),
    [([SHORT, SHORT], [True, True]), ([SHORT + 1, MEDIUM], [True, False]), ([MEDIUM + 1, MEDIUM], [False, True])],
)
async def test_long_texts_leave_the_loop_and_all_medium_ones_but_the_first(byte_level, sizes, inline, monkeypatch):
    threads = []
    monkeypatch.setattr(tokenizer, "_SECONDS_BETWEEN", 60.0)
    monkeypatch.setattr(byte_level, "_next_medium", 0.0)
    encode = Tokenizer.encode

    def recorded(self, text, **options):
        threads.append(threading.current_thread())
        return encode(self, text, **options)

    monkeypatch.setattr(Tokenizer, "encode", recorded)
    for size in sizes:
        text = ("word " * size)[:size]
        assert await byte_level.encode_async(text, add_special_tokens=False) == encode(byte_level, text)
    assert [thread is threading.main_thread() for thread in threads] == inline


async def test_the_loop_runs_while_a_long_text_is_encoded(byte_level):
    encoding = asyncio.create_task(byte_level.encode_async("some words and more " * 100_000))
    turns = 0
    while not encoding.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 1000  # a thread that kept the interpreter would leave it some twenty
    assert len(await encoding) > 100_000


@given(data=st.data())
def test_token_bytes_spell_what_decode_says(byte_level, data):
    ids = data.draw(st.lists(st.integers(0, BYTE_LEVEL_IDS + 3)))
    spelled = b"".join(map(byte_level.token_bytes, ids))
    assert spelled.decode("utf-8", "replace") == byte_level.decode(ids, skip_special_tokens=False)


def test_special_ids_are_the_special_ones(byte_level):
    special = [token for token in range(BYTE_LEVEL_IDS + 3) if byte_level.is_special(token)]
    assert special == [0, 1, 2, 3, 4, 5, BYTE_LEVEL_IDS - 1]
