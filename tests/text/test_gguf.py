"""The tokenizer and template of a GGUF file are those of the folder that it was made of, and those of transformers."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from preble.errors import ModelError
from preble.model_files.gguf import read_gguf
from preble.text import ChatTemplate, Tokenizer
from tests.gguf_files import write_gguf

TEXTS = [
    "def f(x):\n    return 'naïve 🙂 漢字'  # it's",
    "  leading, trailing  \n\n\t tabs\r\n",
    "IT'S WE'LL don't 'tis ''s",
    "<|user|>hi<|end|>\n<|assistant|>",
    "a\u0301 e\u0301 \u1112\u1161\u11ab",
    "",
]
NUMBERS = "in 1984, 12345.67 and v3.11"


@pytest.fixture(scope="session")
def written(model_path, tmp_path_factory):
    """A function that writes the model of these tests with another pre-tokenizer, or other entries."""

    def write(pre="gpt-2", **changed):
        folder = tmp_path_factory.mktemp("gguf")
        entries = {"tokenizer.ggml.pre": pre, **changed}
        return write_gguf(model_path, folder / "model.gguf", tokenizer=True, changed=entries)

    return write


@pytest.fixture(scope="session")
def pairs(written):
    """Ours and that of transformers, for each pre-tokenizer that both know."""
    paths = {pre: written(pre) for pre in ("gpt-2", "smollm", "llama-bpe", "qwen2")}
    return {
        pre: (Tokenizer.load(path), AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name))
        for pre, path in paths.items()
    }


@pytest.fixture(scope="session")
def byte_level_folder(model_path):
    return Tokenizer.load(model_path)


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_transformers(pairs, pre, text):
    ours, theirs = pairs[pre]
    if pre == "qwen2" and "\u0301" in text:
        return  # transformers leaves out the normalization that the models have, as the next test shows
    ids = ours.encode(text)
    assert ids == theirs.encode(text, add_special_tokens=False)
    assert ours.decode(ids, skip_special_tokens=False) == text


def test_qwen_composes_characters(pairs):
    ours, _ = pairs["qwen2"]
    assert ours.encode("e\u0301") == ours.encode("é") != pairs["llama-bpe"][0].encode("e\u0301")


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2"])
def test_numbers_are_those_of_transformers(pairs, pre):
    ours, theirs = pairs[pre]
    assert ours.encode(NUMBERS) == theirs.encode(NUMBERS, add_special_tokens=False)


@given(texts=st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40)))
def test_any_text_is_as_in_the_folder(pairs, byte_level_folder, texts):
    ours, _ = pairs["gpt-2"]
    assert [ours.encode(text) for text in texts] == [byte_level_folder.encode(text) for text in texts]


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("gpt-2", ["abc", "Ġ12345", "Ġ==", "Ġx"]),
        ("smollm", ["abc", "Ġ", "1", "2", "3", "4", "5", "Ġ==", "Ġx"]),
        ("llama-bpe", ["abc", "Ġ", "123", "45", "Ġ==", "Ġx"]),
        ("qwen2", ["abc", "Ġ", "1", "2", "3", "4", "5", "Ġ==", "Ġx"]),
        ("default", ["abc", "Ġ", "123", "45", "Ġ", "==", "Ġx"]),
    ],
)
def test_how_each_cuts_a_text(written, pre, pieces):
    from preble.text.gguf import build_tokenizer

    cut = build_tokenizer(written(pre)).pre_tokenizer.pre_tokenize_str("abc 12345 == x")
    assert [piece for piece, _ in cut] == pieces


def test_a_file_that_names_no_pre_tokenizer_has_the_default_one(written):
    assert Tokenizer.load(written(None)).encode("a==12345") == Tokenizer.load(written("default")).encode("a==12345")


def test_control_tokens_are_special_and_others_are_not(written, model_path):
    ours, theirs = Tokenizer.load(written()), Tokenizer.load(model_path)
    assert [id for id in range(1000) if ours.is_special(id)] == [id for id in range(1000) if theirs.is_special(id)]
    added = Tokenizer.load(written(**{"tokenizer.ggml.token_type": [3] * 5 + [4] + [1] * 994}))
    assert added.encode("x<|system|>")[-1] == 5
    assert not added.is_special(5)


def test_the_begin_and_end_tokens_are_added_where_the_file_says(written):
    plain = Tokenizer.load(written()).encode("hello")
    adds = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    assert Tokenizer.load(written(**adds)).encode("hello") == [1, *plain, 2]
    assert Tokenizer.load(written(**adds)).encode("hello", add_special_tokens=False) == plain
    assert Tokenizer.load(written("llama-bpe", **{"tokenizer.ggml.add_bos_token": None})).encode("hello")[0] == 1


def test_the_template_is_that_of_the_folder(written, model_path):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert ChatTemplate.load(written()).render(messages) == ChatTemplate.load(model_path).render(messages)
    assert ChatTemplate.load(written(**{"tokenizer.chat_template": None})) is None


def test_named_templates(written):
    more = {"tokenizer.chat_templates": ["tool_use"], "tokenizer.chat_template.tool_use": "tools {{ eos_token }}"}
    template = ChatTemplate.load(written(**more))
    messages = [{"role": "user", "content": "Hi"}]
    assert template.render(messages, tools=[{"name": "f"}]) == "tools <|end|>"
    assert template.render(messages) == "<|user|>Hi<|end|><|assistant|>"


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"tokenizer.ggml.model": "llama"}, "tokenizer model 'llama' is not served"),
        ({"tokenizer.ggml.model": None}, r"key tokenizer\.ggml\.model is missing"),
        (
            {"tokenizer.ggml.pre": "tekken"},
            "pre-tokenizer 'tekken' is none of default, gpt-2, llama-bpe, qwen2, smollm",
        ),
        ({"tokenizer.ggml.tokens": None}, r"key tokenizer\.ggml\.tokens is missing"),
        ({"tokenizer.ggml.merges": None}, r"key tokenizer\.ggml\.merges is missing"),
        ({"tokenizer.ggml.merges": ["zzz yyy"]}, r"tokenizer\.ggml\.merges"),
        ({"tokenizer.ggml.tokens": [1, 2]}, r"tokenizer\.ggml\.tokens is no list of texts"),
    ],
)
def test_a_tokenizer_that_is_not_served_is_named(written, changed, match):
    with pytest.raises(ModelError, match=match):
        Tokenizer.load(written(**changed))


@pytest.mark.parametrize("value", ["text", 7, 2.5, True, [1, 2], ["a"]])
def test_no_value_of_a_key_is_another_error(written, value):
    for key in [key for key in read_gguf(written()).metadata if key.startswith("tokenizer.")]:
        path = written(**{key: value})
        for load in (Tokenizer.load, ChatTemplate.load):
            with contextlib.suppress(ModelError):
                load(path)


def test_a_file_that_is_no_gguf(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"something else")
    for load in (Tokenizer.load, ChatTemplate.load):
        with pytest.raises(ModelError, match=r"model\.bin: not a GGUF file"):
            load(tmp_path / "model.bin")


def test_the_caller_needs_neither_torch_nor_the_package(written):
    code = (
        "import sys; sys.modules['gguf'] = None; from preble.cluster.prompt import PromptReader\n"
        "assert PromptReader(sys.argv[1]).tokenizer.encode('hello'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(written())], check=True)
