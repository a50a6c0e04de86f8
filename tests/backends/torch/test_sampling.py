"""Tokens are drawn from the distribution that the parameters ask for, by seed and position alone."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from preble.backends.torch.sampling import Draw, draw_for, sample, uniform
from preble.types import SamplingParams
from tests.backends.torch.network import pack, sequence

VOCAB = 50
LOGITS = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(3)) * 2


def draw(position=0, seed=0, prompt=(), output=(), forbidden=(), **sampling):
    return Draw(SamplingParams(**sampling), seed, position, pack(list(prompt)), pack(list(output)), forbidden)


def tokens(logits, draws):
    return [token for token, _ in sample(logits, draws)]


def frequencies(count=4000, **sampling):
    draws = [draw(position, **sampling) for position in range(count)]
    found = Counter(tokens(LOGITS.expand(count, -1), draws))
    return torch.tensor([found[token] / count for token in range(VOCAB)])


def kept(probabilities, keep):
    return torch.where(keep, probabilities, 0) / probabilities[keep].sum()


def expected(**sampling):
    probabilities = (LOGITS[0] / sampling.get("temperature", 1.0)).softmax(0)
    order = probabilities.argsort(descending=True)
    if k := sampling.get("top_k"):
        probabilities = kept(probabilities, torch.isin(torch.arange(VOCAB), order[:k]))
    if "top_p" in sampling:
        before = probabilities[order].cumsum(0) - probabilities[order]
        probabilities = kept(probabilities, torch.isin(torch.arange(VOCAB), order[before < sampling["top_p"]]))
    if "min_p" in sampling:
        probabilities = kept(probabilities, probabilities >= sampling["min_p"] * probabilities.max())
    return probabilities


@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 3.0},
        {"top_k": 5},
        {"top_k": 1},
        {"top_p": 0.6},
        {"top_p": 1e-6},
        {"min_p": 0.2},
        {"top_k": 8, "top_p": 0.7, "min_p": 0.15, "temperature": 1.5},
    ],
)
def test_distribution(sampling):
    found, wanted = frequencies(**sampling), expected(**sampling)
    assert not found[wanted == 0].any(), "a token was drawn that the parameters exclude"
    assert (found - wanted).abs().max() < 0.03


def test_greedy_takes_the_most_likely():
    assert tokens(LOGITS, [draw(temperature=0.0)]) == [int(LOGITS.argmax())]
    assert tokens(LOGITS, [draw(temperature=1e-9, seed=9)]) == [int(LOGITS.argmax())]
    assert tokens(LOGITS, [draw(temperature=1e-4, seed=9)]) == [int(LOGITS.argmax())]


def test_a_draw_ignores_the_batch_around_it():
    kinds = [{}, {"top_k": 7}, {"top_p": 0.8}, {"temperature": 0.0}, {"min_p": 0.1}, {"presence_penalty": 1.0}]
    draws = [draw(index, seed=index, **kinds[index % len(kinds)]) for index in range(24)]
    logits = torch.randn(24, VOCAB, generator=torch.Generator().manual_seed(1))
    alone = [tokens(logits[index : index + 1], [one])[0] for index, one in enumerate(draws)]
    assert tokens(logits, draws) == alone
    assert tokens(logits.flip(0), draws[::-1]) == alone[::-1]


def test_seed_and_position_matter():
    row = torch.zeros(1, 5000)
    by_seed = [tokens(row, [draw(3, seed=seed)])[0] for seed in range(20)]
    by_position = [tokens(row, [draw(position, seed=3)])[0] for position in range(20)]
    assert len(set(by_seed)) > 15
    assert len(set(by_position)) > 15


def test_uniform():
    numbers = torch.tensor([[uniform(seed, position) for position in range(200)] for seed in (-5, 0, 1, 2**63 - 1)])
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert (numbers.mean(1) - 0.5).abs().max() < 0.08
    assert (torch.corrcoef(numbers) - torch.eye(4)).abs().max() < 0.3


def test_penalties():
    logits = torch.tensor([[2.0, 1.0, -1.0, 0.5]])
    past = {"prompt": (1, 2), "output": (0, 0, 3), "temperature": 0.0, "logprobs": 0}

    def chosen(**penalties):
        return tokens(logits, [draw(**past, **penalties)])[0]

    assert chosen() == 0
    assert chosen(presence_penalty=1.1) == 1, "the prompt is not output"
    assert chosen(frequency_penalty=0.4) == 0
    assert chosen(frequency_penalty=0.6) == 1, "token 0 was there twice"
    assert chosen(repetition_penalty=1.5) == 0, "prompt tokens are repetitions too: 1.33, 0.67, -1.5, 0.33"
    assert chosen(presence_penalty=-2.0, frequency_penalty=-2.0) == 0
    assert torch.equal(logits, torch.tensor([[2.0, 1.0, -1.0, 0.5]])), "logits are the caller's"


def test_a_bias_is_added_before_penalties_and_leaves_other_rows_alone():
    logits = torch.tensor([[2.0, 1.0, -1.0, 0.5]])

    def chosen(**sampling):
        return tokens(logits.expand(2, -1), [draw(temperature=0.0, **sampling), draw(temperature=0.0)])

    assert chosen(logit_bias={1: 0.9}) == [0, 0]
    assert chosen(logit_bias={1: 1.1}) == [1, 0]
    assert chosen(logit_bias={0: -100, 1: -100}) == [3, 0]
    assert chosen(logit_bias={1: 1.1}, repetition_penalty=2.0, prompt=(1,)) == [0, 0], "(1 + 1.1) / 2 < 2"
    assert chosen(logit_bias={2: 100.0}, forbidden=(2,)) == [0, 0]
    assert torch.equal(logits, torch.tensor([[2.0, 1.0, -1.0, 0.5]])), "logits are the caller's"


def test_a_bias_multiplies_the_odds():
    found = frequencies(logit_bias={7: 2.0, 9: -100.0})
    odds = LOGITS[0].exp()
    odds[7] *= torch.tensor(2.0).exp()
    odds[9] = 0
    wanted = odds / odds.sum()
    assert (found - wanted).abs().max() < 0.03
    assert found[9] == 0


def test_repetition_penalty_lowers_negative_logits():
    logits = torch.tensor([[-1.0, -1.5]])
    assert tokens(logits, [draw(prompt=(0,), temperature=0.0, repetition_penalty=2.0)]) == [1]


def test_forbidden_tokens_are_not_drawn():
    best = int(LOGITS.argmax())
    assert tokens(LOGITS, [draw(temperature=0.0, forbidden=(best, 9999))]) != [best]
    assert best not in tokens(LOGITS.expand(300, -1), [draw(index, forbidden=(best,)) for index in range(300)])


def test_logprobs_are_those_of_the_raw_distribution():
    settings = {"temperature": 0.3, "top_k": 4, "repetition_penalty": 1.5, "prompt": (1, 2)}
    pairs = sample(LOGITS.expand(3, -1), [draw(1, logprobs=3, **settings), draw(2), draw(3, logprobs=0, **settings)])
    raw = LOGITS[0].log_softmax(0)
    token, first = pairs[0]
    assert first.token_id == token
    assert first.logprob == pytest.approx(float(raw[token]))
    assert [token for token, _ in first.top] == raw.topk(3).indices.tolist()
    assert [value for _, value in first.top] == pytest.approx(raw.topk(3).values.tolist())
    assert pairs[1][1] is None
    assert pairs[2][1].top == ()


def test_draw_for_a_sequence():
    made = sequence([5, 6, 7], SamplingParams(min_tokens=2, stop_token_ids=(8,), presence_penalty=1.0, seed=4), id=1)
    made.tokens += pack([9])
    made.prompt_tokens = 3
    drawn = draw_for(made, seed=0, eos_token_ids=(2,))
    assert (drawn.seed, drawn.position, drawn.prompt, drawn.output) == (4, 4, pack([5, 6, 7]), pack([9]))
    assert drawn.forbidden == (), "the next token is the second"
    del made.tokens[-4:]
    assert draw_for(made, seed=0, eos_token_ids=(2,)).forbidden == (8, 2)


def test_ends_that_are_ignored_are_not_forbidden():
    made = sequence([5], SamplingParams(min_tokens=5, ignore_eos=True))
    assert draw_for(made, seed=0, eos_token_ids=(2,)).forbidden == ()


def test_requests_without_seed_differ():
    seeds = {draw_for(sequence([5], id=n), seed=engine, eos_token_ids=()).seed for n in range(9) for engine in (0, 1)}
    assert len(seeds) == 18


def test_nothing_to_draw():
    assert sample(torch.empty(0, VOCAB), []) == []
