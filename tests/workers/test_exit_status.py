from __future__ import annotations

from pathlib import Path

import pytest

from preble.workers.launchers.exit_status import in_words, kills_for_memory


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "exit status 0"),
        (3, "exit status 3"),
        (-9, "killed by SIGKILL"),
        (-11, "killed by SIGSEGV"),
        (-99, "killed by signal 99"),
    ],
)
def test_a_status_in_words(status, words):
    assert in_words(status) == words


def test_a_kill_for_memory_in_words():
    assert in_words(-9, out_of_memory=True) == "killed by SIGKILL, probably because memory ran out"


def test_the_kernels_count_of_kills_for_memory(tmp_path: Path):
    counts = tmp_path / "vmstat"
    counts.write_text("nr_free_pages 5\noom_kill 7\noom_kill_other 9\n")
    assert kills_for_memory(counts) == 7
    counts.write_text("nr_free_pages 5\n")
    assert kills_for_memory(counts) == 0
    assert kills_for_memory(tmp_path / "missing") == 0
