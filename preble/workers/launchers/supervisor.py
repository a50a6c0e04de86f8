"""The supervisor between a cluster and one worker: `python -S -E supervisor.py DEATH_FD SOCKET COMMAND...`.

When the worker exits, or the cluster is gone or gives it up (end of file on DEATH_FD, or a new parent), it kills every
descendant, also those that left the session, and exits with the worker's status, 128 + signal if one killed it. SIGTERM
is passed on to the worker. It is a process of its own so that a worker that hangs with the interpreter's lock held
still ends, and standard library only, to be small. SOCKET is the cluster's socket file, removed if the cluster is gone.
PREBLE_CPUS lists the cores to run on, if it is set. The worker may make a folder of the name in PREBLE_SCRATCH, which
is removed with all in it when the worker is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from typing import Any

LINUX = sys.platform == "linux"
PR_SET_CHILD_SUBREAPER = 36
PATIENCE = 10.0
"""Seconds to wait for killed processes to vanish; freeing much memory takes a while."""


def main() -> None:
    """Supervise the command in `sys.argv`."""
    parent = os.getppid()
    death, socket, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    os.set_inheritable(death, False)
    if LINUX:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    scratch = os.path.join(os.environ.get("TMPDIR") or "/tmp", f"preble-{os.urandom(6).hex()}")  # noqa: S108
    os.environ["PREBLE_SCRATCH"] = scratch
    take_cores(os.environ.pop("PREBLE_CPUS", ""))
    worker = spawn(command)
    status = watch(worker, death)
    code = kill_tree(worker, status)
    remove_folder(scratch)
    # The end of DEATH_FD alone may mean that only this worker is to go.
    if status is None and socket and os.getppid() != parent:
        remove_socket(socket)
    os._exit(code)


def take_cores(numbers: str) -> None:
    """Run on these cores from now on, and all below: before the worker loads a library that counts them."""
    if numbers:
        os.sched_setaffinity(0, map(int, numbers.split(",")))


def spawn(command: list[str]) -> int:
    """Start `command`; from then on SIGTERM goes to it. Blocked meanwhile: dying in between would leave an orphan."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    group: dict[str, Any] = {} if LINUX else {"setpgroup": 0}
    worker = os.posix_spawn(command[0], command, os.environ, setsigmask=(), **group)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(worker, signal.SIGTERM))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    return worker


def watch(worker: int, death: int) -> int | None:
    """Return when the worker has exited, with its wait status, or when the cluster is gone, with None."""
    parent = os.getppid()
    poll = select.poll()
    poll.register(death, select.POLLIN)
    if LINUX:
        poll.register(os.pidfd_open(worker), select.POLLIN)
    while os.getppid() == parent:
        ready = poll.poll(1000 if LINUX else 50)
        if any(descriptor == death for descriptor, _ in ready):
            break
        pid, status = os.waitpid(worker, os.WNOHANG)
        if pid:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            return status
    return None


def kill_tree(worker: int, status: int | None) -> int:
    """Kill all descendants, again until none is left; return the worker's exit status as a shell gives it."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for pid in descendants(os.getpid()) if LINUX else [-worker]:
            kill(pid)
        status = reap(worker, status)
        if not has_children():
            break
        time.sleep(0.002)
    code = os.waitstatus_to_exitcode(status) if status is not None else -signal.SIGKILL
    return code if code >= 0 else 128 - code


def descendants(root: int) -> list[int]:
    """Return the pids below `root`, from the kernel's own lists."""
    found: list[int] = []
    for pid in children(root):
        found += [pid, *descendants(pid)]
    return found


def children(pid: int) -> list[int]:
    """Return the children of all threads of `pid`; none if it is gone."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
    except OSError:
        pass
    return found


def kill(pid: int) -> None:
    """SIGKILL a process, or with -pid its group; it may be gone."""
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)


def reap(worker: int, status: int | None) -> int | None:
    """Collect exited children; return the worker's wait status once known."""
    try:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == worker:
                status = ended[1]
    except ChildProcessError:
        pass
    return status


def has_children() -> bool:
    """Return whether a child is left, dying ones included."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def remove_folder(path: str) -> None:
    """Remove a folder and all in it; it may not exist."""
    for folder, folders, files in os.walk(path, topdown=False):
        for name in files + folders:
            entry = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                os.rmdir(entry) if name in folders and not os.path.islink(entry) else os.unlink(entry)
    with contextlib.suppress(OSError):
        os.rmdir(path)


def remove_socket(path: str) -> None:
    """Remove a socket and its directory, which other supervisors of the same cluster may have done."""
    with contextlib.suppress(OSError):
        os.unlink(path)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(path))


if __name__ == "__main__":
    main()
