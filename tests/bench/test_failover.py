"""The bad replica and the bad engine are bad as told; what is made of the figures; the command from end to end."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from bench.failover import __main__ as command
from bench.failover.engine import FaultyEngine, fleet_options, received
from bench.failover.kinds import HEALTHY, TWO, EngineFault, ReplicaFault
from bench.failover.replica import Replica
from bench.failover.runs import Answer, Run, Scale, Served, run
from bench.failover.tables import as_it_should_be, tables, verdict
from preble import DeadlineExceededError, EngineError, OverloadedError, SamplingParams
from preble.backends import EngineRequest
from preble.core.copies import COPY_PRIORITY
from preble.tokens import pack
from tests.cluster.cases import eventually

BODY = {"prompt": [5, 6, 7], "max_tokens": 4, "stream": True}
GOOD = Run(
    fleet="replicas", kind=HEALTHY, policy="e2", requests=10, failed=0, late=0, differing=0, ttft_mean=0.1,
    ttft_p95=0.2, again=0, at_bad=3, before_left_out=None, errors={},
)  # fmt: skip


async def complete(replica: Replica, **more: Any) -> tuple[int, dict[str, str], str]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{replica.url}/v1/completions", json=BODY | more) as response,
    ):
        return response.status, dict(response.headers), await response.text()


async def test_a_replica_streams_token_ids_and_what_was_cached():
    async with Replica() as replica:
        status, _, text = await complete(replica, prompt=list(range(3, 67)))
        again = await complete(replica, prompt=list(range(3, 67)))
    events = [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n")[:-2]]
    assert status == 200
    assert text.endswith("data: [DONE]\n\n")
    assert sum(len(event["choices"][0]["token_ids"]) for event in events[:-1]) == 4
    assert events[-2]["choices"][0]["finish_reason"] == "length"
    assert events[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert '"cached_tokens":48' in again[2]
    assert replica.received == 2


async def test_a_replica_refuses_at_once_with_its_retry_after():
    async with Replica() as replica:
        replica.fault = ReplicaFault(status=429, retry_after=3)
        status, headers, text = await complete(replica)
    assert (status, headers["Retry-After"]) == (429, "3")
    assert "out of order" in text
    assert replica.received == 1


async def test_a_replica_breaks_streams_but_not_its_own():
    async with Replica() as replica:
        replica.fault = ReplicaFault(break_after=2)
        with pytest.raises(aiohttp.ClientError):
            await complete(replica)
        replica.fault = ReplicaFault()
        assert (await complete(replica))[0] == 200


async def test_a_replica_hangs_while_its_health_is_good():
    async with Replica() as replica, aiohttp.ClientSession() as session:
        replica.fault = ReplicaFault(hangs=True)
        hanging = asyncio.create_task(complete(replica))
        await eventually(lambda: replica.received == 1)
        async with session.get(f"{replica.url}/health") as response:
            assert response.status == 200
        assert not hanging.done()
        hanging.cancel()


async def test_a_probe_and_a_copy_are_no_requests():
    async with Replica() as replica:
        await complete(replica, stream=False)
        await complete(replica, priority=COPY_PRIORITY)
    assert replica.received == 0


def engine(folder: Path, **fault: Any) -> FaultyEngine:
    return FaultyEngine(**fleet_options(folder, EngineFault(**fault), 1, vocab_size=100)[0])


async def tokens(of: FaultyEngine, id: int = 1, priority: int = 0) -> int:
    request = EngineRequest(id, pack([5, 6, 7]), SamplingParams(max_tokens=4, ignore_eos=True), priority=priority)
    count = 0
    async with aclosing(of.generate(request)) as deltas:
        async for delta in deltas:
            count += len(delta.tokens) // 4
    return count


async def test_the_first_engine_of_a_fleet_has_the_fault_and_all_count(tmp_path: Path):
    bad, good = (FaultyEngine(**each) for each in fleet_options(tmp_path, EngineFault(error="broken"), 2))
    for each in (bad, good):
        await each.start()
    with pytest.raises(EngineError):
        await tokens(bad)
    assert [await tokens(good), await tokens(good, priority=COPY_PRIORITY)] == [4, 4]
    assert received(tmp_path) == [1, 1]
    for each in (bad, good):
        await each.close()


@pytest.mark.parametrize(
    ("fault", "error"),
    [({"error": "full"}, OverloadedError), ({"error": "broken", "tokens": 2}, EngineError),
     ({"steps_fail_after": 1}, EngineError)],
)  # fmt: skip
async def test_an_engine_fails_as_it_is_told(tmp_path: Path, fault: dict[str, Any], error: type[Exception]):
    bad = engine(tmp_path, **fault)
    await bad.start()
    with pytest.raises(error):
        await tokens(bad)
    await bad.close()


def test_figures_are_those_of_what_was_answered():
    answers = [
        Answer((1, 2), 0.1), Answer((3, 5), 0.3), Answer(error=EngineError), Answer(error=DeadlineExceededError),
    ]  # fmt: skip
    served = Served(answers, sent=(3, 2, 2), moved=1, before_left_out=2)
    found = run("replicas", "bad", "e2", served, expected=[(1, 2), (3, 4), (5,), (6,)])
    assert (found.failed, found.late, found.differing) == (2, 1, 1)
    assert found.ttft_mean == pytest.approx(0.2)
    assert (found.again, found.at_bad, found.before_left_out) == (2, 3, 2)
    assert found.errors == {"EngineError": 1, "DeadlineExceededError": 1}


def test_a_run_without_an_answer_has_no_times():
    served = Served([Answer(error=EngineError)], sent=(1, 0, 0), moved=0, before_left_out=None)
    found = run("replicas", "bad", "e2", served, expected=[(1,)])
    assert found.ttft_mean is None
    assert "| bad | e2 | 1 | - | - | 0 | - | 1 |" in tables([GOOD, found])[-1]


def test_rows_are_beside_the_healthy_one_of_their_policy():
    bad = msgspec.structs.replace(GOOD, kind="bad", failed=3, late=1, ttft_mean=0.25, again=4, before_left_out=2)
    *_, text = tables([GOOD, bad])
    assert f"| {HEALTHY} | e2 | 0 | 0.100 s | 0.200 s | 0 |  |  |" in text
    assert "| bad | e2 | 3 (1) | 2.50x | 1.00x | 4 | 2 | 3 |" in text


def test_only_a_caller_s_own_deadline_may_end_a_request():
    late = msgspec.structs.replace(GOOD, failed=1, late=1)
    failed = msgspec.structs.replace(GOOD, failed=2, late=1)
    differing = msgspec.structs.replace(GOOD, differing=1)
    assert [as_it_should_be([GOOD, each]) for each in (GOOD, late, failed, differing)] == [True, True, False, False]
    assert verdict([GOOD]) == "Every request was answered, with the tokens of healthy workers."
    assert verdict([failed, differing]).startswith("1 requests failed, 1 more ended at their deadline, 1 ")


def test_a_run_reports_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    scale = Scale(12, {"replicas": (HEALTHY, TWO, "answers 500"), "workers": (HEALTHY, TWO, "fails every request")})
    monkeypatch.setattr(command, "QUICK", scale)
    page, result = tmp_path / "page.md", tmp_path / "result.json"
    assert command.main(["--quick", "--json", str(result), "--markdown", str(page)]) == 0
    found = json.loads(result.read_text())
    assert [(row["fleet"], row["kind"], row["policy"]) for row in found["runs"]] == [
        (fleet, kind, policy) for fleet, kinds in scale.kinds.items() for kind in kinds
        for policy in ("e2", "round-robin")
    ]  # fmt: skip
    assert all(row["requests"] == 12 for row in found["runs"])
    assert [row["at_bad"] for row in found["runs"] if row["kind"] == TWO] == [0] * 4
    assert all(row["again"] > 0 for row in found["runs"] if row["kind"] not in (HEALTHY, TWO))
    assert found["metrics"]["replicas, drained: two healthy ones, e2: failed"] == 0
    assert page.read_text().count("\n| ") == 2 * 2 + scale.runs
    assert f"{scale.runs}/{scale.runs}" in capsys.readouterr().out, "progress reaches its end"
