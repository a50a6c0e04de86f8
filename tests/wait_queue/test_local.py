from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, get_args

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sortedcontainers import SortedKeyList

from preble.errors import ConfigurationError, InvalidRequestError
from preble.tokens import pack
from preble.tree import RadixTree
from preble.wait_queue.disciplines import Discipline
from preble.wait_queue.local import LocalScheduler

LENGTH = 100


def prompt(*head: int, length: int = LENGTH) -> bytes:
    """A prompt that begins with `head`, then repeats its last token."""
    return pack((head + (head[-1],) * length)[:length])


def cold(tokens: bytes) -> int:
    return 0


def cached_by(percentages: dict[bytes, int]) -> Callable[[bytes], int]:
    return lambda tokens: percentages[tokens] * (len(tokens) // 4) // 100


def queue(percentages: list[int], local: LocalScheduler | None = None):
    """Requests 0, 1, ... that share nothing, with so many percent of each cached."""
    local = local or LocalScheduler("groups")
    prompts = {prompt(id + 1): percent for id, percent in enumerate(percentages)}
    for id, tokens in enumerate(prompts):
        local.add(id, tokens, now=float(id))
    return local, cached_by(prompts)


def take(local: LocalScheduler, slots: int, cached=cold) -> list[int]:
    """Admit what is proposed, each before the next is asked for, and end its prefill at once."""
    taken = []
    for id in local.pick(slots, cached=cached, now=0.0):
        local.admit(id)
        local.prefilled(id)
        taken.append(id)
    local.check()
    return taken


def group(percent: int) -> int:
    return max(1, round(percent / 10))


ALL_GROUPS = [percent for percent in range(10, 101, 10) for _ in range(60)]


def test_of_55_slots_group_10_gets_10_and_group_1_gets_1():
    local, cached = queue(ALL_GROUPS)
    shares = Counter(group(ALL_GROUPS[id]) for id in take(local, 55, cached))
    assert shares == {number: number for number in range(1, 11)}


def test_single_slots_are_shared_in_the_same_proportion():
    local, cached = queue(ALL_GROUPS)
    picked = [take(local, 1, cached)[0] for _ in range(110)]
    assert Counter(group(ALL_GROUPS[id]) for id in picked) == {number: 2 * number for number in range(1, 11)}


def test_groups_interleave_rather_than_drain_one_after_the_other():
    local, cached = queue(ALL_GROUPS)
    first = [group(ALL_GROUPS[id]) for id in take(local, 10, cached)]
    assert len(set(first)) >= 8


def test_the_cold_are_not_starved_by_a_stream_of_the_cached():
    local, _ = queue([0])
    picked: list[int] = []
    for arrival in range(1, 60):
        local.add(arrival, prompt(arrival + 1), now=float(arrival))
        picked += take(local, 1, lambda tokens: 0 if tokens == prompt(1) else LENGTH)
    assert 0 in picked[:11]


@pytest.mark.parametrize(("percent", "number"), [(63, 6), (0, 1), (4, 1), (99, 10), (100, 10)])
def test_a_percentage_has_a_group(percent: int, number: int):
    """Of two groups that wait, the higher goes first; inside one, the earlier."""
    for other in range(1, 11):
        local, cached = queue([10 * other, percent])
        assert take(local, 2, cached) == ([1, 0] if number > other else [0, 1])


def test_the_number_of_groups_is_a_parameter():
    local, cached = queue([10, 40], LocalScheduler("groups", groups=2))
    assert take(local, 2, cached) == [0, 1]
    local, cached = queue([10, 80], LocalScheduler("groups", groups=2))
    assert take(local, 2, cached) == [1, 0]


def test_inside_a_group_the_first_to_come_goes_first():
    local, cached = queue([52, 48, 51, 53])
    assert take(local, 4, cached) == [0, 1, 2, 3]


def test_arrival_is_what_now_said():
    local = LocalScheduler("fcfs")
    local.add(1, prompt(1), now=5.0)
    local.add(2, prompt(2), now=3.0)
    assert take(local, 2) == [2, 1]


def test_fcfs_is_blind_to_the_cache():
    local, cached = queue([0, 50, 100, 20], LocalScheduler("fcfs"))
    assert take(local, 4, cached) == [0, 1, 2, 3]


def test_lpm_takes_the_longest_cached_prefix():
    local, cached = queue([0, 50, 100, 20, 50], LocalScheduler("lpm"))
    assert take(local, 5, cached) == [2, 1, 4, 3, 0]


def test_shortest_prefill_takes_the_least_to_compute():
    local = LocalScheduler("shortest-prefill")
    lengths = {1: 100, 2: 30, 3: 60, 4: 30}
    prompts = {prompt(id, length=length): id for id, length in lengths.items()}
    for tokens, id in prompts.items():
        local.add(id, tokens, now=0.0)
    assert take(local, 4, lambda tokens: 90 if prompts[tokens] == 1 else 0) == [1, 2, 4, 3]


def picked_at(now: float, waiting: dict[int, tuple[float, int]]) -> list[int]:
    """The order at `now` of requests by id, of which arrival and length are given and nothing is cached."""
    local = LocalScheduler("response-ratio")
    for id, (arrived, length) in waiting.items():
        local.add(id, prompt(id, length=length), now=arrived)
    return list(local.pick(9, cached=cold, now=now))


def test_by_response_ratio_the_longest_wait_for_each_token_to_compute_goes_first():
    assert picked_at(10.0, {1: (0.0, 100), 2: (5.0, 40), 3: (9.0, 5)}) == [3, 2, 1], "0.1, 0.125 and 0.2 s a token"
    assert picked_at(18.0, {1: (0.0, 100), 2: (5.0, 90), 3: (9.0, 80)}) == [1, 2, 3], "0.18, 0.144 and 0.113 s a token"


def test_by_response_ratio_those_that_have_just_come_go_shortest_first():
    assert picked_at(7.0, {1: (7.0, 90), 2: (7.0, 30), 3: (7.0, 60)}) == [2, 3, 1]


def test_by_response_ratio_what_is_cached_takes_no_time():
    local, cached = queue([10, 90, 50], LocalScheduler("response-ratio"))
    assert list(local.pick(3, cached=cached, now=100.0)) == [1, 2, 0]


def test_by_response_ratio_a_long_prompt_is_not_passed_for_ever():
    local = LocalScheduler("response-ratio")
    local.add(1, prompt(1, length=100), now=0.0)
    taken: list[int] = []
    for second in range(1, 30):
        local.add(second + 1, prompt(second + 1, length=10), now=float(second))
        taken.append(next(local.pick(1, cached=cold, now=second + 1.0)))
        local.admit(taken[-1])
    assert taken.index(1) == 9, "it has waited ten times as long for ten times as much"


@pytest.mark.parametrize("discipline", get_args(Discipline))
def test_a_lower_priority_number_goes_first_whatever_is_cached(discipline: Discipline):
    local = LocalScheduler(discipline)
    for id, priority in enumerate([1, 0, -1, 0, 1]):
        local.add(id, prompt(id + 1), priority=priority, now=0.0)
    cached = cached_by({prompt(id + 1): percent for id, percent in enumerate([100, 0, 0, 0, 100])})
    assert take(local, 5, cached) == [2, 1, 3, 0, 4]


@pytest.mark.parametrize("discipline", get_args(Discipline))
def test_no_more_than_the_slots(discipline: Discipline):
    local, cached = queue([10, 20, 30], LocalScheduler(discipline))
    assert take(local, 0, cached) == []
    assert len(take(local, 2, cached)) == 2
    assert local.waiting == 1


@pytest.mark.parametrize("discipline", get_args(Discipline))
def test_proposing_changes_nothing(discipline: Discipline):
    local, cached = queue([10, 90, 50, 90, 10], LocalScheduler(discipline))
    proposed = [list(local.pick(5, cached=cached, now=0.0)) for _ in range(3)]
    assert proposed[0] == proposed[1] == proposed[2]
    assert local.waiting == 5
    untouched, cached = queue([10, 90, 50, 90, 10], LocalScheduler(discipline))
    assert [take(local, 1, cached) for _ in range(5)] == [take(untouched, 1, cached) for _ in range(5)]


def test_a_proposal_that_did_not_fit_does_not_count_against_its_group():
    local, cached = queue([100, 100, 10])
    for _ in range(5):
        assert next(iter(local.pick(1, cached=cached, now=0.0))) == 0
    assert take(local, 3, cached) == [0, 1, 2]


def hold(block_size: int = 1) -> LocalScheduler:
    """Request 1 is being prefilled."""
    local = LocalScheduler(block_size=block_size)
    local.add(1, prompt(7, 7, 7, 1), now=0.0)
    local.admit(1)
    return local


def picks(local: LocalScheduler, cached: int = 0) -> list[int]:
    return list(local.pick(9, cached=lambda tokens: cached, now=0.0))


def test_a_follower_waits_until_its_leader_is_computed():
    local = hold()
    local.add(2, prompt(7, 7, 7, 2), now=1.0)
    assert picks(local) == []
    local.prefilled(1)
    assert picks(local) == [2]


def test_a_follower_is_released_when_its_leader_is_removed():
    local = hold()
    local.add(2, prompt(7, 7, 7, 2), now=1.0)
    local.remove(1)
    local.check()
    assert picks(local) == [2]


def test_whoever_shares_nothing_with_the_leader_overtakes_the_held():
    local = hold()
    local.add(2, prompt(7, 7, 7, 2), now=1.0)
    local.add(3, prompt(8), now=2.0)
    assert picks(local) == [3]


def test_a_held_request_takes_no_slot():
    local = hold()
    local.add(2, prompt(7, 7, 7, 2), now=1.0)
    local.add(3, prompt(8), now=2.0)
    assert list(local.pick(1, cached=cold, now=0.0)) == [3]


def test_what_is_shared_is_cached_already_so_nothing_is_held():
    local = hold()
    local.add(2, prompt(7, 7, 7, 2), now=1.0)
    assert picks(local, cached=2) == []
    assert picks(local, cached=3) == [2]


def test_the_same_prompt_is_held_though_its_last_token_is_always_computed():
    local = hold()
    local.add(2, prompt(7, 7, 7, 1), now=1.0)
    assert picks(local, cached=LENGTH - 2) == []
    assert picks(local, cached=LENGTH - 1) == [2]


def test_the_last_block_is_always_computed_so_it_is_not_waited_for():
    local = hold(block_size=4)
    local.add(2, prompt(7, 7, 7, 1), now=1.0)
    assert picks(local, cached=LENGTH - 8) == []
    assert picks(local, cached=LENGTH - 4) == [2]


def test_less_than_a_block_in_common_holds_nobody():
    local = hold(block_size=4)
    local.add(2, prompt(7, 7, 7, 2), now=1.0)
    assert picks(local) == [2]
    local.add(3, prompt(7, 7, 7, 1, 3), now=1.0)
    assert picks(local) == [2]


def test_a_prompt_shorter_than_a_block_leads_nobody():
    local = LocalScheduler(block_size=16)
    for id in (1, 2):
        local.add(id, prompt(7, length=5), now=0.0)
    local.admit(1)
    local.check()
    assert picks(local) == [2]
    local.prefilled(1)
    local.check()


def test_two_followers_are_released_together():
    local = hold()
    for id in (2, 3):
        local.add(id, prompt(7, 7, 7, id), now=1.0)
    assert picks(local) == []
    local.prefilled(1)
    assert picks(local) == [2, 3]


def test_the_first_follower_released_leads_the_next_if_the_prefix_did_not_stay():
    local = hold()
    for id in (2, 3):
        local.add(id, prompt(7, 7, 7, id), now=1.0)
    local.prefilled(1)
    picking = local.pick(2, cached=cold, now=0.0)
    local.admit(next(picking))
    assert list(picking) == []


def test_a_removed_follower_is_gone():
    local = hold()
    local.add(2, prompt(7, 7, 7, 2), now=1.0)
    local.remove(2)
    local.prefilled(1)
    assert picks(local) == []


def test_a_request_can_be_removed_anywhere():
    local, cached = queue([10, 50, 90])
    assert 1 in local
    local.remove(1)
    local.remove(1)
    local.remove(77)
    assert 1 not in local
    assert local.waiting == 2
    local.admit(0)
    local.remove(0)
    local.check()
    assert take(local, 9, cached) == [2]


def test_an_id_can_be_used_again_but_not_twice_at_once():
    local = hold()
    local.add(2, prompt(5), now=0.0)
    for id in (1, 2):
        with pytest.raises(InvalidRequestError, match=f"id: {id} is in use"):
            local.add(id, prompt(6), now=0.0)
        local.remove(id)
    local.add(1, prompt(6), now=0.0)
    assert picks(local) == [1]


def test_an_empty_prompt_is_refused():
    local = LocalScheduler()
    with pytest.raises(InvalidRequestError, match="tokens: must not be empty"):
        local.add(1, b"", now=0.0)
    assert 1 not in local


def test_bad_options_are_refused():
    with pytest.raises(ConfigurationError, match="discipline: unknown 'lottery', one of response-ratio, groups, fcfs"):
        LocalScheduler("lottery")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="groups: must be at least 1"):
        LocalScheduler(groups=0)


def test_check_finds_a_leader_that_is_not_let_go(monkeypatch: pytest.MonkeyPatch):
    local = hold()
    local.add(2, prompt(7, 7, 7, 2), now=0.0)
    assert picks(local) == []
    monkeypatch.setattr(RadixTree, "unpin", lambda *_: None)
    local.prefilled(1)
    with pytest.raises(AssertionError, match="leaders"):
        local.check()


def test_check_finds_a_request_that_left_the_index_only(monkeypatch: pytest.MonkeyPatch):
    local, _ = queue([10, 20])
    monkeypatch.setattr(SortedKeyList, "remove", lambda *_: None)
    local.remove(1)
    with pytest.raises(AssertionError, match="queue and index differ"):
        local.check()


prompts = st.lists(st.integers(0, 1), min_size=1, max_size=8).map(pack)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), prompts, st.integers(0, 1)),
        st.tuples(st.just("admit"), st.integers(1, 4)),
        st.tuples(st.just("prefilled"), st.integers(0, 20)),
        st.tuples(st.just("remove"), st.integers(0, 20)),
    ),
    max_size=30,
)


@given(steps, st.sampled_from(get_args(Discipline)), st.sampled_from([1, 2]))
def test_whatever_happens_every_request_is_admitted_once_or_removed(steps, discipline: Discipline, block_size: int):
    local, leading, left, admitted = LocalScheduler(discipline, block_size=block_size), [], set(), []

    def admit(slots: int) -> None:
        for id in local.pick(slots, cached=cold, now=0.0):
            local.admit(id)
            leading.append(id)
            admitted.append(id)

    for id, (kind, *arguments) in enumerate(steps):
        if kind == "add":
            local.add(id, arguments[0], priority=arguments[1], now=float(id))
            left.add(id)
        elif kind == "admit":
            admit(arguments[0])
        elif kind == "prefilled" and leading:
            local.prefilled(leading.pop(arguments[0] % len(leading)))
        elif kind == "remove" and left - set(admitted):
            gone = sorted(left - set(admitted))[arguments[0] % len(left - set(admitted))]
            local.remove(gone)
            left.remove(gone)
        local.check()
    while local.waiting:
        before = len(admitted)
        while leading:
            local.prefilled(leading.pop())
        admit(2)
        assert len(admitted) > before
        local.check()
    assert sorted(admitted) == sorted(left)


# --- nobody starves ---


@pytest.mark.parametrize("discipline", get_args(Discipline))
def test_a_request_is_next_once_its_patience_is_over(discipline):
    local = LocalScheduler(discipline, patience=5)
    local.add(0, prompt(1), priority=9, now=0.0)
    order = []
    for id in range(1, 10):
        local.add(id, prompt(1 + id), now=float(id))
        order += take(local, 1)
    assert order == [1, 2, 3, 4, 5, 0, 6, 7, 8]


def test_patience_is_worth_more_than_waiting_for_a_leader():
    local = LocalScheduler("fcfs", patience=2)
    local.add(0, prompt(7), now=0.0)
    local.admit(0)
    local.add(1, prompt(7), now=1.0)
    for id in (2, 3):
        local.add(id, prompt(id + 10), now=2.0)
    assert take(local, 3) == [2, 3, 1]


class Overtaking:
    """A queue, and for each request in it how many that came later were taken before it."""

    def __init__(self, discipline: Discipline, patience: int) -> None:
        self.local = LocalScheduler(discipline, patience=patience)
        self.overtaken: dict[int, int] = {}
        self.leading: list[int] = []

    def add(self, id: int, kind: int, priority: int) -> None:
        self.local.add(id, prompt(kind + 1, length=8), priority=priority, now=0.0)
        self.overtaken[id] = 0

    def remove(self, kind: int) -> None:
        if self.overtaken:
            gone = list(self.overtaken)[kind % len(self.overtaken)]
            self.local.remove(gone)
            del self.overtaken[gone]

    def pick(self, slots: int) -> None:
        for id in self.local.pick(slots, cached=lambda tokens: 4 * (tokens[0] % 2), now=0.0):
            self.local.admit(id)
            self.leading.append(id)
            del self.overtaken[id]
            for older in self.overtaken:
                self.overtaken[older] += older < id
                assert self.overtaken[older] <= self.local.patience

    def end_prefill(self) -> None:
        if self.leading:
            self.local.prefilled(self.leading.pop(0))


moments = st.tuples(
    st.sampled_from(["add", "add", "add", "pick", "pick", "prefilled", "remove"]), st.integers(0, 3), st.integers(-2, 2)
)


def overtake(discipline: Discipline, patience: int, events: list[tuple[str, int, int]]) -> None:
    queue = Overtaking(discipline, patience)
    for number, (event, kind, priority) in enumerate(events):
        match event:
            case "add":
                queue.add(number, kind, priority)
            case "pick":
                queue.pick(1 + kind % 2)
            case "prefilled":
                queue.end_prefill()
            case "remove":
                queue.remove(kind)
        queue.local.check()


def overtaking(**options: Any) -> Callable[[Discipline], None]:
    """What looks for one that waits behind too many."""
    search = given(patience=st.integers(1, 4), events=st.lists(moments, min_size=20, max_size=80))(overtake)
    return settings(**options)(search)


@pytest.mark.parametrize("discipline", get_args(Discipline))
def test_no_request_waits_behind_more_later_ones_than_patience_says(discipline: Discipline):
    overtaking()(discipline)


@pytest.mark.parametrize("discipline", get_args(Discipline))
def test_a_queue_without_patience_is_found_out(monkeypatch: pytest.MonkeyPatch, discipline: Discipline):
    """The test of the test above."""
    monkeypatch.setattr(LocalScheduler, "_out_of_patience", lambda self, now: iter(()))
    with pytest.raises(AssertionError):
        overtaking(derandomize=True, database=None, phases=[Phase.generate])(discipline)


# --- deadlines ---


def test_the_earlier_deadline_goes_first_among_equal_priorities():
    local = LocalScheduler()
    local.add(0, prompt(1), now=0.0)
    local.add(1, prompt(2), deadline=9.0, now=0.0)
    local.add(2, prompt(3), deadline=5.0, now=0.0)
    local.add(3, prompt(4), priority=-1, now=0.0)
    assert take(local, 4) == [3, 2, 1, 0]


def test_nothing_starts_after_its_deadline():
    local = LocalScheduler(patience=1)
    local.add(0, prompt(1), deadline=5.0, now=0.0)
    local.add(1, prompt(2), now=0.0)
    assert list(local.pick(2, cached=cold, now=5.0)) == [1]
    assert list(local.pick(2, cached=cold, now=4.9)) == [0, 1]


# --- k-LPM ---


def test_every_kth_taken_is_the_oldest():
    local, cached = queue([0, 0, 50, 60, 70, 80], LocalScheduler("k-lpm", k=3))
    assert take(local, 4, cached) == [5, 4, 0, 3]
    assert take(local, 2, cached) == [2, 1]


def test_k_counts_what_was_taken_before():
    local, cached = queue([0, 10, 20, 30, 40], LocalScheduler("k-lpm", k=2))
    assert [take(local, 1, cached) for _ in range(5)] == [[4], [0], [3], [1], [2]]


@pytest.mark.parametrize("name", ["groups", "k", "block_size", "patience"])
def test_numbers_below_one_are_refused(name):
    with pytest.raises(ConfigurationError, match=name):
        LocalScheduler(**{name: 0})
