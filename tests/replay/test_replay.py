from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from preble.core.policies import POLICIES
from preble.core.scheduler import Scheduler
from preble.errors import ConfigurationError
from preble.replay import Comparison, replay
from tests.core.conftest import LINEAR
from tests.core.test_log import live


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_log_under_its_own_policy_is_reproduced_to_the_last_digit(policy: str):
    comparison = replay(live(policy, seed=3))
    assert comparison.requests > 150
    assert (comparison.differing, comparison.first) == (0, [])
    assert (comparison.moves > 0, comparison.moves_differing) == (policy == "e2", 0)
    assert comparison.recorded == comparison.replayed


def test_naming_the_own_policy_is_the_same():
    lines = live("e2", seed=3)
    assert replay(lines, "e2", seed=3) == replay(lines)


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_every_policy_can_decide_a_log_of_another(policy: str):
    comparison = replay(live("round-robin"), policy, seed=1)
    assert comparison.requests == sum(comparison.replayed.requests.values())
    assert comparison.assigned_by_caller == 6


def moved(by: str) -> list[bytes]:
    """Three requests that the caller assigned to `a`; the log says that one was moved, by the policy named `by`."""
    lines: list[bytes] = []
    scheduler = Scheduler("e2", log=lines.append)
    for worker in "ab":
        scheduler.add_worker(worker, kv_tokens=1000, cost=LINEAR, now=0.0)
    for id in range(3):
        scheduler.submit(id, [id] * 100, worker="a", now=0.0)
    (move,) = scheduler.rebalance(1.0)
    scheduler.finish(move.id, now=1.0)
    scheduler.submit(move.id, [9] * 100, now=1.0)
    return [line.replace(b'"policy":"e2"', f'"policy":"{by}"'.encode()) for line in lines]


def test_moves_are_proposed_again_and_what_was_moved_is_placed_anew():
    same = replay(moved("e2"))
    assert (same.moves, same.moves_differing, same.differing) == (1, 0, 0)
    assert same.replayed.requests == Counter(a=3, b=1)
    other = replay(moved("e2"), "round-robin")
    assert (other.moves, other.moves_differing, other.replayed.requests) == (1, 0, Counter(a=4))


def test_a_log_from_before_misses_were_weighed_is_decided_too():
    lines = live("e2")
    older = [re.sub(rb',"weight":[^,}]+', b"", line) for line in lines]
    assert older != lines
    assert replay(older) == replay(lines)


def test_moves_that_would_not_be_proposed_are_counted():
    assert replay(moved("round-robin")).moves_differing == 1


def two_turns(policy: str) -> list[bytes]:
    """Two prompts of 100 tokens, one after the other, each asked again."""
    lines: list[bytes] = []
    scheduler = Scheduler(policy, log=lines.append)
    for worker in "ab":
        scheduler.add_worker(worker, kv_tokens=1000, cost=LINEAR, reports_evictions=True, now=0.0)
    for id, first in enumerate([0, 1, 1, 0]):
        placement = scheduler.submit(f"r{id}", [first] * 100, now=float(id))
        scheduler.started(f"r{id}", cached_tokens=None, now=float(id))
        scheduler.started(f"r{id}", cached_tokens=placement.cached_tokens, now=float(id))
        scheduler.finish(f"r{id}", output=[7], now=id + 0.5)
    return lines


def test_what_would_differ_is_counted_and_named():
    comparison = replay(two_turns("round-robin"), "e2", first=1)
    assert comparison.requests == 4
    assert comparison.recorded.requests == Counter(a=2, b=2)
    assert (comparison.recorded.cached_tokens, comparison.replayed.cached_tokens) == (0, 198)
    assert comparison.recorded.predicted_ttft == pytest.approx(0.4)
    assert comparison.replayed.predicted_ttft == pytest.approx(0.202)
    assert comparison.differing >= 2
    (difference,) = comparison.first
    assert difference.recorded.worker != difference.replayed.worker


def test_evictions_that_engines_reported_count_only_for_the_decisions_they_served():
    lines: list[bytes] = []
    scheduler = Scheduler("round-robin", log=lines.append)
    for worker in "ab":
        scheduler.add_worker(worker, kv_tokens=1000, cost=LINEAR, reports_evictions=True, now=0.0)
    for id in range(2):
        scheduler.submit(id, [1] * 100, now=0.0)
        scheduler.finish(id, output=[7], now=0.0)
        for worker in "ab":
            scheduler.evicted(worker, b"", 0, now=0.0)
    assert replay(lines).replayed.cached_tokens == 0
    assert replay(lines, "e2").replayed.cached_tokens == 99


def test_a_last_line_cut_short_is_left_out():
    lines = two_turns("e2")
    whole = replay(lines).requests
    last = next(index for index in reversed(range(len(lines))) if b'"submit"' in lines[index])
    assert replay([*lines[:last], lines[last][:-20]]).requests == whole - 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda lines: [], "does not begin"),
        (lambda lines: lines[1:], "does not begin"),
        (lambda lines: [lines[0], lines[0]], "line 2"),
        (lambda lines: [*lines[:1], b"{}\n"], "line 2"),
        (lambda lines: [*lines[:1], *lines[3:]], "line 2"),
        (lambda lines: [*lines[:3], lines[4]], "line 4"),
    ],
)
def test_what_is_no_log_is_refused_with_its_line(change, reason: str):
    with pytest.raises(ConfigurationError, match=reason):
        replay(change(two_turns("e2")))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "preble", "replay", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_shows_what_would_differ(tmp_path: Path):
    path = tmp_path / "log"
    path.write_bytes(b"".join(two_turns("round-robin")))
    same = run(str(path))
    assert (same.returncode, same.stdout.splitlines()[0]) == (0, "0 of 4 requests differ")
    other = run(str(path), "--policy", "e2", "--first", "1")
    shown = other.stdout.splitlines()
    assert shown[1] == "recorded: 0 tokens cached, 0.400 s to first tokens; a 2, b 2"
    assert len(shown) == 4
    parsed = msgspec.json.decode(run(str(path), "--policy", "e2", "--json").stdout, type=Comparison)
    assert parsed.replayed.cached_tokens == 198


def test_the_command_names_what_is_wrong(tmp_path: Path):
    path = tmp_path / "log"
    path.write_bytes(b"hello\n")
    done = run(str(path))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("preble: log: not an event")
    assert run(str(tmp_path / "none")).returncode == 2
