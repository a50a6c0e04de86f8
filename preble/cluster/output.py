"""What the reader of a request gets to see of its samples, piece by piece: whole characters, up to a stop string."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from preble.cluster.reader import Reader
from preble.dispatch.request import Sample
from preble.text import SEARCHED_TOKENS, Tokenizer, Transcript
from preble.tokens import TOKEN_BYTES, unpack
from preble.types import Chunk

Stop = Callable[[Sample, str], None]
"""Ends a sample at a stop string."""


async def chunks(reader: Reader, tokenizer: Tokenizer | None, stop: Stop) -> AsyncGenerator[Chunk, None]:
    """Yield what the samples of a request have to show, until all have ended. Raises the first error among them."""
    transcripts = [_transcript(sample, tokenizer) for sample in reader.request.samples]
    unfinished = set(range(len(reader.request.samples)))
    while unfinished:
        for sample in await reader.ready():
            if sample.index not in unfinished:
                continue
            chunk = _chunk(sample, transcripts[sample.index], stop)
            if chunk.finish_reason is not None:
                unfinished.remove(sample.index)
            yield chunk


def _transcript(sample: Sample, tokenizer: Tokenizer | None) -> Transcript | None:
    if tokenizer is None:
        return None
    sampling = sample.sampling
    return Transcript(
        tokenizer,
        sampling.stop,
        include_stop=sampling.include_stop_str_in_output,
        prompt=unpack(sample.request.tokens[-SEARCHED_TOKENS * TOKEN_BYTES :]),
        min_tokens=sampling.min_tokens,
        skip_special_tokens=sampling.skip_special_tokens,
    )


def _chunk(sample: Sample, transcript: Transcript | None, stop: Stop) -> Chunk:
    ids, logprobs = sample.take()
    text = transcript.add(ids) if transcript else ""
    if transcript and sample.ended:
        text += transcript.finish()
    if transcript and transcript.matched is not None:
        ids, logprobs = sample.cut(transcript.used, ids, logprobs)
        stop(sample, transcript.matched)
    return Chunk(
        index=sample.index,
        text=text,
        token_ids=ids,
        logprobs=logprobs,
        finish_reason=sample.finish_reason,
        stop_reason=sample.stop_reason,
        usage=sample.usage if sample.ended else None,
        worker=sample.worker,
        request_id=sample.request.id,
        prompt_logprobs=sample.take_prompt_logprobs(),
    )
