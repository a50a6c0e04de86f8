from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from preble.tree import RadixTree


@pytest.fixture
def new_tree() -> Iterator[Callable[..., RadixTree]]:
    """Makes trees whose invariants are checked at the end of the test."""
    trees: list[RadixTree] = []

    def make(block_size: int = 1) -> RadixTree:
        trees.append(RadixTree(block_size=block_size))
        return trees[-1]

    yield make
    for tree in trees:
        tree.check()


@pytest.fixture
def tree(new_tree: Callable[..., RadixTree]) -> RadixTree:
    return new_tree()
