from __future__ import annotations

import json
import os

import pytest

from bench.report import command_line, completed, machine, save


def test_result_holds_everything_that_a_number_belongs_to(tmp_path, capsys):
    path = tmp_path / "deep" / "result.json"
    save(str(path), "sample", {"a_us": 1.5, "b_per_s": 20000.0}, requests=3)
    result = json.loads(path.read_text())
    assert result.keys() == {"name", "date", "commit", "machine", "metrics", "requests"}
    assert result["name"] == "sample"
    assert result["metrics"] == {"a_us": 1.5, "b_per_s": 20000.0}
    assert result["date"].endswith("+00:00")
    assert "20,000" in capsys.readouterr().out


def test_without_a_path_only_the_table_is_printed(capsys):
    save(None, "sample", {"a": 1.0})
    assert capsys.readouterr().out.split() == ["a", "1"]


def test_machine_names_processor_cores_versions_and_load():
    found = machine()
    assert found["cpu"]
    assert 1 <= found["usable_cores"] <= found["cores"] == os.cpu_count()
    assert found["packages"].keys() >= {"msgspec", "numpy", "pyzmq"}
    assert all(len(found["load_average"][when]) == 3 for when in ("before", "after"))


def test_numbers_that_json_lacks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="nan"):
        save(str(tmp_path / "result.json"), "sample", {"a": float("nan")})


def test_command_line_takes_the_file():
    parser = command_line("what it measures")
    assert parser.parse_args(["--json", "x.json"]).json == "x.json"
    assert parser.parse_args([]).json is None


def test_an_interrupted_benchmark_ends_as_shells_expect():
    async def interrupted() -> None:
        raise KeyboardInterrupt

    async def whole() -> None:
        pass

    assert completed("sample", interrupted()) == 130
    assert completed("sample", whole()) == 0
