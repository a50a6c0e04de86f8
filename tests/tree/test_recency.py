from __future__ import annotations

import random

import pytest

from preble.tree.recency import SLACK, SPARSE, SQUEEZE, Recency


@pytest.fixture
def recency() -> Recency:
    recency = Recency()
    recency.touch([3, 2, 1])
    return recency


def drain(recency: Recency) -> list[int]:
    order = []
    while (node := recency.oldest()) is not None:
        recency.check()
        order.append(node)
        recency.replace(node, 0)
    return order


def test_a_path_is_used_leaf_first(recency):
    assert drain(recency) == [3, 2, 1]


def test_a_use_makes_recent(recency):
    recency.touch([4, 2, 1])
    assert drain(recency) == [3, 4, 2, 1]


def test_what_was_used_last_moves_without_a_second_entry(recency):
    recency.touch([4, 2, 1])
    recency.touch([4, 2, 1])
    assert list(recency.log) == [3, 4, 2, 1]
    assert drain(recency) == [3, 4, 2, 1]


def test_places_before_the_oldest_are_not_used_again(recency):
    recency.replace(3, 0)
    recency.replace(2, 0)
    assert recency.oldest() == 1
    recency.touch([3, 2, 1])
    recency.check()
    assert drain(recency) == [3, 2, 1]


def test_an_heir_without_a_place_takes_it(recency):
    recency.replace(3, 9)
    assert drain(recency) == [9, 2, 1]


def test_an_heir_with_a_place_keeps_it(recency):
    recency.replace(3, 1)
    assert drain(recency) == [2, 1]


def test_replacing_what_has_no_place_changes_nothing(recency):
    recency.replace(8, 9)
    assert drain(recency) == [3, 2, 1]


def test_the_log_stays_short_and_in_order():
    recency, model, rng = Recency(), {}, random.Random(0)
    for _ in range(5000):
        node = rng.randrange(1, 50)
        recency.touch([node])
        model.pop(node, None)
        model[node] = None
        assert len(recency.log) <= (SPARSE * 50 + SLACK + 1) * SQUEEZE // (SQUEEZE - 1) + SQUEEZE
        assert recency.oldest() == next(iter(model))
    assert drain(recency) == list(model)


def test_the_order_survives_evictions_while_old_entries_are_squeezed_out():
    recency, model, rng, squeezed = Recency(), {}, random.Random(1), 0
    for _ in range(5000):
        node = rng.randrange(1, 200)
        recency.touch([node])
        model.pop(node, None)
        model[node] = None
        if rng.random() < 0.4:
            oldest = recency.oldest()
            assert oldest == next(iter(model))
            recency.replace(oldest, 0)
            del model[oldest]
        squeezed += recency.written != recency.read
        recency.check()
        assert list(recency) == list(model)
    assert squeezed > 100


def test_check_sees_damage(recency):
    recency.order[3] = 1
    with pytest.raises(AssertionError):
        recency.check()
