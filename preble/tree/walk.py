"""The walk down the tree along a prompt, and the comparison of bytes where it ends."""

from __future__ import annotations

from preble.tokens import TOKEN_BYTES
from preble.tree.nodes import Column

try:
    from preble.tree import _walk
except ImportError:  # built without a compiler
    _walk = None  # type: ignore[assignment]

_XOR_BYTES = 256
"""Below this size one integer XOR is cheaper than another step of bisection."""


def walk_in_python(
    prompt: bytes, stride: int, edge: Column, children: Column, holders: Column
) -> tuple[list[tuple[int, int]], int, int, int]:
    """Return the levels, tokens, node and offset of a `Match`; `stride` is the bytes of a block, the rest columns."""
    levels: list[tuple[int, int]] = []
    node = position = taken = mask = 0
    while (below := children[node]) is not None:
        child = below.get(prompt[position : position + stride])
        if child is None:
            break
        if holders[child] != mask:
            if mask:
                levels.append((position // TOKEN_BYTES, mask))
            mask = holders[child]
        node = child
        taken = len(edge[node])
        if not prompt.startswith(edge[node], position):
            taken = common_prefix(prompt, position, edge[node])
            taken -= taken % stride
        position += taken
        if taken < len(edge[node]):
            break
    if mask:
        levels.append((position // TOKEN_BYTES, mask))
    return levels, position // TOKEN_BYTES, node, taken // TOKEN_BYTES


walk = walk_in_python if _walk is None else _walk.walk


def common_prefix(tokens: bytes, position: int, edge: bytes) -> int:
    """Return how many bytes of `edge` equal `tokens` from `position` on."""
    low, high = 0, min(len(edge), len(tokens) - position)
    view = memoryview(edge)
    if tokens.startswith(view[:high], position):
        return high
    while high - low > _XOR_BYTES:
        middle = (low + high) // 2
        if tokens.startswith(view[low:middle], position + low):
            low = middle
        else:
            high = middle
    ours = int.from_bytes(edge[low:high], "little")
    theirs = int.from_bytes(tokens[position + low : position + high], "little")
    difference = ours ^ theirs
    return low + ((difference & -difference).bit_length() - 1) // 8 if difference else high
