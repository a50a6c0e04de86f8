"""Real processes: what starts, what ends, what is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from preble.errors import FrameError
from preble.transport.schema import Ticket, decode_ticket
from preble.workers.launchers.local import LOG_LINES, Child
from tests.transport.test_zeromq import LOOPS

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

FAMILY = """
    import os, signal, subprocess, sys, time
    stubborn = "import os, signal, time; signal.signal(15, signal.SIG_IGN); {}; time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", stubborn.format("pass")])
    subprocess.Popen([sys.executable, "-c", stubborn.format("os.setsid()")])
    subprocess.Popen([sys.executable, "-c", stubborn.format("os.fork() and os._exit(0); os.setsid()")])
    print("family complete", flush=True)
"""


def python(script: str) -> tuple[str, ...]:
    return (sys.executable, "-c", textwrap.dedent(script))


def ticket(**changes: object) -> Ticket:
    fields = {"worker": "w0", "incarnation": "ab", "nonce": uuid.uuid4().hex, "address": "ipc:///x", "backend": "sim"}
    return Ticket(**{**fields, **changes})  # type: ignore[arg-type]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)


class Mark:
    """An environment variable by which the processes of one test are found."""

    def __init__(self) -> None:
        self.env = {"PREBLE_TEST_MARK": uuid.uuid4().hex}
        self._needle = f"PREBLE_TEST_MARK={self.env['PREBLE_TEST_MARK']}".encode()

    def pids(self) -> set[int]:
        return {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._holds(entry)}

    def worker(self, supervisor: int) -> int:
        (pid,) = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
        return int(pid)

    async def until(self, count: int) -> set[int]:
        """Return the pids once there are `count`."""
        await until(lambda: len(self.pids()) == count)
        return self.pids()

    def _holds(self, entry: Path) -> bool:
        try:
            return self._needle in (entry / "environ").read_bytes()
        except OSError:
            return False


@pytest.fixture
def mark():
    mark = Mark()
    yield mark
    left = mark.pids()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, f"processes left behind: {left}"


async def ended(child: Child) -> int:
    async with asyncio.timeout(20):
        return await asyncio.shield(child.exited)


async def printed(child: Child, text: str) -> None:
    await until(lambda: text in child.log_tail())


@pytest.mark.parametrize("new_loop", LOOPS)
def test_status_output_and_ticket_on_either_loop(new_loop, mark):
    async def main() -> None:
        given = ticket(options={"text": "x" * 200_000})
        script = "import sys; print(sys.stdin.readline()[-30:]); print('warned', file=sys.stderr); sys.exit(7)"
        child = await Child.start(given, env=mark.env, command=python(script))
        assert not child.exited.done()
        assert await ended(child) == 7
        assert child.log_tail().endswith("warned")

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


async def test_a_worker_that_was_killed_says_by_what(mark, monkeypatch):
    kills = iter((4, 4, 4, 5, 5, 6))
    monkeypatch.setattr("preble.workers.launchers.local.kills_for_memory", lambda: next(kills))
    for expected in ("killed by SIGKILL", "killed by SIGKILL, probably because memory ran out"):
        child = await Child.start(ticket(), env=mark.env, command=python("import os; os.kill(os.getpid(), 9)"))
        assert await ended(child) == -9
        assert child.how_it_ended() == expected
    child = await Child.start(ticket(), env=mark.env, command=python("import time; time.sleep(600)"))
    child.kill()
    assert await ended(child) == -9
    assert child.how_it_ended() == "killed by SIGKILL"


async def test_the_ticket_is_on_standard_input_and_nowhere_else(mark):
    given = ticket()
    script = "import sys, time; print(sys.stdin.readline(), flush=True); time.sleep(600)"
    child = await Child.start(given, env=mark.env, command=python(script))
    await printed(child, "}")
    assert decode_ticket(child.log_tail().encode()) == given
    visible = b"".join(_read(pid, name) for pid in mark.pids() for name in ("cmdline", "environ"))
    assert b"supervisor.py" in visible
    assert given.nonce.encode() not in visible
    child.kill()
    await ended(child)


def descriptors() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")}


async def test_a_ticket_that_cannot_be_sent_starts_nothing(mark):
    before = descriptors()
    with pytest.raises(FrameError):
        await Child.start(ticket(options={"a": object()}), env=mark.env)
    assert descriptors() == before


async def test_a_refused_process_leaves_no_descriptor(monkeypatch):
    before = descriptors()
    monkeypatch.setattr(sys, "executable", "/nowhere")
    with pytest.raises(OSError, match="nowhere"):
        await Child.start(ticket())
    assert descriptors() == before


async def test_a_killed_worker_is_noticed_with_its_family_gone(mark):
    child = await Child.start(ticket(), env=mark.env, command=python(FAMILY + "\n    time.sleep(600)"))
    await mark.until(5)
    os.kill(mark.worker(child.pid), signal.SIGKILL)
    assert await ended(child) == -signal.SIGKILL
    assert mark.pids() == set()


async def test_a_worker_that_ends_takes_its_family_along(mark):
    script = FAMILY + "\n    time.sleep(0.2); sys.exit(3)"
    child = await Child.start(ticket(), env=mark.env, command=python(script))
    assert await ended(child) == 3
    assert mark.pids() == set()


async def test_kill_ends_the_whole_family(mark):
    child = await Child.start(ticket(), env=mark.env, command=python(FAMILY + "\n    time.sleep(600)"))
    await mark.until(5)
    child.kill()
    child.kill()
    assert await ended(child) == -signal.SIGKILL
    child.kill()
    assert mark.pids() == set()


async def test_a_supervisor_passes_sigterm_on(mark):
    script = """
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
        print("ready", flush=True)
        time.sleep(600)
    """
    child = await Child.start(ticket(), env=mark.env, command=python(script))
    await printed(child, "ready")
    os.kill(child.pid, signal.SIGTERM)
    assert await ended(child) == 9


async def test_sigterm_at_any_moment_of_the_start_leaves_nothing(mark):
    async def start_and_terminate(delay: float) -> None:
        child = await Child.start(ticket(), env=mark.env, command=python("import time; time.sleep(600)"))
        await asyncio.sleep(delay)
        os.kill(child.pid, signal.SIGTERM)
        assert await ended(child) == -signal.SIGTERM

    await asyncio.gather(*(start_and_terminate(0.004 * number) for number in range(12)))


async def test_a_killed_supervisor_takes_the_workers_group_along(mark):
    script = FAMILY.splitlines()
    without_setsid = "\n".join(line for line in script if "setsid" not in line) + "\n    time.sleep(600)"
    child = await Child.start(ticket(), env=mark.env, command=python(without_setsid))
    await mark.until(3)
    os.kill(child.pid, signal.SIGKILL)
    assert await ended(child) == -signal.SIGKILL
    await mark.until(0)


async def test_what_a_killed_worker_kept_in_its_scratch_folder_is_removed(mark, tmp_path):
    script = """
        import os, pathlib, signal
        folder = pathlib.Path(os.environ["PREBLE_SCRATCH"], "deep")
        folder.mkdir(parents=True)
        (folder / "file").touch()
        (folder / "link").symlink_to("..")
        os.kill(os.getpid(), signal.SIGKILL)
    """
    child = await Child.start(ticket(), env=mark.env | {"TMPDIR": str(tmp_path)}, command=python(script))
    assert await ended(child) == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


async def test_the_last_lines_are_kept(mark):
    script = "for number in range(1000): print(number)\nprint('y' * 1_000_000)\nprint('end', end='')"
    child = await Child.start(ticket(), env=mark.env, command=python(script))
    await ended(child)
    lines = child.log_tail().splitlines()
    assert len(lines) <= LOG_LINES + 1
    assert lines[-1] == "end"
    assert lines[-3] == "999"
    assert len(child.log_tail()) < 10_000


async def test_many_start_at_once(mark):
    started = await asyncio.gather(
        *(Child.start(ticket(worker=f"w{n}"), env=mark.env, command=python("print('up')")) for n in range(8))
    )
    assert await asyncio.gather(*map(ended, started)) == [0] * 8
    assert {child.log_tail() for child in started} == {"up"}


async def test_no_descriptor_is_left(mark):
    async def once() -> set[int]:
        child = await Child.start(ticket(), env=mark.env, command=python("print('up')"))
        await ended(child)
        await asyncio.sleep(0)
        return descriptors()

    first = await once()
    assert await once() == first


PARENT = """
    import asyncio, os, sys, time
    from preble.workers.launchers.local import Child
    from preble.transport.zeromq import Router
    from tests.workers.test_local_launcher import FAMILY, python, ticket

    async def main():
        router = Router(lambda peer, frame: None)
        script = FAMILY + "\\n    time.sleep(600)"
        child = await Child.start(ticket(address=router.address), command=python(script))
        while "complete" not in child.log_tail():
            await asyncio.sleep(0.01)
        print(router.address.removeprefix("ipc://"), flush=True)
        {then}
        time.sleep(600)

    asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("then", "expected_forks"),
    [
        pytest.param("pass", 0, id="alone"),
        pytest.param("os.fork()", 1, id="a fork of the cluster lives on"),
    ],
)
def test_a_killed_cluster_leaves_nothing(then, expected_forks, mark):
    script = python(textwrap.dedent(PARENT).replace("{then}", then))
    parent = subprocess.Popen(
        script, stdout=subprocess.PIPE, env={**os.environ, **mark.env}, text=True, cwd=Path(__file__).parents[2]
    )
    assert parent.stdout is not None
    socket = Path(parent.stdout.readline().strip())
    forks: set[int] = set()

    def complete() -> bool:
        """The parent, its forks, the supervisor, and below that the worker with three children."""
        below = {pid: _parent_of(pid) for pid in mark.pids() - {parent.pid}}
        near = {pid for pid, above in below.items() if above == parent.pid}
        forks.clear()
        forks.update(pid for pid in near if b"supervisor.py" not in _read(pid, "cmdline"))
        return (len(forks), len(below) - len(near)) == (expected_forks, 4)

    asyncio.run(until(complete))
    assert socket.parent.exists()
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while (mark.pids() - forks or socket.parent.exists()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert mark.pids() <= forks
    assert not socket.parent.exists()
    for pid in forks:
        os.kill(pid, signal.SIGKILL)
    asyncio.run(mark.until(0))


def _parent_of(pid: int) -> int:
    """The parent's pid; 0 for a process that is gone."""
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[1]) if fields else 0


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


async def test_a_fork_of_the_cluster_lets_go_of_the_death_pipes(mark):
    before = descriptors()
    child = await Child.start(ticket(), env=mark.env, command=python("import time; time.sleep(600)"))
    opened = descriptors() - before
    if (fork := os.fork()) == 0:
        os._exit(len(opened - descriptors()))
    assert os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]) == 1  # noqa: ASYNC222 - the fork ends at once
    assert opened <= descriptors()
    child.kill()
    await ended(child)
