"""Work and waits in the triggerer; tests on a running Airflow cover its restarts and kills."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_provider_backfill import triggers
from airflow_provider_backfill.airflow_support import task_log
from airflow_provider_backfill.airflow_support.task_log import ChunkReporter
from airflow_provider_backfill.commands.cancel import cancel_plan
from airflow_provider_backfill.commands.run import run_plan
from airflow_provider_backfill.commands.status import read_status
from airflow_provider_backfill.sensors import BackfillStatusSensor
from airflow_provider_backfill.triggers import BackfillChunkTrigger, BackfillStatusTrigger
from tests.airflow.conftest import CONNECTION, Flow
from tests.clickhouse.lab import Lab
from tests.state import chunks_of, done, failed, make_plan, started

Make = Callable[..., Flow]
WINDOW: dict[str, Any] = {"window_from": "2025-01-01", "window_to": "2025-01-03"}


@pytest.fixture
def lab(http_lab: Lab) -> Lab:
    http_lab.sql(
        "CREATE TABLE source (ts DateTime('UTC'), x UInt32, bad UInt8) ENGINE = MergeTree ORDER BY ts AS"
        " SELECT toDateTime('2025-01-01', 'UTC') + 360 * number, number, 0 FROM numbers(480)",
        "CREATE TABLE target (ts DateTime('UTC'), x UInt32) ENGINE = MergeTree PARTITION BY toDate(ts) ORDER BY ts",
    )
    return http_lab


def select(lab: Lab, condition: str = "NOT throwIf(bad)") -> str:
    return f"SELECT ts, x FROM {lab.engine.database}.source WHERE {condition}"


def attempts(lab: Lab, plan_id: str) -> int:
    count: int = read_status(lab.session, plan_id)["attempts"]
    return count


def test_deferred_chunks_write_what_chunks_in_workers_write(lab: Lab, backfill: Make) -> None:
    flow = backfill(
        str(lab.table("target")),
        {**WINDOW, "chunk_hours": 6, "select": select(lab), "max_mapped_tasks": 2},
        {"deferrable": True},
        {"deferrable": True},
    )
    assert flow.start() == "success"
    assert lab.content("target", "ts, x") == lab.content("source", "ts, x")
    assert attempts(lab, flow.result("plan", "plan_id")) == 8
    assert flow.result("chunks", map_index=1)["rowsWritten"] == 240
    assert flow.result("finished")["rowsWritten"] == 480


def test_a_chunk_that_fails_in_the_triggerer_fails_its_task_and_a_clear_goes_on(lab: Lab, backfill: Make) -> None:
    lab.sql("INSERT INTO source VALUES ('2025-01-01 13:30:00', 9999, 1)")
    flow = backfill(
        str(lab.table("target")),
        {**WINDOW, "chunk_hours": 12, "select": select(lab), "max_mapped_tasks": 2},
        {"deferrable": True, "retries": 2},
    )
    assert flow.start() == "failed"
    assert flow.states("chunks") == ["failed", "success"]
    assert flow.instances("chunks")[0].try_number == 1
    lab.sql("ALTER TABLE source DELETE WHERE bad SETTINGS mutations_sync = 2")
    assert flow.clear("chunks", 0) == "success"
    assert attempts(lab, flow.result("plan", "plan_id")) == 5
    assert lab.content("target", "ts, x") == lab.content("source", "ts, x")


def test_done_chunks_are_replayed_once_although_a_trigger_may_run_twice(lab: Lab, backfill: Make) -> None:
    """What is to be replayed is written before the deferral; the trigger knows nothing of it."""
    flow = backfill(
        str(lab.table("target")),
        {**WINDOW, "chunk_hours": 24, "select": select(lab), "write_mode": "replace"},
        {"deferrable": True, "replay_done": True},
    )
    assert flow.start() == "success"
    assert flow.clear("chunks", 0) == "success"
    plan_id = flow.result("plan", "plan_id")
    assert attempts(lab, plan_id) == 3
    again = chunk_trigger(lab, flow.result("plan")[0])
    assert asyncio.run(first(again)) == {"error": "", "final": False}
    assert attempts(lab, plan_id) == 3


def chunk_trigger(lab: Lab, chunks: dict[str, Any]) -> BackfillChunkTrigger:
    """As the triggerer makes it: from its serialised form."""
    flags = dict.fromkeys(("force_overlap", "force_compatibility", "force_environment"), False)
    trigger = BackfillChunkTrigger(
        chunks=chunks,
        user="airflow:test",
        dag_id="test",
        clickhouse_conn_id=CONNECTION,
        state_dir=str(lab.folder),
        options=None,
        flags=flags,
    )
    _, arguments = trigger.serialize()
    return BackfillChunkTrigger(**arguments)


def test_lines_come_together_and_a_short_chunk_has_one(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line alone costs Airflow's supervisor more than itself, and the triggerer asks its database for each."""
    made = make_plan(chunks=3)
    short, failing, slow = chunks_of(made)
    caplog.set_level("INFO", "lines")

    def lines() -> list[str]:
        found = [re.sub(r"^2025-01-01 (\d+).*?: (.*) \(.*", r"\1 \2", each.getMessage()) for each in caplog.records]
        caplog.clear()
        return found

    monkeypatch.setattr(task_log, "_HOLD_SECONDS", 3600)
    with ChunkReporter(logging.getLogger("lines"), "dag") as reporter:
        reporter.begin(made)
        for event in (started(made, short), done(short), started(made, failing)):
            reporter(event)
        assert lines() == []
        # A failure does not wait, and comes after what was held.
        reporter(failed(failing))
        assert lines() == ["00 10 rows in 1.5 s", "06 out of memory"]
        reporter(started(made, failing, 2))
    assert lines() == ["06 begins"]

    monkeypatch.setattr(task_log, "_HOLD_SECONDS", 0.05)
    with ChunkReporter(logging.getLogger("lines"), "dag") as reporter:
        reporter(started(made, slow))
        deadline = time.monotonic() + 20
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.05)
        assert lines() == ["12 begins"]


async def first(trigger: Any) -> Any:
    async for event in trigger.run():
        return event.payload
    return None


def slow_plan(lab: Lab, connect: Callable[..., None], parts: int = 1) -> list[dict[str, Any]]:
    """Chunks that take a minute each; the mapping input."""
    connect(lab.engine.url, session_settings={"max_block_size": 1})
    lab.sql(
        "CREATE TABLE slow (ts DateTime('UTC'), x UInt32) ENGINE = MergeTree ORDER BY ts"
        f" SETTINGS index_granularity = 1 AS SELECT toDateTime('2025-01-01', 'UTC')"
        f" + intDiv(864 * number, {parts}), number"
        f" FROM numbers({100 * parts})"
    )
    from airflow_provider_backfill.airflow_support.fields import mapped_items

    sql = f"SELECT ts, x FROM {lab.engine.database}.slow WHERE NOT sleepEachRow(0.6)"
    plan = lab.plan("target", "2025-01-01", "2025-01-02", 24 / parts, select=sql)
    return list(mapped_items(lab.session.store.load_plan(plan["planId"]), 100))


def queries(lab: Lab) -> int:
    found: int = lab.value(
        "SELECT count() FROM system.processes WHERE startsWith(query_id, 'backfill-') AND startsWith(query, 'INSERT')"
        f" AND position(query, '{lab.engine.database}')"
    )
    return found


def test_many_deferred_chunks_do_not_block_the_loop_and_a_cancel_kills_their_queries(
    lab: Lab, connect: Callable[..., None], airflow_db: None
) -> None:
    """More of them than the loop's own pool has threads; the loop is asked for its pulse all the time."""
    batches = slow_plan(lab, connect, parts=24)
    triggers = [chunk_trigger(lab, batch) for batch in batches]

    async def scene() -> tuple[float, int, float]:
        tasks = [asyncio.ensure_future(first(trigger)) for trigger in triggers]
        longest, deadline = 0.0, time.monotonic() + 120
        while await asyncio.to_thread(queries, lab) < len(tasks) and time.monotonic() < deadline:
            began = time.monotonic()
            await asyncio.sleep(0.05)
            longest = max(longest, time.monotonic() - began - 0.05)
        running, began = queries(lab), time.monotonic()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return longest, running, time.monotonic() - began

    longest, running, took = asyncio.run(scene())
    assert running == 24
    # The work blocks for a minute each time, so in the event loop it would stop the loop for a minute.
    assert longest < 5
    assert took < 20
    assert queries(lab) == 0
    counts = read_status(lab.session, batches[0]["planId"])["chunkCounts"]
    assert (counts["running"], counts["pending"]) == (0, 24)


def plan(lab: Lab, start: str, end: str) -> str:
    return str(lab.plan("target", start, end, 6, select=select(lab))["planId"])


def waiting_for_window(lab: Lab, **arguments: Any) -> BackfillStatusTrigger:
    return BackfillStatusTrigger(
        poke_interval=0.05,
        **{"target": str(lab.table("target")), "window_from": "2025-01-01", "window_to": "2025-01-03", **arguments},
        state_dir=str(lab.folder),
    )


def test_a_window_is_waited_for_whoever_fills_it(lab: Lab, airflow_db: None) -> None:
    """Of two plans, the second is only made while the sensor waits."""
    plans = [plan(lab, "2025-01-01", "2025-01-02")]

    def others() -> None:
        run_plan(lab.session, plans[0])
        plans.append(plan(lab, "2025-01-02", "2025-01-03"))
        run_plan(lab.session, plans[1])

    runner = threading.Timer(0.5, others)
    runner.start()
    found = asyncio.run(first(waiting_for_window(lab)))
    runner.join()
    assert found["lost"] == ""
    assert found["published"]["planIds"] == sorted(plans)
    assert found["published"]["rowsWritten"] is None


def test_a_window_whose_only_plan_was_cancelled_is_lost(lab: Lab, airflow_db: None) -> None:
    run_plan(lab.session, plan(lab, "2025-01-01", "2025-01-02"))
    cancelled = plan(lab, "2025-01-02", "2025-01-03")
    cancel_plan(lab.session, cancelled)
    found = asyncio.run(first(waiting_for_window(lab)))
    assert found["published"] is None
    assert "is filled to 50.0% from 2025-01-01T00:00:00.000Z to 2025-01-03T00:00:00.000Z. 2025-01-02" in found["lost"]
    assert found["lost"].endswith(f"is missing, and plan {cancelled} is cancelled")


def test_a_sensor_of_a_window_returns_what_is_there(lab: Lab, airflow_db: None, dag_id: str) -> None:
    done = plan(lab, "2025-01-01", "2025-01-03")
    run_plan(lab.session, done)
    with DAG(dag_id, schedule=None) as dag:
        BackfillStatusSensor(
            task_id="wait", target=str(lab.table("target")), **WINDOW, state_dir=str(lab.folder), deferrable=True
        )
    flow = Flow(dag)
    assert flow.start() == "success"
    assert flow.result("wait")["planIds"] == [done]


@pytest.mark.parametrize(("soft_fail", "state"), [(False, "failed"), (True, "skipped")])
def test_a_deferred_sensor_fails_when_the_run_is_cancelled_meanwhile(
    lab: Lab, airflow_db: None, dag_id: str, soft_fail: bool, state: str
) -> None:
    plan_id = plan(lab, "2025-01-01", "2025-01-03")
    with DAG(dag_id, schedule=None) as dag:
        BackfillStatusSensor(
            task_id="wait",
            plan_id=plan_id,
            state_dir=str(lab.folder),
            deferrable=True,
            soft_fail=soft_fail,
            poke_interval=0.1,
            retries=3,
        )
    flow = Flow(dag)
    # Serialising and starting take longer than that: it is waiting by then.
    canceller = threading.Timer(3, cancel_plan, [lab.session, plan_id])
    canceller.start()
    flow.start()
    canceller.join()
    assert flow.states("wait") == [state]
    assert flow.instances("wait")[0].try_number == 1


def test_a_trigger_does_not_come_back_at_once(
    lab: Lab, connect: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow's scheduler would fail a task that is back before its deferral was noted."""
    monkeypatch.setattr(triggers, "_SETTLE_SECONDS", 1.5)
    (chunk, *_) = slow_plan(lab, connect)
    lab.sql("DROP TABLE slow")
    began = time.monotonic()
    assert asyncio.run(first(chunk_trigger(lab, chunk)))["error"]
    assert time.monotonic() - began >= 1.5
