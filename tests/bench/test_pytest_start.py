from __future__ import annotations

import pytest

from bench import pytest_start


def test_it_measures_starts_of_pytest_and_of_the_cluster(capsys: pytest.CaptureFixture[str]):
    assert pytest_start.main(["--runs", "2"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split("  ")[0] for row in rows] == [
        "pytest, without the plugin",
        "added by the plugin",
        "first in-process cluster",
        "later in-process clusters",
    ]
    assert all(" ms   quartiles " in row for row in rows)
