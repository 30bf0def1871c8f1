"""Bad arguments and options: literal ones fail when the DAG is parsed, rendered ones before anything is written."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from airflow_provider_backfill.airflow_support.lineage import BACKFILLS
from airflow_provider_backfill.errors import ConfigError, RequestError
from airflow_provider_backfill.operators import BackfillChunkOperator, BackfillPlanOperator
from airflow_provider_backfill.sensors import BackfillStatusSensor
from tests.airflow.conftest import Flow
from tests.clickhouse.lab import Lab

Make = Callable[..., Flow]

CHUNKS = {"planId": "0123456789abcdef", "from": "2025-01-01", "to": "2025-01-02"}


def plan(**arguments: Any) -> BackfillPlanOperator:
    return BackfillPlanOperator(
        task_id="plan", **{"target": "a.b", "window_from": "2025-01-01", "window_to": "2025-01-02", **arguments}
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "no_database"}, "write target='database.table'"),
        ({"target": "a.b; DROP TABLE c"}, "is not a table name"),
        ({"window_from": "2025-02-30"}, "2025-02-30"),
        ({"window_from": "2025-01-02"}, "The window is empty.*pass window_to"),
        ({"window_from": datetime(2025, 1, 3)}, "The window is empty"),
        ({"chunk_hours": 0}, "'0' is not a chunk length"),
        ({"chunk_hours": "six"}, "'six' is not a chunk length"),
        ({"source": "c"}, "write source='database.table'"),
        ({"filter_table": "c"}, "write filter_table='database.table'"),
        ({"source": "c.d", "select": "SELECT 1"}, "source and select exclude each other"),
        ({"write_mode": "append"}, "write_mode is 'append'.*stage, replace, insert"),
        ({"time_unit": "minutes"}, "one of s, ms, us"),
        ({"max_mapped_tasks": 0}, "whole number above 0"),
        ({"max_mapped_tasks": 2.5}, "whole number above 0"),
        ({"backup": "yes"}, "'yes' is neither true nor false"),
        ({"force": 1}, "1 is neither true nor false"),
    ],
)
def test_a_bad_literal_fails_when_the_dag_is_parsed(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        plan(**arguments)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: plan(options={"chunkHours": 6}), "chunkHours is not an option"),
        (lambda: plan(options={"limits": {"maxWindowHours": "9"}}), "limits.maxWindowHours is '9'"),
        (lambda: BackfillChunkOperator(task_id="c", chunks=CHUNKS, options={"x": 1}), "x is not an option"),
        (lambda: BackfillChunkOperator.partial(task_id="c", max_parallel_chunks=0), "maxParallelChunks is 0"),
        (lambda: BackfillStatusSensor(task_id="s", plan_id="0" * 16, options={"x": 1}), "x is not an option"),
    ],
)
def test_a_bad_option_fails_when_the_dag_is_parsed(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hours": "night"}, "'night' is not hours of a day"),
        ({"stop_at": "soon"}, "'soon'"),
        ({"zone": "Europe/Berlin"}, "belongs to no time of day.*hours='22-06'"),
        ({"hours": "22-06", "zone": "Mars/Olympus"}, "Mars"),
        ({"max_load": 80}, "maximum load is 80.*such as 0.8"),
        ({"max_load": "much"}, "'much' is not a number"),
        ({"max_failures": 0}, "maximum number of failures is 0"),
    ],
)
def test_a_bad_pace_fails_when_the_dag_is_parsed(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        BackfillChunkOperator(task_id="c", chunks=CHUNKS, **arguments)


def test_a_pace_from_a_form_is_left_for_the_run() -> None:
    asked: dict[str, Any] = {"hours": "{{ params.hours }}", "zone": "Europe/Berlin", "max_load": "{{ params.load }}"}
    made = BackfillChunkOperator(task_id="c", chunks=CHUNKS, **asked)
    assert made.hours == "{{ params.hours }}"


def test_clear_window_alone_is_refused() -> None:
    with pytest.raises(RequestError, match="replay_done=True"):
        BackfillChunkOperator(task_id="c", chunks=CHUNKS, clear_window=True)


def test_templates_are_left_for_the_run() -> None:
    made = plan(
        target="{{ params.target }}", window_from="{{ ds }}", chunk_hours="{{ params.hours }}", select="copy.sql"
    )
    assert (made.target, made.window_from, made.select) == ("{{ params.target }}", "{{ ds }}", "copy.sql")
    plan(force="{{ params.force }}")
    BackfillChunkOperator(task_id="c", chunks=CHUNKS, clear_window=True, replay_done="{{ params.again }}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"partition_key_format": "%Y-%m-%d %H:%M"}, "partition_key_format is '%Y-%m-%d %H:%M'"),
        ({"partition_key_format": "daily"}, "partition_key_format is 'daily'"),
        ({"partition_key_format": "%Y-%m-%d", "outlets": [BACKFILLS]}, "does not go with an asset alias"),
    ],
)
def test_partitions_that_cannot_be_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)):
        BackfillStatusSensor(task_id="s", plan_id="0" * 16, **arguments)


def test_parallelism_comes_from_the_argument_else_from_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    def most(**arguments: Any) -> int | None:
        mapped = BackfillChunkOperator.partial(task_id="c", **arguments).expand(chunks=[CHUNKS])
        found: int | None = mapped.max_active_tis_per_dagrun
        return found

    assert most() == 1
    monkeypatch.setenv("AIRFLOW__CLICKHOUSE_BACKFILL__MAX_PARALLEL_CHUNKS", "2")
    assert most() == 2
    monkeypatch.setenv("CLICKHOUSE_BACKFILL_MAX_PARALLEL_CHUNKS", "3")
    assert most() == 3
    assert most(options={"defaults": {"maxParallelChunks": 4}}) == 4
    assert most(max_parallel_chunks=5) == 5
    assert most(max_active_tis_per_dagrun=6) == 6


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ({"target": "{{ 'nowhere' }}"}, {}, "The target 'nowhere' is not a table name"),
        ({"window_to": "{{ None }}"}, {}, "The window has no end"),
        ({"select": "{{ '' }}"}, {}, "No materialized view writes to"),
        ({"window_to": "{{ '2025-01-01' }}"}, {}, "has no data interval in Airflow 3: give the DAG schedule=Cron"),
        ({"allow_existing_rows": "{{ 'no' }}"}, {}, "'no' is neither true nor false"),
        ({"clickhouse_conn_id": "nobody"}, {}, "There is no Airflow connection 'nobody'"),
        ({}, {"CLICKHOUSE_BACKFILL_CHUNK_HOURS": "0"}, "defaults.chunkHours is 0"),
        ({}, {"AIRFLOW__CLICKHOUSE_BACKFILL__MIN_CHUNK_MINUTES": "x"}, "limits.minChunkMinutes is 'x'"),
        ({}, {"AIRFLOW__CLICKHOUSE_BACKFILL__CHUNK_HOUR": "2"}, "did you mean chunk_hours"),
        ({}, {"CLICKHOUSE_BACKFILL_STATE_DIR": "ftp://x"}, "stateDir is 'ftp://x'"),
    ],
)
def test_what_is_found_wrong_in_a_run_fails_it_without_a_retry_and_writes_nothing(
    http_lab: Lab,
    airflow_db: None,
    dag_id: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: dict[str, Any],
    environment: dict[str, str],
    message: str,
) -> None:
    from airflow.sdk import DAG

    http_lab.sql(
        "CREATE TABLE source (ts DateTime('UTC')) ENGINE = MergeTree ORDER BY ts",
        "CREATE TABLE target (ts DateTime('UTC')) ENGINE = MergeTree ORDER BY ts",
    )
    monkeypatch.setenv("AIRFLOW__CLICKHOUSE_BACKFILL__STATE_DIR", str(http_lab.folder))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    good = {
        "target": str(http_lab.table("target")),
        "select": f"SELECT ts FROM {http_lab.table('source')}",
        "clickhouse_conn_id": "clickhouse_test",
        "retries": 3,
    }
    with DAG(dag_id=dag_id, schedule=None) as dag:
        plan(**{**good, **arguments})
    flow = Flow(dag)
    assert flow.start() == "failed"
    assert flow.instances("plan")[0].try_number == 1
    said = "".join(capfd.readouterr())
    assert message in said, said
    assert not http_lab.folder.exists()
