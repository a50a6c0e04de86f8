"""Takes guards out of the code, one at a time, and shows that the tests named for it fail: `python -m tests.mutations`.

For example, without its bound on overtaking the wait queue still serves everyone in the end; only a test that looks for
starvation can tell. Each mutation is made in a copy of the tree in a temporary folder. A mutation that survives means a
missing test, and one whose text is no longer in the code is an error, so that this list cannot rot.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
COPIED = ("preble", "tests", "bench", "pyproject.toml")
PATIENCE = 600.0
"""Seconds for the tests of one mutation. Tests that hang have noticed."""


class Mutation(NamedTuple):
    """In `file`, `text`, which is there exactly once, becomes `replacement`; then `tests` must fail."""

    guard: str
    file: str
    text: str
    replacement: str
    tests: str


CORE = "tests/core/test_scheduler.py tests/core/test_stateful.py"
DISPATCH = "tests/dispatch/test_dispatcher.py tests/dispatch/test_stateful.py"

MUTATIONS = [
    Mutation(
        "what a pin needs is not evicted",
        "preble/tree/radix.py", "if node in holding.pins:", "if False:", "tests/tree/test_radix.py",
    ),
    Mutation(
        "what was not computed is dropped with its last pin",
        "preble/tree/radix.py", "while pending.get(node) == 1:", "while False:", "tests/tree/test_radix.py",
    ),
    Mutation(
        "a match from before a change is no cursor",
        "preble/tree/radix.py", "or match.version != nodes.version", "", "tests/tree/test_match.py",
    ),
    Mutation(
        "a match of other tokens is no cursor",
        "preble/tree/radix.py", "or match.prompt is not tokens", "", "tests/tree/test_match.py",
    ),
    Mutation(
        "a pinned node keeps its number when nodes merge",
        "preble/tree/radix.py",
        "len(children) != 1 or nodes.pins[node]", "len(children) != 1", "tests/tree/test_radix.py",
    ),
    Mutation(
        "nodes of many workers do not merge",
        "preble/tree/radix.py", "or holders.bit_count() > MERGE_HOLDERS", "", "tests/tree/test_radix.py",
    ),
    Mutation(
        "an output lengthens no edge at which another prompt ends",
        "preble/tree/radix.py", "or nodes.pins[node] > 1 ", "", "tests/tree/test_radix.py",
    ),
    Mutation(
        "a truncation leaves what a pin needs",
        "preble/tree/radix.py",
        "and node not in self._holdings[worker].pins:", ":", "tests/tree/test_radix.py tests/tree/test_model.py",
    ),
    Mutation(
        "a namespace whose prefixes are held keeps its number",
        "preble/tree/namespaces.py", "if self._in_use(number):", "if False:", "tests/tree/test_namespaces.py",
    ),
    Mutation(
        "two namespaces never have one number",
        "preble/tree/namespaces.py", "if number not in self._meaning_of:", "if True:", "tests/tree/test_namespaces.py",
    ),
    Mutation(
        "a request in flight is not submitted again",
        "preble/core/scheduler.py",
        "if known is not None and known.slot >= 0:", "if False:", "tests/core/test_scheduler.py",
    ),
    Mutation(
        "a first token that could be another tenant's key is refused",
        "preble/core/scheduler.py", "if negative(packed):", "if False:", "tests/core/test_namespaces.py",
    ),
    Mutation(
        "a policy that chooses a drained worker is refused",
        "preble/core/scheduler.py",
        "fleet.slots[slot].accepts_requests and fleet.names[slot]", "fleet.names[slot]", "tests/core/test_scheduler.py",
    ),
    Mutation(
        "a policy that chooses a worker of another namespace is refused",
        "preble/core/scheduler.py",
        "and fleet.names[slot] is not None):", "):", "tests/core/test_namespaces.py tests/core/test_scheduler.py",
    ),
    Mutation(
        "a second report that a request started changes nothing",
        "preble/core/scheduler.py",
        "request.slot < 0 or request.counted or (request.started and cached_tokens is None)", "request.slot < 0",
        CORE,
    ),
    Mutation(
        "a second first token changes nothing",
        "preble/core/scheduler.py", "if request.slot < 0 or request.computed:", "if request.slot < 0:", CORE,
    ),
    Mutation(
        "only requests that still wait are moved",
        "preble/core/scheduler.py",
        "and not request.started and request", "and request", "tests/core/test_scheduler.py",
    ),
    Mutation(
        "no more is believed held than the cache has room for",
        "preble/core/scheduler.py", "if held > capacity:", "if False:", CORE,
    ),
    Mutation(
        "a finished request gives its pin back",
        "preble/core/scheduler.py",
        "        self.tree.unpin(request.node, request.slot)\n", "", "tests/core/test_stateful.py",
    ),
    Mutation(
        "an idle worker has exactly nothing to do, whatever was rounded",
        "preble/core/fleet.py",
        "self._load[slot] = self._pending[slot] = self.idle_load(slot)", "pass", CORE,
    ),
    Mutation(
        "a drained worker is never the cheapest",
        "preble/core/fleet.py",
        "self.slots[slot].accepts_requests = False\n        self.load[slot] = self.pending[slot] = np.inf",
        "self.slots[slot].accepts_requests = False", CORE,
    ),
    Mutation(
        "a worker that left is never the cheapest",
        "preble/core/fleet.py",
        "self._table[:, slot] = 0.0\n        self.load[slot] = self.pending[slot] = np.inf",
        "self._table[:, slot] = 0.0", CORE,
    ),
    Mutation(
        "the last token of a prompt is always computed",
        "preble/core/cached.py", "depth if depth < self.length else self.length - 1", "depth", CORE,
    ),
    Mutation(
        "a move must start a request much sooner",
        "preble/core/rebalance.py", "if RELIEF * there[target] < here:", "if there[target] < here:", CORE,
    ),
    Mutation(
        "a request is next once its patience is over",
        "preble/wait_queue/local.py",
        "if overtaken < self.patience or", "if True or", "tests/wait_queue",
    ),
    Mutation(
        "a follower waits for its leader's prefill",
        "preble/wait_queue/local.py", "and not self._follows(waiting, cached)", "", "tests/wait_queue",
    ),
    Mutation(
        "nothing starts after its deadline",
        "preble/wait_queue/local.py", "and waiting.deadline > now and", "and", "tests/wait_queue",
    ),
    Mutation(
        "nobody follows a leader that is gone",
        "preble/wait_queue/local.py",
        "            self._leaders.unpin(node, _LEADERS)\n", "            pass\n", "tests/wait_queue",
    ),
    Mutation(
        "an id is in use until its prefill ended",
        "preble/wait_queue/local.py",
        "if id in self._waiting or id in self._leading or id in self._new_leaders:", "if id in self._waiting:",
        "tests/wait_queue",
    ),
    Mutation(
        "after three workers a death is the caller's problem",
        "preble/dispatch/dispatcher.py", "if sample.attempts >= MAX_ATTEMPTS:", "if False:", DISPATCH,
    ),
    Mutation(
        "no more samples are in flight than allowed",
        "preble/dispatch/dispatcher.py",
        "if len(self._samples) + len(request.samples) > self._max_in_flight:", "if False:", DISPATCH,
    ),
    Mutation(
        "a request whose deadline has passed is not sent",
        "preble/dispatch/dispatcher.py",
        "if request.deadline is not None and request.deadline <= now:", "if False:", DISPATCH,
    ),
    Mutation(
        "the deadline of a request that ended is forgotten",
        "preble/dispatch/dispatcher.py", "self._deadlines.discard(sample.request)", "pass", DISPATCH,
    ),
    Mutation(
        "what a worker says of a sample that it was to abort is not believed",
        "preble/dispatch/dispatcher.py",
        "        self._on_workers.pop(sample.worker_request_id, None)\n        self._instructions",
        "        self._instructions", DISPATCH,
    ),
    Mutation(
        "a waiting sample is moved once",
        "preble/dispatch/dispatcher.py", "if not sample.reconsidered:", "if True:", DISPATCH,
    ),
    Mutation(
        "a lost worker's copies end with it",
        "preble/dispatch/dispatcher.py", "self.copying.lost(worker, now)", "pass", DISPATCH,
    ),
    Mutation(
        "a sample with all its tokens does not go elsewhere",
        "preble/dispatch/dispatcher.py", "if sample.max_tokens <= 0:", "if False:", DISPATCH,
    ),
    Mutation(
        "a sample ends once, however often its reader lets go",
        "preble/dispatch/dispatcher.py",
        "            if sample.id in self._samples:\n                self._abort(sample)",
        "            if True:\n                self._abort(sample)", DISPATCH,
    ),
    Mutation(
        "a stop string does not cover an error",
        "preble/dispatch/dispatcher.py", "if sample.error is None:", "if True:", DISPATCH,
    ),
    Mutation(
        "a request that cannot be placed leaves nothing to be done",
        "preble/dispatch/dispatcher.py", "            self._instructions.clear()\n", "", DISPATCH,
    ),
    Mutation(
        "a worker proves that it holds its ticket",
        "preble/workers/launched.py", "and message.nonce == worker.ticket.nonce", "", "tests/workers/test_launched.py",
    ),
    Mutation(
        "whoever has not proved it is not heard",
        "preble/workers/launched.py", "elif not worker.greeted:", "elif False:", "tests/workers/test_launched.py",
    ),
    Mutation(
        "a removed worker is not heard any more",
        "preble/workers/launched.py", "and self._workers.get(name) is worker", "", "tests/workers/test_launched.py",
    ),
    Mutation(
        "a worker that ends when it should is not lost",
        "preble/workers/launched.py",
        "elif worker.serving and not self._stopping and name",
        "elif worker.serving and name", "tests/workers/test_launched.py",
    ),
    Mutation(
        "two requests of a worker never have one id",
        "preble/workers/worker.py", "if request.id in self._requests:", "if False:", "tests/workers/test_worker.py",
    ),
    Mutation(
        "a stopping worker takes no more",
        "preble/workers/worker.py",
        "        if self._stopping.done():\n            self._aborted(request.id)\n            return\n",
        "", "tests/workers/test_worker.py",
    ),
    Mutation(
        "a stream that just ends is an error",
        "preble/workers/worker.py", "if not ended:", "if False:", "tests/workers/test_worker.py",
    ),
]  # fmt: skip


def mutated(mutation: Mutation, folder: Path = ROOT) -> str:
    """The file's new text. Raises ValueError unless the old text is there exactly once."""
    source = (folder / mutation.file).read_text(encoding="utf-8")
    if (times := source.count(mutation.text)) != 1:
        raise ValueError(f"{mutation.guard}: {mutation.text!r} is {times} times in {mutation.file}")
    return source.replace(mutation.text, mutation.replacement)


def run(tests: Sequence[str], folder: Path) -> int:
    """Run tests in a copy of the tree; return pytest's exit status, 1 if they took too long."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", *tests]
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return 1
    if done.returncode not in (0, 1):
        print(done.stdout, done.stderr, sep="\n")
    return done.returncode


def verdict(mutation: Mutation, folder: Path) -> str:
    """Try one mutation in the copy and undo it: "caught", "survived", or "error" where the tests did not even run."""
    file = folder / mutation.file
    original = file.read_text(encoding="utf-8")
    file.write_text(mutated(mutation, folder), encoding="utf-8")
    try:
        return {0: "survived", 1: "caught"}.get(run(mutation.tests.split(), folder), "error")
    finally:
        file.write_text(original, encoding="utf-8")


def copy(folder: Path) -> None:
    """Copy what tests need."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)


def main(argv: Sequence[str] | None = None) -> int:
    """Try the mutations and print a row for each; return 0 if all were caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only mutations whose guard or file contains one of these")
    words = parser.parse_args(argv).words
    chosen = [one for one in MUTATIONS if not words or any(word in one.guard + one.file for word in words)]
    for mutation in MUTATIONS:
        mutated(mutation)
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="mutations-") as name:
        copy(Path(name))
        if run(sorted({test for one in chosen for test in one.tests.split()}), Path(name)) != 0:
            print("the tests fail without any mutation")
            return 1
        for mutation in chosen:
            begin = time.monotonic()
            verdicts.append(verdict(mutation, Path(name)))
            print(
                f"{verdicts[-1]:8}  {time.monotonic() - begin:5.1f} s  {mutation.guard} ({mutation.file})", flush=True
            )
    print(f"{verdicts.count('caught')} of {len(verdicts)} caught")
    return int(verdicts.count("caught") != len(verdicts))


if __name__ == "__main__":
    sys.exit(main())
