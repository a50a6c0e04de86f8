"""From logits to tokens. A token depends only on its own logits, seed and position, never on the rest of the batch."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import torch
from torch import Tensor

from preble.backends import batching
from preble.backends.torch.forms import Form
from preble.types import SamplingParams, TokenLogprob

_GREEDY_BELOW = 1e-5
_MASK = (1 << 64) - 1


class Draw(msgspec.Struct, frozen=True):
    """What is needed to sample one token, beside its logits.

    `position` is its place in the sequence. `prompt` and `output` (packed int32) are given only if a penalty needs
    them. `forbidden` are the tokens that would end the sequence before `min_tokens`. `form` is what the output must
    follow, of which `formed` (packed int32) is generated.
    """

    sampling: SamplingParams
    seed: int
    position: int
    prompt: bytes = b""
    output: bytes = b""
    forbidden: tuple[int, ...] = ()
    form: Form | None = None
    formed: bytes = b""

    @property
    def greedy(self) -> bool:
        """True if the most likely token is taken."""
        return self.sampling.temperature < _GREEDY_BELOW


class Scored(msgspec.Struct, frozen=True):
    """A part of a prompt whose log-probabilities are asked for, with the `count` most likely tokens of each.

    `tokens` (packed int32) are those that follow the rows of logits. The entries go to the end of the list `into`.
    """

    tokens: bytes
    count: int
    into: list[TokenLogprob | None]


def scored_by(span: batching.TokenSpan) -> Scored:
    """Return what a step tells of the prompt that `span` is a part of."""
    sequence, first = span.sequence, span.start + 1
    tokens = bytes(sequence.tokens[first * 4 : (first + span.scored) * 4])
    entries = sequence.prompt_logprobs
    assert entries is not None
    return Scored(tokens, sequence.sampling.prompt_logprobs or 0, entries)


def draw_for(
    sequence: batching.Sequence, *, seed: int, eos_token_ids: tuple[int, ...], form: Form | None = None
) -> Draw:
    """Return what is needed to sample the next token of `sequence`; `seed` is for requests that have no own one."""
    sampling = sequence.sampling
    prompt = output = b""
    if _penalizes(sampling):
        split = sequence.prompt_tokens * 4
        prompt, output = bytes(sequence.tokens[:split]), bytes(sequence.tokens[split:])
    return Draw(
        sampling,
        _mix(seed, sequence.id) if sampling.seed is None else sampling.seed,
        sequence.length,
        prompt,
        output,
        _forbidden(sequence, eos_token_ids),
        form,
        bytes(sequence.tokens[(sequence.prompt_tokens - sequence.begun) * 4 :]) if form is not None else b"",
    )


@torch.inference_mode()
def sample(logits: Tensor, draws: Sequence[Draw]) -> list[batching.SampledToken]:
    """Choose one token per row of `logits` [draws, vocab]."""
    if not draws:
        return []
    raw = logits.float()
    scores = _adjusted(raw, draws)
    tokens = scores.argmax(-1)
    # Rows with and without top_k or top_p are sampled apart, so that none depends on the rest of the batch.
    for cuts in (False, True):
        rows = [row for row, draw in enumerate(draws) if not draw.greedy and _cuts(draw.sampling) == cuts]
        if rows:
            tokens[rows] = _random(scores[rows], [draws[row] for row in rows], cuts)
    return _with_logprobs(raw, tokens, draws)


@torch.inference_mode()
def score(logits: Tensor, parts: Sequence[Scored]) -> list[list[TokenLogprob]]:
    """Return the log-probabilities of each part's tokens, whose rows follow each other in `logits` [rows, vocab]."""
    found, first = [], 0
    for part in parts:
        tokens = torch.from_numpy(np.frombuffer(part.tokens, dtype="<i4").astype(np.int64)).to(logits.device)
        rows = logits[first : first + len(tokens)].float()
        found.append(_token_logprobs(rows, tokens, [part.count] * len(tokens)))
        first += len(tokens)
    return found


def uniform(seed: int, position: int) -> float:
    """Return a number in [0, 1) that is a fixed random function of its arguments."""
    return (_mix(seed, position) >> 11) * 2.0**-53


def _mix(seed: int, number: int) -> int:
    """Splitmix64's finalizer over both, twice, so that neighbouring seeds and positions give unrelated numbers."""
    return _scramble((_scramble(seed & _MASK) + (number + 1) * 0x9E3779B97F4A7C15) & _MASK)


def _scramble(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def _penalizes(sampling: SamplingParams) -> bool:
    return bool(sampling.presence_penalty or sampling.frequency_penalty or sampling.repetition_penalty != 1.0)


def _changes(sampling: SamplingParams) -> bool:
    return sampling.logit_bias is not None or _penalizes(sampling)


def _cuts(sampling: SamplingParams) -> bool:
    return sampling.top_k > 0 or sampling.top_p < 1.0


def _forbidden(sequence: batching.Sequence, eos_token_ids: tuple[int, ...]) -> tuple[int, ...]:
    sampling = sequence.sampling
    # The token to come counts as output when the stop rules are applied.
    if sequence.output_tokens + 1 >= sampling.min_tokens:
        return ()
    return tuple(sampling.stop_token_ids) + (() if sampling.ignore_eos else eos_token_ids)


def _adjusted(raw: Tensor, draws: Sequence[Draw]) -> Tensor:
    rows = [row for row, draw in enumerate(draws) if draw.forbidden or draw.form or _changes(draw.sampling)]
    if not rows:
        return raw
    scores = raw.clone()
    for row in rows:
        if biases := draws[row].sampling.biases:
            scores[row, list(biases)] += torch.tensor(list(biases.values()), dtype=scores.dtype).to(scores.device)
        _penalize(scores[row], draws[row])
        _restrict(scores[row], draws[row])
    return scores


def _restrict(scores: Tensor, draw: Draw) -> None:
    forbidden = [token for token in draw.forbidden if token < len(scores)]
    if draw.form is None:
        scores[forbidden] = -torch.inf
        return
    allowed = draw.form.allowed(draw.formed)
    if (longer := allowed.copy())[forbidden].any():
        longer[forbidden] = False
        allowed = longer if longer.any() else allowed  # an output that is complete ends, however short it is
    scores[torch.from_numpy(~allowed).to(scores.device)] = -torch.inf


def _penalize(scores: Tensor, draw: Draw) -> None:
    sampling = draw.sampling
    if sampling.repetition_penalty != 1.0:
        seen = torch.from_numpy(np.unique(np.frombuffer(draw.prompt + draw.output, dtype="<i4")).astype(np.int64))
        seen = seen.to(scores.device)
        old, penalty = scores[seen], sampling.repetition_penalty
        scores[seen] = torch.where(old > 0, old / penalty, old * penalty)
    if draw.output and (sampling.presence_penalty or sampling.frequency_penalty):
        tokens, counts = np.unique(np.frombuffer(draw.output, dtype="<i4"), return_counts=True)
        penalties = torch.from_numpy(sampling.frequency_penalty * counts + sampling.presence_penalty)
        scores[torch.from_numpy(tokens.astype(np.int64)).to(scores.device)] -= penalties.to(scores)


def _random(scores: Tensor, draws: Sequence[Draw], cuts: bool) -> Tensor:
    """Draw a token per row by inverting the cumulative distribution, in falling order of probability if it is cut."""
    temperature = _column(scores, [draw.sampling.temperature for draw in draws])
    probabilities = ((scores - scores.amax(-1, keepdim=True)) / temperature).softmax(-1)
    order = None
    if cuts:
        probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
        probabilities = _cut(probabilities, draws)
    least = _column(scores, [draw.sampling.min_p for draw in draws])
    probabilities = probabilities.where(probabilities >= least * probabilities.amax(-1, keepdim=True), 0)
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    targets = _column(cumulative, [uniform(draw.seed, draw.position) for draw in draws]) * cumulative[:, -1:]
    choice = torch.searchsorted(cumulative, targets, right=True)
    return (choice if order is None else order.gather(1, choice)).squeeze(1)


def _cut(probabilities: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Keep the `top_k` first of each sorted row, and of those as many as make up `top_p`."""
    vocab = probabilities.shape[1]
    most = _column(probabilities, [draw.sampling.top_k if draw.sampling.top_k > 0 else vocab for draw in draws])
    kept = probabilities.where(torch.arange(vocab, device=most.device) < most, 0)
    cumulative = kept.cumsum(-1, dtype=torch.float64)
    share = _column(cumulative, [draw.sampling.top_p for draw in draws]) * cumulative[:, -1:]
    return kept.where(cumulative - kept < share, 0)


def _column(like: Tensor, values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=like.dtype).unsqueeze(1).to(like.device)


def _with_logprobs(raw: Tensor, tokens: Tensor, draws: Sequence[Draw]) -> list[batching.SampledToken]:
    chosen = tokens.tolist()
    samples: list[batching.SampledToken] = [(token, None) for token in chosen]
    rows = [row for row, draw in enumerate(draws) if draw.sampling.logprobs is not None]
    if rows:
        entries = _token_logprobs(raw[rows], tokens[rows], [draws[row].sampling.logprobs or 0 for row in rows])
        for row, entry in zip(rows, entries, strict=True):
            samples[row] = chosen[row], entry
    return samples


def _token_logprobs(logits: Tensor, tokens: Tensor, counts: Sequence[int]) -> list[TokenLogprob]:
    """The entry of each of `tokens` [rows] in its row of `logits` [rows, vocab], with so many most likely tokens."""
    logprobs = logits.log_softmax(-1)
    best, ids = (tensor.tolist() for tensor in logprobs.topk(min(max(counts), logits.shape[1])))
    own = logprobs.gather(1, tokens.unsqueeze(1)).squeeze(1).tolist()
    return [
        TokenLogprob(token, own[row], tuple(zip(ids[row][:count], best[row][:count], strict=True)))
        for row, (token, count) in enumerate(zip(tokens.tolist(), counts, strict=True))
    ]
