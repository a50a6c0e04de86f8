"""The forward pass agrees with transformers, however the tokens are divided among steps and batches."""

from __future__ import annotations

import pytest
import torch

from preble.backends.batching import TokenSpan
from tests.backends.torch.network import prompt

LENGTH = 300


def logits(model, tokens):
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0]


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-3)


def test_whole_prompt(shape, network, reference):
    tokens = prompt(LENGTH)
    close(network(shape).run(tokens, [LENGTH]), logits(reference(shape), tokens)[-1:])


def test_chunks_then_single_tokens(shape, network, reference):
    tokens = prompt(LENGTH)
    ours = network(shape).run(tokens, [150, 101, 47, 1, 1])
    close(ours, logits(reference(shape), tokens)[[149, 250, 297, 298, 299]])


def test_logits_of_the_reference_vary_by_position(reference):
    found = logits(reference("llama"), prompt(LENGTH)).argmax(-1)
    assert len(set(found.tolist())) > 50, "the models of these tests would hide a wrong cache"


def test_mixed_batch_equals_each_alone(network, reference):
    """Decodes of very different lengths, a fresh prefill and one with a cached part, in one forward pass."""
    net, model = network("llama"), reference("llama")
    lengths = [3, 290, 8, 9, 40, 17, 120, 1]
    decodes = [net.sequence(prompt(length, seed)) for seed, length in enumerate(lengths)]
    for made in decodes:
        if made.length > 1:
            net.forward(TokenSpan(made, 0, made.length - 1, False))
    fresh, resumed = net.sequence(prompt(33, 20)), net.sequence(prompt(100, 21))
    net.forward(TokenSpan(resumed, 0, 61, False))
    spans = [TokenSpan(made, made.length - 1, 1, True) for made in decodes]
    spans[2:2] = [TokenSpan(resumed, 61, 39, True), TokenSpan(fresh, 0, 20, False)]
    ours = net.forward(*spans)
    prompts = [prompt(length, seed) for seed, length in enumerate(lengths)]
    prompts.insert(2, prompt(100, 21))
    close(ours, torch.stack([logits(model, tokens)[-1] for tokens in prompts]))
    close(net.forward(TokenSpan(fresh, 20, 13, True)), logits(model, prompt(33, 20))[-1:])


def test_many_decodes_are_split_to_fit_the_workspace(network, reference, monkeypatch):
    monkeypatch.setattr("preble.backends.torch.attention._WORKSPACE", {"cpu": 1 << 15})
    net = network("llama")
    prompts = [prompt(20 + seed, seed) for seed in range(12)]
    made = [net.sequence(tokens) for tokens in prompts]
    net.forward(*(TokenSpan(one, 0, one.length - 1, False) for one in made))
    ours = net.forward(*(TokenSpan(one, one.length - 1, 1, True) for one in made))
    close(ours, torch.stack([logits(reference("llama"), tokens)[-1] for tokens in prompts]))


def test_shared_blocks_are_read_by_both(network, reference):
    net = network("qwen3")
    first, second = prompt(64, 1), prompt(64, 1)[:48] + prompt(16, 2)
    one, two = net.sequence(first), net.sequence(second)
    net.forward(TokenSpan(one, 0, 64, False))
    two.lease.blocks[:6] = one.lease.blocks[:6]
    close(net.forward(TokenSpan(two, 48, 16, True)), logits(reference("qwen3"), second)[-1:])


def test_no_sampled_rows(network):
    net = network("llama")
    assert net.forward(TokenSpan(net.sequence(prompt(5)), 0, 5, False)).shape == (0, 320)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(network, reference, dtype):
    tokens = prompt(100)
    ours = network("qwen3", dtype=dtype).run(tokens, [60, 39, 1]).float()
    theirs = logits(reference("qwen3"), tokens)[[59, 98, 99]]
    assert (ours - theirs).norm() < 0.1 * theirs.norm()


def test_plain_weights_where_packing_is_not_possible(network, reference, monkeypatch):
    monkeypatch.setattr("preble.backends.torch.linear.packs", lambda dtype: False)
    tokens = prompt(50)
    close(network("llama-biases").run(tokens, [30, 19, 1]), logits(reference("llama-biases"), tokens)[[29, 48, 49]])
