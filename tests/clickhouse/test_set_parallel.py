"""The number of parallel chunks of a plan, changed during the run."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from tests.clickhouse.ward import Ward
from tests.command_line import finish, wait_until

ENDS = {"ChunkDone", "ChunkFailed", "ChunkReleased", "ChunkSplit"}


def slow(ward: Ward, hours: float = 1) -> dict[str, Any]:
    """A plan of a day whose chunks take a third of a second for an hour of rows."""
    select = f"SELECT ts, k, v + sleepEachRow(0.003) AS v FROM {ward.engine.database}.events"
    return ward.planned(select=select, hours=hours, end="2025-01-02")


def set_parallel(ward: Ward, plan: dict[str, Any], number: int | str) -> dict[str, Any]:
    answer = ward.cli("set-parallel", plan["planId"], str(number), "--json")
    assert answer.code == 0
    return answer.payload


def running(ward: Ward, plan: dict[str, Any]) -> int:
    """Chunks that are claimed now."""
    count: int = ward.cli.json("status", "--plan-id", plan["planId"])["chunkCounts"]["running"]
    return count


def most_at_once(events: list[dict[str, Any]]) -> int:
    """The largest number of simultaneous claims between the first event and the last."""
    held, most = 0, 0
    for event in events:
        held += (event["type"] == "ChunkStarted") - (event["type"] in ENDS)
        most = max(most, held)
    return most


def at(event: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(event["at"])


def test_a_running_run_is_sped_up_and_slowed_down(ward: Ward) -> None:
    plan = slow(ward)
    process = ward.cli.start("run", "--plan-id", plan["planId"], "--max-parallel-chunks", "1")
    wait_until(lambda: running(ward, plan) == 1)
    assert set_parallel(ward, plan, 3)["before"] is None
    wait_until(lambda: running(ward, plan) == 3)
    status = ward.cli("status", "--plan-id", plan["planId"])
    assert "at most 3 chunks in parallel, set with `set-parallel`" in status.out
    text = ward.cli("set-parallel", "2", "--plan-id", plan["planId"]).out
    assert "2 chunks in parallel, from now on. 3 run; those over it are not stopped." in text
    wait_until(lambda: running(ward, plan) == 2)
    payload = set_parallel(ward, plan, "auto")
    assert (payload["maxParallelChunks"], payload["before"], payload["running"]) == (None, 2, 2)
    wait_until(lambda: running(ward, plan) == 1)
    assert finish(process).code == 0
    events = ward.cli.events(plan["planId"])
    turns = [index for index, event in enumerate(events) if event["type"] == "ParallelismSet"]
    assert [events[index]["parallel"] for index in turns] == [3, 2, 0]
    assert most_at_once(events) == 3
    assert most_at_once(events[: turns[0]]) == 1
    # Every worker sees it within two seconds: by then the third chunk was claimed.
    third = [event for event in events[turns[0] :] if event["type"] == "ChunkStarted"][1]
    assert (at(third) - at(events[turns[0]])).total_seconds() < 2
    assert ward.value("SELECT count() FROM filled") == 1440


def test_the_number_counts_for_all_workers_together(ward: Ward) -> None:
    """Two commands, such as two tasks of Airflow, with three threads each: never more than two chunks."""
    plan = slow(ward)
    set_parallel(ward, plan, 2)
    words = ("run", "--plan-id", plan["planId"], "--max-parallel-chunks", "3")
    for process in [ward.cli.start(*words) for _ in range(2)]:
        assert finish(process).code == 0
    events = ward.cli.events(plan["planId"])
    second = [event["type"] for event in events].index("RunStarted", 2)
    assert sum(event["type"] == "ChunkStarted" for event in events[second:]) > 4
    assert most_at_once(events) == 2
    assert ward.value("SELECT count() FROM filled") == 1440


def test_what_is_no_number_and_what_is_over(ward: Ward) -> None:
    plan = ward.planned()
    for wrong in ("0", "-1", "1.5", "x"):
        assert ward.cli("set-parallel", plan["planId"], wrong).code == 2
    assert ward.cli("set-parallel", "--plan-id", plan["planId"]).code == 2
    ward.run(plan)
    answer = ward.cli("set-parallel", "2", "--plan-id", plan["planId"])
    assert (answer.code, "nothing of it runs any more" in answer.err) == (2, True)
