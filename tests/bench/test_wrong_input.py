"""What a command cannot work with ends it before anything is measured, with one line that names it."""

from __future__ import annotations

from importlib import import_module

import pytest


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        ("demo.__main__", "--seconds 0", "--seconds: must be a number above 0, not '0'"),
        ("demo.__main__", "--load nan", "--load: must be a number above 0"),
        ("demo.__main__", "--model NONE --out NONE", "--model: no such folder or file: NONE"),
        ("demo.__main__", "--acts third", "--acts: invalid choice: 'third'"),
        ("engine_queue", "--rounds 0", "--rounds: must be a whole number above 0"),
        ("engine_queue", "--requests 1.5", "--requests: must be a whole number above 0, not '1.5'"),
        ("faces", "--requests 0", "--requests: must be a whole number above 0"),
        ("gpu.__main__", "--workers 0", "--workers: must be a whole number above 0"),
        ("gpu.__main__", "--policy x", "--policy: invalid choice: 'x'"),
        ("live.__main__", "--requests -3", "--requests: must be a whole number above 0"),
        ("live.__main__", "--utilisation inf", "--utilisation: must be a number above 0"),
        ("live.__main__", "--policy x", "--policy: invalid choice: 'x'"),
        ("live.__main__", "--workload x", "--workload: invalid choice: 'x'"),
        ("live.__main__", "--backend x --quick", "backend: unknown 'x'"),
        ("live.__main__", "--backend sim --quick --calibration 1 --context-limit 40", "leave no room for one more"),
        ("overhead", "--requests 0", "--requests: must be a whole number above 0"),
        ("paper.__main__", "--seeds 0", "--seeds: must be a whole number above 0"),
        ("paper.__main__", "--read NONE", "NONE: No such file"),
        ("peers.__main__", "--rounds 2", "--rounds and --requests are for real servers"),
        ("peers.__main__", "--engine x", "--engine: invalid choice: 'x'"),
        ("policies.__main__", "--jobs 0", "--jobs: must be a whole number above 0"),
        ("policies.__main__", "--load 0", "--load: must be a number above 0"),
        ("policies.__main__", "--table NONE", "NONE: No such file"),
        ("policies.__main__", "--table OTHER", "OTHER: Object missing required field"),
        ("policies.__main__", "--traces NONE", "--traces: no such folder: NONE"),
        ("policies.__main__", "--workload trace-loogle", "traces are not there, see --traces: trace-loogle"),
        ("torch_engine", "--repeats 0", "--repeats: must be a whole number above 0"),
        ("workloads.compare", "--traces NONE", "--traces: no such folder: NONE"),
        ("workloads.compare", "--traces . --workload loogle", "without preble5_ref4/loogle.seg.jsonl.gz"),
    ],
)
def test_it_is_one_line_and_a_status(command, options, said, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "OTHER").write_text("{}")
    try:
        status = import_module(f"bench.{command}").main(options.split())
    except SystemExit as ended:
        status = ended.code
    *usage, line = (status if isinstance(status, str) else capsys.readouterr().err).splitlines()
    assert status in (2, line)
    assert said in line
    assert not usage or usage[0].startswith("usage: ")
