from __future__ import annotations

import json
import math

import msgspec
import pytest

from bench.policies.__main__ import main
from bench.policies.board import LOADS, METRICS, OURS, PEERS, Board, Bound, Cell, Sustained, read
from bench.policies.cases import FARTHEST, GENERATED, window, workload
from bench.policies.compare import (
    against_each,
    at,
    best_peer,
    better,
    confident,
    sustained_each,
    sustained_ratios,
    targets,
)
from bench.policies.plan import Plan
from bench.policies.saturation import largest
from bench.policies.tables import command, markdown
from preble.core.policies import POLICIES
from preble.simulate import Request

SUSTAINED = Sustained(workload="toolbench", policy=OURS, rate=3.0, limit=1.0)
SETTINGS = {"seeds": [0], "peers_queue": "response-ratio", "cases": {"toolbench": {"requests": 10}}}


def cell(policy, load=0.8, workload="toolbench", **values):
    metrics = dict.fromkeys(METRICS, 1.0) | values
    return Cell(
        workload=workload,
        policy=policy,
        load=load,
        rate=10 * load,
        requests=10,
        failed=0,
        moved=0,
        by_seed={name: [value] for name, value in metrics.items()},
        **metrics,
    )


def board(*results):
    made = Board(date="2026-01-01", commit=None, machine={}, settings=SETTINGS)
    for result in results:
        made.add(result)
    return made


def met(*results):
    return [target.met for target in targets(board(*results))]


def counted(threshold, calls):
    def holds(rate):
        calls.append(rate)
        return rate <= threshold

    return holds


@pytest.mark.parametrize("threshold", [0.4, 3.0, 9.9, 10.0, 11.0, 80.0, 300.0])
def test_the_search_finds_a_threshold_from_either_side(threshold):
    calls = []
    assert threshold / 1.04 <= largest(counted(threshold, calls), 10.0, 0.3, 320.0) <= threshold
    assert len(calls) <= 14


def test_a_search_that_starts_near_is_short():
    calls = []
    largest(counted(10.5, calls), 10.0, 0.3, 320.0)
    assert len(calls) <= 5


def test_a_search_ends_where_nothing_or_everything_holds():
    assert largest(lambda rate: False, 10.0, 0.3, 320.0) == 0.0
    assert largest(lambda rate: True, 10.0, 0.3, 320.0) == 320.0


def test_ratios_above_one_are_better_for_every_metric():
    assert better("ttft_mean", 1.0, 2.0) == 2.0
    assert better("hit_ratio", 1.0, 2.0) == 0.5
    assert better("hit_ratio", 0.0, 0.0) == 1.0
    assert better("hit_ratio", 0.5, 0.0) is None


def test_confidence_is_that_of_students_t_on_logarithms():
    assert confident([2.0]).spread is None
    assert confident([1.5, 1.5, 1.5]).spread == 1.0
    found = confident([1.0, math.e, math.e**2])
    assert found.mean == pytest.approx(math.e)
    assert math.log(found.spread) == pytest.approx(4.30 / math.sqrt(3))
    assert confident([1.0, None]) is None


def test_the_best_peer_is_chosen_by_metric_and_is_never_ours_or_the_papers():
    cells = at(
        board(
            cell(OURS, ttft_mean=0.1, hit_ratio=0.9),
            cell("e2-paper", ttft_mean=0.2, hit_ratio=0.9),
            cell("random", ttft_mean=0.3, hit_ratio=0.1),
            cell("session-hash", ttft_mean=0.4, hit_ratio=0.2),
        ),
        "toolbench",
        0.8,
    )
    assert best_peer(cells, "ttft_mean").policy == "random"
    assert best_peer(cells, "hit_ratio").policy == "session-hash"


def test_against_a_peer_workloads_count_alike():
    found = against_each(
        board(
            cell(OURS),
            cell("random", ttft_mean=4.0),
            cell(OURS, workload="cold"),
            cell("random", workload="cold", ttft_mean=1.0),
        ),
        "ttft_mean",
        0.8,
    )
    assert found == {"random": pytest.approx(2.0)}


def test_targets_are_met_when_ours_is_far_better():
    ours = [cell(OURS, load, ttft_mean=1.0) for load in LOADS]
    peers = [cell("random", load, ttft_mean=1.3) for load in LOADS]
    rates = [Sustained(workload="toolbench", policy=p, rate=r, limit=1.0) for p, r in ((OURS, 11.5), ("random", 10.0))]
    half = Bound(
        workload="toolbench", load=0.5, rate=5.0, ttft_mean=0.7, ttft_p50=1.0, ttft_p99=1.0,
        latency_mean=1.0, latency_p99=1.0, hit_ratio=1.0,
    )  # fmt: skip
    assert met(*ours, *peers, *rates, half) == [True] * 5


def test_each_target_is_missed_by_what_it_names():
    half = Bound(
        workload="toolbench", load=0.5, rate=5.0, ttft_mean=0.6, ttft_p50=1.0, ttft_p99=1.0,
        latency_mean=1.0, latency_p99=1.0, hit_ratio=1.0,
    )  # fmt: skip
    rates = [Sustained(workload="toolbench", policy=p, rate=r, limit=1.0) for p, r in ((OURS, 10.9), ("random", 10.0))]
    assert met(cell(OURS, ttft_p99=1.04), cell("random", ttft_mean=1.3)) == [False, True, True]
    assert met(cell(OURS), cell("random", ttft_mean=1.04)) == [True, False, False]
    assert met(cell(OURS), cell("random", ttft_mean=1.2)) == [True, True, False]
    assert met(*rates) == [False]
    assert met(cell(OURS, 0.5), half) == [False]


def test_sustained_rates_compare_where_one_of_the_two_has_a_limit():
    def found(workload, policy, rate, unlimited=False):
        return Sustained(workload=workload, policy=policy, rate=rate, limit=1.0, unlimited=unlimited)

    made = board(
        found("cold", OURS, 12.0),
        found("cold", "random", 6.0),
        found("airline", OURS, 640.0, unlimited=True),
        found("airline", "random", 640.0, unlimited=True),
    )
    assert sustained_each(made) == {"random": pytest.approx(2.0)}
    made.add(found("cold", "random", 0.0))
    assert sustained_each(made) == {"random": pytest.approx(FARTHEST)}
    made.add(found("cold", "e2-paper", 6.0))
    assert sustained_ratios(made) == {"random": [pytest.approx(FARTHEST)], "e2-paper": [2.0]}
    assert "e2-paper" not in sustained_each(made)
    assert "| airline | 1.00 | - | - |" in markdown(made)
    assert "too few" not in "".join(markdown(made).split("## Cells")[1])
    made.add(cell(OURS, workload="airline"))
    assert "too few to fill the cluster" in markdown(made).split("### airline")[1]


def test_the_report_names_the_command_that_makes_it():
    made = board(cell(OURS, 0.5), SUSTAINED)
    assert command(made) == (
        "python -m bench.policies --seeds 1 --requests 10 --workload toolbench --policy e2 --load 0.5"
    )
    sizes = {name: {"requests": case.requests} for name, case in GENERATED.items()}
    made = board(*(Sustained(workload="toolbench", policy=name, rate=3.0, limit=1.0) for name in POLICIES))
    made.settings = SETTINGS | {"seeds": [0, 1, 2], "cases": sizes}
    assert command(made) == "python -m bench.policies"
    made.settings["peers_queue"] = "fcfs"
    assert command(made) == "python -m bench.policies --peers-queue fcfs"


def test_missed_targets_name_the_worst_first():
    never = targets(
        board(
            cell(OURS, ttft_mean=1.1),
            cell("random"),
            cell(OURS, workload="cold", latency_mean=2.0),
            cell("random", workload="cold"),
        )
    )[0]
    assert never.value == pytest.approx(2.0)
    assert [place.split(":")[0] for place in never.worst] == [
        "latency_mean cold at 80% (random)",
        "ttft_mean toolbench at 80% (random)",
    ]


def test_tables_show_values_and_ratios():
    text = markdown(board(cell(OURS, ttft_mean=0.5), cell("random", ttft_mean=0.6)))
    assert "| e2 | 0.5 (1.20) |" in text
    assert "| random | 0.6 (1.00) |" in text
    assert "| toolbench | 80% | 1.200 | 1.000 | 1.000 | random |" in text


def test_the_table_of_a_cell_has_each_value_below_its_name():
    heads, _, values = (
        markdown(board(cell(OURS, tpot_mean=0.03, hit_ratio=0.6, imbalance=1.5, throughput=7.0)))
        .split("### toolbench")[1]
        .splitlines()[2:5]
    )
    shown = dict(zip(heads.split(" | "), values.split(" | "), strict=True))
    assert (shown["TPOT, ms"], shown["imbalance"], shown["hit ratio"]) == ("30.0", "1.5", "0.600")


def test_a_board_survives_its_file(tmp_path):
    made = board(cell(OURS), SUSTAINED)
    made.save(tmp_path / "deep" / "policies.json")
    assert read(tmp_path / "deep" / "policies.json") == made


def test_a_newer_result_takes_the_place_of_an_older():
    made = board(cell(OURS, ttft_mean=2.0), cell(OURS, ttft_mean=3.0))
    assert [row.ttft_mean for row in made.cells] == [3.0]


def test_every_workload_has_a_case():
    from bench.workloads import WORKLOADS

    assert GENERATED.keys() == WORKLOADS.keys()
    for name, case in GENERATED.items():
        sent = workload(name, case, rate=case.rate, requests=100, seed=0)
        assert max(request.prompt_tokens + request.output_tokens for request in sent) <= case.options.kv_tokens


def trace(session_length):
    return [
        Request(
            segments=((index, 10),),
            output_tokens=1,
            session=f"s{index // session_length}" if session_length > 1 else None,
            turn=index % session_length,
            arrival=None if index % session_length else 5.0 + index,
        )
        for index in range(12)
    ]


@pytest.mark.parametrize("session_length", [1, 3])
def test_windows_of_a_trace_differ_by_seed_keep_sessions_and_begin_at_zero(session_length):
    first, second, third = (window(trace(session_length), 6, seed) for seed in range(3))
    assert [request.segments[0][0] for request in first] == list(range(6))
    assert [request.segments[0][0] for request in second] == list(range(6, 12))
    assert third == first
    assert first[0].arrival == second[0].arrival == 0.0


def test_a_window_goes_on_at_the_beginning():
    taken = window(trace(1), 8, 1)
    assert [request.segments[0][0] for request in taken] == [8, 9, 10, 11, 0, 1, 2, 3]
    arrivals = [request.arrival for request in taken]
    assert arrivals == sorted(arrivals)


RUN = ["--workload", "toolbench", "--policy", "e2", "--policy", "random", "--requests", "12", "--jobs", "1"]


def test_each_has_its_own_queues():
    plan = Plan({"toolbench": GENERATED["toolbench"]}, ["e2", "e2-paper", "random"], [0.5], 1, 10, "fcfs")
    queues = {job.policy: job.queue for job in [*plan.first(board()), *plan.others(board(SUSTAINED))]}
    assert queues == {"e2": "response-ratio", "e2-paper": "groups", "random": "fcfs"}


def test_the_queue_matters(tmp_path, capsys):
    paths = {queue: tmp_path / f"{queue}.json" for queue in ("response-ratio", "fcfs")}
    for queue, path in paths.items():
        assert main([*RUN, "--peers-queue", queue, "--load", "0.95", "--requests", "100", "--json", str(path)]) == 0
    one, other = ({row.policy: row.ttft_mean for row in read(path).cells} for path in paths.values())
    assert one["random"] != other["random"]
    assert one["e2"] == other["e2"], "the same in both"


def test_a_run_fills_all_cells_is_the_same_again_and_can_be_taken_up(tmp_path, capsys):
    path = tmp_path / "policies.json"
    assert main([*RUN, "--seeds", "2", "--json", str(path)]) == 0
    written = json.loads(path.read_text())
    assert {(row["workload"], row["policy"], row["load"]) for row in written["cells"]} == {
        ("toolbench", policy, load) for policy in ("e2", "random") for load in LOADS
    }
    best = max(row["rate"] for row in written["sustained"])
    for row in written["cells"]:
        assert row["rate"] == pytest.approx(best * row["load"])
        assert row["failed"] == 0
        assert all(row[metric] == pytest.approx(sum(row["by_seed"][metric]) / 2) for metric in METRICS)
    assert [row["load"] for row in written["bounds"]] == list(LOADS)
    half = msgspec.structs.replace(read(path).cells[0], ttft_mean=77.0)
    torn = read(path)
    torn.cells = [half]
    torn.save(path)
    assert main([*RUN, "--seeds", "2", "--json", str(path), "--resume"]) == 0
    again = json.loads(path.read_text())
    assert again["cells"][0]["ttft_mean"] == 77.0
    assert again["cells"][1:] == written["cells"][1:]
    for other in (["--seeds", "1"], ["--seeds", "2", "--peers-queue", "fcfs"]):
        with pytest.raises(SystemExit, match="other settings"):
            main([*RUN, *other, "--json", str(path), "--resume"])
    (tmp_path / "policies.md").unlink()
    assert main(["--table", str(path)]) == 0
    assert "77" in (tmp_path / "policies.md").read_text()
    assert {name.name for name in tmp_path.glob("*.png")} == {
        "policies-best.png", "policies-each.png", "policies-sustained.png",
    }  # fmt: skip
    assert json.loads(path.read_text()) == again


def test_peers_are_all_but_ours_and_the_papers():
    assert len(PEERS) == 12
    assert not {"e2", "e2-paper"} & set(PEERS)
