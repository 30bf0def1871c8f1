"""DAG runs from plan to sensor: the content of the target, and the executed chunks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.airflow.conftest import Flow
from tests.clickhouse.lab import Lab
from tests.conftest import Engine

Make = Callable[..., Flow]

# Two days by the hour, ten rows each; some day has a row that makes a SELECT over it fail.
SOURCE = """CREATE TABLE source (ts DateTime('UTC'), x UInt32, bad UInt8) ENGINE = MergeTree ORDER BY ts AS
SELECT toDateTime('2025-01-01', 'UTC') + 360 * number, number, 0 FROM numbers(480)"""
TARGET = "CREATE TABLE target (ts DateTime('UTC'), x UInt32) ENGINE = MergeTree PARTITION BY toDate(ts) ORDER BY ts"
WINDOW = {"window_from": "2025-01-01", "window_to": "2025-01-03"}
BREAK = "INSERT INTO source VALUES ('2025-01-01 13:30:00', 9999, 1)"
MEND = "ALTER TABLE source DELETE WHERE bad SETTINGS mutations_sync = 2"


@pytest.fixture
def lab(http_lab: Lab) -> Lab:
    http_lab.sql(SOURCE, TARGET)
    return http_lab


def select(lab: Lab, condition: str = "NOT throwIf(bad)") -> str:
    return f"SELECT ts, x FROM {lab.engine.database}.source WHERE {condition}"


def attempts(lab: Lab, flow: Flow) -> int:
    """How many attempts the plan's event log has."""
    from airflow_provider_backfill.commands.status import read_status

    count: int = read_status(lab.session, flow.result("plan", "plan_id"))["attempts"]
    return count


def equal(lab: Lab) -> bool:
    return lab.content("target", "ts, x") == lab.content("source", "ts, x", "WHERE NOT bad")


def test_a_view_is_replayed_by_mapped_tasks(engine: Engine, tmp_path: Path, connect: Any, backfill: Make) -> None:
    """The main job, over HTTP and embedded, through the official provider's hook."""
    lab = Lab(engine, tmp_path / "state")
    connect(engine.url)
    lab.sql(
        SOURCE,
        "CREATE TABLE target (hour DateTime('UTC'), n UInt64) ENGINE = SummingMergeTree ORDER BY hour",
        f"CREATE MATERIALIZED VIEW view TO {lab.table('target')} AS"
        " SELECT toStartOfHour(ts) AS hour, count() AS n FROM source GROUP BY hour",
    )
    flow = backfill(str(lab.table("target")), {**WINDOW, "chunk_hours": 12})
    assert flow.start() == "success"
    assert lab.content("target") == lab.content(
        "(SELECT toStartOfHour(ts) AS hour, count() AS n FROM source GROUP BY hour)"
    )
    assert flow.states("chunks") == ["success"] * 4
    assert flow.instances("chunks")[1].rendered_map_index == "2025-01-01 12:00 to 2025-01-02 00:00, 1/1 done"
    assert flow.result("chunks", map_index=0) == {
        "planId": flow.result("plan", "plan_id"),
        "from": "2025-01-01T00:00:00.000Z",
        "to": "2025-01-01T12:00:00.000Z",
        "chunkCount": 1,
        "rowsWritten": 12,
    }
    assert lab.leftovers() == []


def test_chunks_are_batched_evenly_and_checkpointed_one_by_one(lab: Lab, backfill: Make) -> None:
    flow = backfill(
        str(lab.table("target")), {**WINDOW, "chunk_hours": 4, "select": select(lab), "max_mapped_tasks": 5}
    )
    assert flow.start() == "success"
    batches = flow.result("plan")
    assert [batch["chunkCount"] for batch in batches] == [3, 3, 2, 2, 2]
    assert [batch["from"] for batch in batches[1:]] == [batch["to"] for batch in batches[:-1]]
    assert attempts(lab, flow) == 12
    assert equal(lab)
    # A task that has done its share does not pause the run of other tasks.
    assert "RunPaused" not in next((lab.folder / "events").iterdir()).read_text()


def test_small_chunks_share_two_tasks_for_each_that_may_run_in_parallel(lab: Lab, backfill: Make) -> None:
    flow = backfill(
        str(lab.table("target")),
        {"window_from": "2025-01-01", "window_to": "2025-01-02", "chunk_hours": 0.5, "select": select(lab)},
        {"max_parallel_chunks": 3},
    )
    assert flow.start() == "success"
    assert [batch["chunkCount"] for batch in flow.result("plan")] == [8] * 6
    assert attempts(lab, flow) == 48


def test_the_newest_chunks_come_first_and_the_plan_says_whose_it_is(lab: Lab, backfill: Make) -> None:
    """Across mapped tasks and within each of them."""
    asked = {"select": select(lab), "max_mapped_tasks": 2, "newest_first": "{{ True }}"}
    flow = backfill(
        str(lab.table("target")),
        {**WINDOW, "chunk_hours": 12, **asked, "reason": "rates of {{ dag.dag_id }}", "owner": "ledger"},
        {"max_load": "0.9", "max_failures": "3", "hours": "0:00-23:59"},
    )
    assert flow.start() == "success"
    log = [json.loads(line) for line in next((lab.folder / "events").iterdir()).read_text().splitlines()]
    began = [event["from"] for event in log if event["type"] == "ChunkStarted"]
    # Airflow may start the second task first: what is ours is the order of the tasks, and that of chunks in a task.
    batches = flow.result("plan")
    assert [batch["from"] for batch in batches] == sorted((batch["from"] for batch in batches), reverse=True)
    for batch in batches:
        of_task = [start for start in began if batch["from"] <= start < batch["to"]]
        assert of_task == sorted(of_task, reverse=True)
        assert len(of_task) == 2
    plan = lab.session.store.load_plan(flow.result("plan", "plan_id"))
    assert (plan.reason, plan.owner) == (f"rates of {flow.dag.dag_id}", "ledger")
    assert equal(lab)


@pytest.mark.parametrize("deferrable", [False, True])
def test_no_chunk_starts_after_the_time_to_stop(lab: Lab, backfill: Make, deferrable: bool) -> None:
    """The tasks fail without spending Airflow's retries; a clear without that time continues."""
    flow = backfill(
        str(lab.table("target")),
        {**WINDOW, "chunk_hours": 12, "select": select(lab), "max_mapped_tasks": 2},
        # Long ago for the chunks, and to come for the run that began before the plan task.
        {
            "stop_at": "{{ (dag_run.start_date + macros.timedelta(milliseconds=1)).isoformat() }}",
            "retries": 3,
            "deferrable": deferrable,
        },
    )
    assert flow.start() == "failed"
    assert [(str(ti.state), ti.try_number) for ti in flow.instances("chunks")] == [("failed", 1)] * 2
    assert attempts(lab, flow) == 0
    flow.dag.get_task("chunks").partial_kwargs["stop_at"] = None
    assert flow.clear("chunks") == "success"
    assert equal(lab)


def test_a_failed_chunk_leaves_the_run_red_and_a_clear_does_only_what_is_left(lab: Lab, backfill: Make) -> None:
    """Airflow's retries are not spent on a statement that ClickHouse will always refuse."""
    lab.sql(BREAK)
    flow = backfill(
        str(lab.table("target")),
        {**WINDOW, "chunk_hours": 4, "select": select(lab), "max_mapped_tasks": 2},
        {"retries": 2},
    )
    assert flow.start() == "failed"
    assert flow.states("chunks") == ["failed", "success"]
    assert flow.instances("chunks")[0].try_number == 1
    assert flow.instances("chunks")[0].rendered_map_index == "2025-01-01, 5/6 done, 1 failed"
    assert flow.states("finished") == ["upstream_failed"]
    assert attempts(lab, flow) == 12

    lab.sql(MEND)
    assert flow.clear("chunks", 0) == "success"
    assert flow.states("finished") == ["success"]
    assert attempts(lab, flow) == 13
    assert equal(lab)


def test_airflows_retries_do_not_multiply_those_of_a_chunk(lab: Lab, backfill: Make, connect: Any) -> None:
    """Code 202 is retryable: two attempts by the option, not two for each of Airflow's four tries."""
    connect(lab.engine.url, session_settings={"allow_custom_error_code_in_throwif": 1})
    lab.sql(BREAK)
    failing = select(lab, "NOT throwIf(bad, 'too many', toInt16(202))")
    flow = backfill(
        str(lab.table("target")),
        {**WINDOW, "chunk_hours": 24, "select": failing},
        {"retries": 3, "options": {"defaults": {"retryDelayMs": 1, "maxRetriesPerChunk": 2}}},
    )
    assert flow.start() == "failed"
    assert flow.states("chunks") == ["failed", "success"]
    assert attempts(lab, flow) == 3


def test_an_unreachable_clickhouse_is_what_airflows_retries_are_for(lab: Lab, backfill: Make, connect: Any) -> None:
    flow = backfill(
        str(lab.table("target")),
        {
            **WINDOW,
            "chunk_hours": 24,
            "select": select(lab),
            "retries": 1,
            "on_retry_callback": lambda _: connect(lab.engine.url),
        },
    )
    connect("http://default@127.0.0.1:9")
    assert flow.start() == "success"
    assert flow.instances("plan")[0].try_number == 2
    assert equal(lab)


def test_clearing_done_chunks_runs_nothing(lab: Lab, backfill: Make) -> None:
    flow = backfill(str(lab.table("target")), {**WINDOW, "chunk_hours": 12, "select": select(lab)})
    assert flow.start() == "success"
    assert flow.clear("chunks", 1, 2) == "success"
    assert flow.clear("plan") == "success"
    assert attempts(lab, flow) == 4
    assert equal(lab)


def test_replay_done_runs_cleared_chunks_again_once(lab: Lab, backfill: Make) -> None:
    """In replace mode the partition equals the result however often it is run."""
    flow = backfill(
        str(lab.table("target")),
        {**WINDOW, "chunk_hours": 24, "select": select(lab), "write_mode": "replace"},
        {"replay_done": True},
    )
    assert flow.start() == "success"
    assert attempts(lab, flow) == 2
    lab.sql("ALTER TABLE target DELETE WHERE 1 SETTINGS mutations_sync = 2")
    assert flow.clear("chunks", 1) == "success"
    assert attempts(lab, flow) == 3
    assert lab.value("SELECT min(ts) FROM target").isoformat() == "2025-01-02T00:00:00"
    assert flow.clear("chunks", 0) == "success"
    assert equal(lab)


def test_an_automatic_retry_replays_nothing(lab: Lab, backfill: Make, connect: Any) -> None:
    """A try that ended after its replay must not repeat it; here the answer was lost."""
    from airflow_provider_backfill.operators import BackfillChunkOperator

    class Flaky(BackfillChunkOperator):
        def execute(self, context: Any) -> dict[str, Any]:
            result = super().execute(context)
            if context["ti"].try_number == 1:
                raise RuntimeError("the worker was lost")
            return result

    flow = backfill(
        str(lab.table("target")),
        {**WINDOW, "chunk_hours": 24, "select": select(lab), "write_mode": "replace"},
        {"replay_done": True, "retries": 1},
        operator=Flaky,
    )
    assert flow.start() == "success"
    assert flow.instances("chunks")[0].try_number == 2
    assert attempts(lab, flow) == 2


def test_a_replay_that_would_add_rows_is_refused_with_the_argument_to_pass(
    lab: Lab, backfill: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    flow = backfill(
        str(lab.table("target")), {**WINDOW, "chunk_hours": 24, "select": select(lab)}, {"replay_done": True}
    )
    assert flow.start() == "failed"
    assert "pass clear_window as well" in "".join(capfd.readouterr())
    assert attempts(lab, flow) == 0


def test_a_new_run_of_a_completed_plan_changes_nothing(lab: Lab, backfill: Make) -> None:
    flow = backfill(str(lab.table("target")), {**WINDOW, "chunk_hours": 24, "select": select(lab)})
    assert flow.start() == "success"
    assert flow.start() == "success"
    assert attempts(lab, flow) == 2
    assert equal(lab)


def test_a_cancelled_run_skips_its_tasks_and_the_sensor_tells(lab: Lab, backfill: Make) -> None:
    from airflow_provider_backfill.commands.cancel import cancel_plan

    plan = lab.plan("target", "2025-01-01", "2025-01-03", 24, select=select(lab))
    cancel_plan(lab.session, plan["planId"])
    flow = backfill(str(lab.table("target")), {**WINDOW, "chunk_hours": 24, "select": select(lab)}, {}, {"retries": 5})
    assert flow.start() == "failed"
    assert flow.states("chunks") == ["skipped", "skipped"]
    assert flow.states("finished") == ["failed"]
    assert flow.instances("finished")[0].try_number == 1
    assert lab.value("SELECT count() FROM target") == 0


def test_the_mapping_never_exceeds_what_airflow_allows(
    lab: Lab, backfill: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow would only find out after the plan was written, and fail the task then."""
    monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "3")
    flow = backfill(
        str(lab.table("target")), {**WINDOW, "chunk_hours": 6, "select": select(lab), "max_mapped_tasks": 500}
    )
    assert flow.start() == "success"
    assert flow.states("chunks") == ["success"] * 3
    assert equal(lab)


def test_the_mapping_input_is_small_whatever_the_plan(lab: Lab) -> None:
    from airflow_provider_backfill.airflow_support.fields import mapped_items

    lab.options["limits"] = {"maxWindowHours": 1e6}
    plan = lab.plan("target", "2020-01-01", "2022-11-07T16:00:00Z", 0.25, select=select(lab))
    assert plan["chunkCount"] == 100_000
    batches = list(mapped_items(lab.session.store.load_plan(plan["planId"]), 100))
    assert {batch["chunkCount"] for batch in batches} == {1000}
    assert len(json.dumps(batches)) < 15_000
