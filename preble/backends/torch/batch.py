"""The spans of one step side by side, as index arrays of numpy: without padding between sequences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from preble.backends.batching import TokenSpan

Indexes = NDArray[np.int64]


class Batch(msgspec.Struct, frozen=True):
    """The tokens to compute in one step, one row each. Spans of one token come first, the longest contexts leading.

    * `tokens` and `positions` [rows] are the tokens' ids and their places in their sequences.
    * `blocks` and `offsets` [rows] are the KV block, and the place in it, where a token's K and V are written.
    * `counts` and `lengths` [spans] are a span's number of rows, and the length of its sequence up to its end.
    * `table` [spans, blocks] has the KV blocks of each span's sequence, filled up with block 0.
    * The first `singles` spans have one row.
    * `sampled` has the last row of each span that samples, in the order of the spans given to `arrange`, and `scored`
      the rows of each span at which a log-probability of the next prompt token is asked for.
    """

    tokens: Indexes
    positions: Indexes
    blocks: Indexes
    offsets: Indexes
    counts: Indexes
    lengths: Indexes
    table: Indexes
    singles: int
    sampled: Indexes
    scored: Indexes


def arrange(spans: Sequence[TokenSpan], block_size: int) -> Batch:
    """Return the batch that computes `spans`. It stays valid when their sequences change."""
    order = sorted(range(len(spans)), key=lambda index: _place(spans[index]))
    ordered = [spans[index] for index in order]
    counts = np.array([span.count for span in ordered], dtype=np.int64)
    starts = np.array([span.start for span in ordered], dtype=np.int64)
    lengths = starts + counts
    ends = counts.cumsum()
    positions = np.arange(ends[-1]) + (starts - ends + counts).repeat(counts)
    table = _table(ordered, -(-lengths // block_size))
    last = np.empty(len(spans), dtype=np.int64)
    last[order] = ends - 1
    return Batch(
        tokens=np.frombuffer(b"".join([span.tokens for span in ordered]), dtype="<i4").astype(np.int64),
        positions=positions,
        blocks=table[np.arange(len(ordered)).repeat(counts), positions // block_size],
        offsets=positions % block_size,
        counts=counts,
        lengths=lengths,
        table=table,
        singles=int((counts == 1).sum()),
        sampled=last[[span.samples for span in spans]],
        scored=_scored(spans, last),
    )


def buckets(blocks: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Split sequences of falling length, in blocks, into ranges (first, last + 1), each padded to its longest sequence.

    No range has more than `most` blocks when padded, unless one sequence alone does, and none is padded to much more
    than twice any member's length.
    """
    first = 0
    for index, length in enumerate(blocks):
        longest = blocks[first]
        if index > first and (longest * (index + 1 - first) > most or longest > 2 * length + 8):
            yield first, index
            first = index
    if blocks:
        yield first, len(blocks)


def _place(span: TokenSpan) -> tuple[bool, int]:
    return span.count > 1, -span.start


def _table(spans: list[TokenSpan], widths: NDArray[Any]) -> Indexes:
    table = np.zeros((len(spans), int(widths.max())), dtype=np.int64)
    for row, width, span in zip(table, widths.tolist(), spans, strict=True):
        row[:width] = span.sequence.blocks[:width]
    return table


def _scored(spans: Sequence[TokenSpan], last: Indexes) -> Indexes:
    firsts = [(int(row) - span.count + 1, span.scored) for row, span in zip(last, spans, strict=True) if span.scored]
    return np.array([row for first, count in firsts for row in range(first, first + count)], dtype=np.int64)
