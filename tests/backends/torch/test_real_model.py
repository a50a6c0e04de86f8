"""The real model, from its GGUF file: its answers make sense, and its greedy tokens are those of transformers."""

from __future__ import annotations

import asyncio
import inspect
import textwrap

import gguf
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from preble import PrebleCluster, SamplingParams
from preble.text import ChatTemplate, Tokenizer
from tests.gguf_files import NAMES

QUESTIONS = [
    "What is the capital of France?",
    "Name three colours of the rainbow.",
    "Write one sentence about the sea.",
    "What does this function return?\n\n" + inspect.getsource(textwrap.fill),
]
GREEDY = SamplingParams(max_tokens=24, temperature=0.0)


def chat(question):
    return [{"role": "user", "content": question}]


@pytest.fixture(scope="module")
def answers(real_model):
    """Each question's answer, computed from a cold cache, all at once, and again when its prompt is cached."""

    async def ask():
        options = {"dtype": "float32", "kv_tokens": 8192}
        async with PrebleCluster(real_model, workers=1, engine_options=options) as cluster:
            cold = await cluster.generate_many(map(chat, QUESTIONS), GREEDY)
            cached = [await cluster.generate(chat(question), GREEDY) for question in QUESTIONS]
            return cold, cached

    return asyncio.run(ask())


@pytest.fixture(scope="module")
def reference(real_model):
    """The same file as a model of transformers, read with the package's own reader."""
    reader = gguf.GGUFReader(real_model)
    read = {tensor.name: torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type)) for tensor in reader.tensors}
    config = LlamaConfig(
        hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        vocab_size=49152, rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict({name: read_tensor(read, name) for name in model.state_dict()})
    return model


def read_tensor(read, name):
    stem = name.removesuffix(".weight")
    if not stem.startswith("model.layers."):
        return read["token_embd.weight" if stem == "lm_head" else f"{NAMES[stem]}.weight"]
    number, _, part = stem.removeprefix("model.layers.").partition(".")
    values = read[f"blk.{number}.{NAMES[part]}.weight"]
    if part in ("self_attn.q_proj", "self_attn.k_proj"):
        return values.view(-1, 32, 2, 576).transpose(1, 2).reshape(values.shape)
    return values


# One test, since the fixtures are expensive and each process of the test suite would make them again.
def test_it_answers_as_transformers_does_cold_and_cached(answers, reference, real_model):
    cold, cached = answers
    assert (cold[0].text, cold[0].finish_reason) == ("The capital of France is Paris.", "stop")
    assert [each.token_ids for each in cached] == [each.token_ids for each in cold]
    assert [each.usage.cached_tokens for each in cached] == [(each.usage.prompt_tokens - 1) // 16 * 16 for each in cold]
    tokenizer, template = Tokenizer.load(real_model), ChatTemplate.load(real_model)
    for question, ours in zip(QUESTIONS, cold, strict=True):
        ids = tokenizer.encode(template.render(chat(question)), add_special_tokens=False)
        theirs = reference.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False, pad_token_id=0)
        assert list(ours.token_ids) == theirs[0, len(ids) :].tolist(), question
