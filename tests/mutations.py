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
PATIENCE = 180.0
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
    Mutation(guard, file, text, replacement, tests)
    for file, tests, guards in (
        ("preble/workers/replicas.py", "tests/workers/test_replicas.py", [
            ("a replica whose tokens flow is alive", "0 if replica.delivering else failures + 1", "failures + 1"),
            ("a refused connection is a loss", " or _is_down(replica, error)", ""),
            ("who takes no more connections may end what it has",
             "return refused and not replica.delivering & replica.requests.keys()", "return refused"),
            ("a replica in doubt is looked at", "replica.in_doubt.set()", "pass"),
            ("a replica that comes back is what it was", "_check_same(replica.info, info)", "pass"),
        ]),
        ("preble/backends/openai/request_state.py", "tests/backends/openai/test_engine.py", [
            ("no more tokens come than were asked for",
             "if (excess := self._tokens - self._most) > 0:", "if excess := 0:"),
            ("only tokens keep a request alive",
             "if delta.tokens or (delta.admitted and not self._admitted):", "if True:"),
        ]),
        ("preble/backends/openai/engine.py", "tests/backends/openai/test_engine.py", [
            ("the key is not shown in an event's error", "with http.key_hidden():", "if True:"),
            ("all tokens are an end", " and not state.exhausted", ""),
        ]),
        ("preble/backends/openai/http.py", "tests/backends/openai/test_engine.py", [
            ("what is compressed is not read",
             'response.headers.get("Content-Encoding", "identity")', '"identity"'),
        ]),
        ("preble/tree/radix.py", "tests/tree/test_radix.py", [
            ("what a pin needs is not evicted", "if node in holding.pins:", "if False:"),
            ("what was not computed is dropped with its last pin", "while pending.get(node) == 1:", "while False:"),
            ("a pinned node keeps its number when nodes merge",
             "len(children) != 1 or nodes.pins[node]", "len(children) != 1"),
            ("nodes of many workers do not merge", "or holders.bit_count() > MERGE_HOLDERS", ""),
            ("an output lengthens no edge at which another prompt ends", "or nodes.pins[node] > 1 ", ""),
        ]),
        ("preble/tree/radix.py", "tests/tree/test_match.py", [
            ("a match from before a change is no cursor", "or match.version != nodes.version", ""),
            ("a match of other tokens is no cursor", "or match.prompt is not tokens", ""),
        ]),
        ("preble/tree/radix.py", "tests/tree/test_radix.py tests/tree/test_model.py", [
            ("a truncation leaves what a pin needs", "and node not in self._holdings[worker].pins:", ":"),
        ]),
        ("preble/tree/namespaces.py", "tests/tree/test_namespaces.py", [
            ("a namespace whose prefixes are held keeps its number", "if self._in_use(number):", "if False:"),
            ("two namespaces never have one number", "if number not in self._meaning_of:", "if True:"),
        ]),
        ("preble/core/scheduler.py", "tests/core/test_scheduler.py", [
            ("a request in flight is not submitted again", "if known is not None and known.slot >= 0:", "if False:"),
            ("a policy that chooses a drained worker is refused",
             "fleet.slots[slot].accepts_requests and fleet.names[slot]", "fleet.names[slot]"),
            ("only requests that still wait are moved", "and not request.started and request", "and request"),
        ]),
        ("preble/core/scheduler.py", "tests/core/test_namespaces.py", [
            ("a first token that could be another tenant's key is refused", "if negative(packed):", "if False:"),
        ]),
        ("preble/core/scheduler.py", "tests/core/test_namespaces.py tests/core/test_scheduler.py", [
            ("a policy that chooses a worker of another namespace is refused",
             "and fleet.names[slot] is not None):", "):"),
        ]),
        ("preble/core/scheduler.py", CORE, [
            ("a second report that a request started changes nothing",
             "request.slot < 0 or request.counted or (request.started and cached_tokens is None)", "request.slot < 0"),
            ("a second first token changes nothing",
             "if request.slot < 0 or request.computed:", "if request.slot < 0:"),
            ("no more is believed held than the cache has room for", "if held > capacity:", "if False:"),
        ]),
        ("preble/core/scheduler.py", "tests/core/test_stateful.py", [
            ("a finished request gives its pin back", "        self.tree.unpin(request.node, request.slot)\n", ""),
        ]),
        ("preble/core/fleet.py", CORE, [
            ("an idle worker has exactly nothing to do, whatever was rounded",
             "self._load[slot] = self._pending[slot] = self.idle_load(slot)", "pass"),
            ("a drained worker is never the cheapest",
             "self.slots[slot].accepts_requests = False\n        self.load[slot] = self.pending[slot] = np.inf",
             "self.slots[slot].accepts_requests = False"),
            ("a worker that left is never the cheapest",
             "self._table[:, slot] = 0.0\n        self.load[slot] = self.pending[slot] = np.inf",
             "self._table[:, slot] = 0.0"),
        ]),
        ("preble/core/cached.py", CORE, [
            ("the last token of a prompt is always computed",
             "depth if depth < self.length else self.length - 1", "depth"),
        ]),
        ("preble/core/rebalance.py", CORE, [
            ("a move must start a request much sooner",
             "if RELIEF * there[target] < here:", "if there[target] < here:"),
        ]),
        ("preble/wait_queue/local.py", "tests/wait_queue", [
            ("a request is next once its patience is over", "if overtaken < self.patience or", "if True or"),
            ("a follower waits for its leader's prefill", "and not self._follows(waiting, cached)", ""),
            ("nothing starts after its deadline", "and waiting.deadline > now and", "and"),
            ("nobody follows a leader that is gone",
             "            self._leaders.unpin(node, _LEADERS)\n", "            pass\n"),
            ("an id is in use until its prefill ended",
             "if id in self._waiting or id in self._leading or id in self._new_leaders:", "if id in self._waiting:"),
        ]),
        ("preble/dispatch/dispatcher.py", DISPATCH, [
            ("after three attempts a failure is the caller's problem",
             "elif sample.attempts >= MAX_ATTEMPTS:", "elif False:"),
            ("no more samples are in flight than allowed",
             "if len(self._samples) + len(request.samples) > self._max_in_flight:", "if False:"),
            ("a request whose deadline has passed is not sent",
             "if request.deadline is not None and request.deadline <= now:", "if False:"),
            ("the deadline of a request that ended is forgotten", "self._deadlines.discard(sample.request)", "pass"),
            ("what a worker says of a sample that it was to abort is not believed",
             "self._on_workers.pop(sample.worker_request_id, None) is not None",
             "sample.worker_request_id in self._on_workers"),
            ("a waiting sample is moved once", "if not sample.reconsidered and", "if"),
            ("a lost worker's copies end with it", "self.copies.lost(worker, now)", "pass"),
            ("a sample with all its tokens does not go elsewhere", "if sample.max_tokens <= 0:", "if False:"),
            ("a sample ends once, however often its reader lets go",
             "            if sample.id in self._samples:\n                self._abort(sample, now)",
             "            if True:\n                self._abort(sample, now)"),
            ("a stop string does not cover an error", "if sample.error is None:", "if True:"),
            ("a request that cannot be placed leaves nothing to be done",
             "        self._instructions.clear()\n\n    def _place", "\n    def _place"),
        ]),
        ("preble/dispatch/dispatcher.py", "tests/dispatch/test_failover.py", [
            ("what failed on a worker is not sent there again", "excluded=sample.failed_on,", ""),
            ("a request's own fault is not tried elsewhere",
             "            if isinstance(error, InvalidRequestError):\n                self._end",
             "            if False:\n                self._end"),
            ("a full worker's refusal is no attempt", "sample.attempts -= not failure.late", "pass"),
            ("what waits is given to a worker that is back", "            self._admit_waiting(now)\n", ""),
            ("a name that no worker serves is refused at once",
             "                raise  # nobody who may come back could take it", "                pass"),
            ("waiting ends", "if now >= sample.waits_until or not", "if not"),
            ("a choosy request does not keep others waiting",
             "return fits and not sample.failed_on and", "return True or"),
            ("what fails everywhere is held against nobody",
             "self._health.withdraw(worker, sample.id, now)", "pass"),
            ("what is silent everywhere ends", "        sample.silent = True\n", ""),
                        ("a silent worker's request stays if there is no other",
             "(trouble == \"hung\" if sample.silent else self._has_elsewhere(sample))", "True"),
        ]),
        ("preble/dispatch/silence.py", "tests/dispatch/test_failover.py", [
            ("a loop that was blocked makes no worker silent",
             "return late < min(_LAG, self._idle_timeout / 4)", "return True"),
            ("a stream that stalls is a fault though its worker speaks of others", "sample.answered or quiet", "quiet"),
            ("who waits in a long queue is not hung", "sample.answered or quiet", "True"),
        ]),
        ("preble/dispatch/health.py", "tests/dispatch/test_failover.py", [
            ("never more than half of the workers are open",
             "and 2 * (len(self._tripped & live) + 1) <= len(live)", ""),
            ("one request tries while a breaker is half-open", "or breaker.probe is not None", ""),
            ("a probe that is cancelled lets the next one try",
             "            self._breakers[worker].probe = None\n", "            pass\n"),
            ("a penalty passes", "ends = (full_until, breaker.open_until or 0.0, breaker.forgets_at())",
             "ends = (full_until, breaker.open_until or 0.0)"),
        ]),
        ("preble/dispatch/breaker.py", "tests/dispatch/test_failover.py", [
            ("a few failures among many good ends do not open", "and 2 * failures >= len(self._outcomes)", ""),
            ("who breaks streams proves itself by an end", "and (finished or not self._late)", ""),
            ("the pause doubles", "self._pause = min(2 * self._pause, LONGEST_PAUSE)", "pass"),
            ("old failures do not count", "self._outcomes[0][0] <= now - WINDOW", "False"),
        ]),
        ("preble/core/fleet.py", "tests/core/test_adjusted.py", [
            ("a paused worker takes nothing", "serving and not slot.paused for", "serving for"),
            ("a prompt goes where it fits", "self.slots[slot].context_limit >= needed > length", "True"),
        ]),
        ("preble/backends/stepping.py", "tests/backends/test_stepping.py", [
            ("a step that fails fails its own requests alone", "for id in ended:", "for id in self._unread:"),
            ("steps that fail again and again are looked into", "if self._failures >= FAILURES:", "if False:"),
            ("requests that fail their steps do not end an engine that works",
             "self.batcher.commit(spans, await self._execute(spans), now)", "raise ValueError"),
        ]),
        ("preble/workers/launched.py", "tests/workers/test_launched.py", [
            ("a worker that cannot be understood is ended",
             "            worker.handle.kill()\n\n    def _understand", "\n    def _understand"),
            ("a worker that broke ends, or is ended", "call_later(_STOPPED_WITHIN, worker.handle.kill)", "time()"),
            ("a worker proves that it holds its ticket", "and message.nonce == worker.ticket.nonce", ""),
            ("whoever has not proved it is not heard", "elif not worker.greeted:", "elif False:"),
            ("a removed worker is not heard any more", "and self._workers.get(name) is worker", ""),
            ("a worker that ends when it should is not lost",
             "elif worker.serving and not self._stopping and name", "elif worker.serving and name"),
        ]),
        ("preble/workers/worker.py", "tests/workers/test_worker.py", [
            ("two requests of a worker never have one id", "if request.id in self._requests:", "if False:"),
            ("a stopping worker takes no more",
             "        if self._stopping.done():\n            self._aborted(request.id)\n            return\n", ""),
            ("a stream that just ends is an error",
             "        if not ended:\n            raise", "        if False:\n            raise"),
            ("an engine yields no more than was asked for",
             "room -= engine_output.tokens_in(delta, request, room)", "pass"),
            ("a request that cannot be read fails", "(id := submitted_id(frame)) is not None", "(id := 0)"),
            ("what was told that it failed is not told that it was aborted", "if id in self._failed:", "if False:"),
            ("a dead engine ends its worker", "elif isinstance(error, EngineDeadError):", "elif False:"),
            ("a stream that is wrong is closed", "                await _close(stream)", "                pass"),
        ]),
        ("preble/backends/torch/gguf.py", "tests/backends/torch/test_gguf.py", [
            ("Llama's Q and K are put in the folder's order", ".swapaxes(1, 2)", ""),
            ("a tensor beyond the end of the file is named", "        _check_extent(file, name, entry, package)\n", ""),
            ("a key that asks for another computation is refused", "not in (0, 1):", "in ():"),
        ]),
        ("preble/testing/real_models.py", "tests/test_real_models.py", [
            ("another file than the known one is not kept", "(digest := _sha256(fetched)) != model.sha256", "False"),
        ]),
    )
    for guard, text, replacement in guards
]  # fmt: skip


def mutated(mutation: Mutation, folder: Path = ROOT) -> str:
    """The file's new text. Raises ValueError unless the old text is there exactly once."""
    source = (folder / mutation.file).read_text(encoding="utf-8")
    if (times := source.count(mutation.text)) != 1:
        raise ValueError(f"{mutation.guard}: {mutation.text!r} is {times} times in {mutation.file}")
    return source.replace(mutation.text, mutation.replacement)


def run(tests: Sequence[str], folder: Path, *, expected: tuple[int, ...] = (0, 1)) -> int:
    """Run tests in a copy of the tree; return pytest's exit status, 1 if they took too long."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "HYPOTHESIS_PROFILE": "once"}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return 1
    if done.returncode not in expected:
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
        tests = sorted({test for one in chosen for test in one.tests.split()})
        if run(tests, Path(name), expected=(0,)) != 0:
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
