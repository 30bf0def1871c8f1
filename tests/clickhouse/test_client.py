"""The Python API: the same functions as the commands, typed, without Airflow."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from airflow_provider_backfill import Client
from airflow_provider_backfill.errors import PlanNotFoundError, RequestError
from tests.clickhouse.lab import Lab


@pytest.fixture
def api(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A client on an engine with 2,880 orders of two days and an empty copy."""
    monkeypatch.chdir(tmp_path)
    lab.sql(
        "CREATE TABLE orders (id UInt64, ts DateTime('UTC')) ENGINE = MergeTree PARTITION BY toDate(ts) ORDER BY ts",
        "INSERT INTO orders SELECT number, toDateTime('2025-01-01', 'UTC') + number * 60 FROM numbers(2880)",
        "CREATE TABLE copy AS orders",
    )
    return Client(lab.engine.url, state_dir=lab.folder, options={"retry_delay_ms": 1})


def test_plan_run_and_verify_in_one_line(api: Client, lab: Lab) -> None:
    database = lab.engine.database
    window = ("2025-01-01", datetime(2025, 1, 3, tzinfo=UTC))
    backfill = api.plan(target=f"{database}.copy", source=f"{database}.orders", window=window, chunk="12h")
    assert (backfill.chunk_count, backfill.status().status) == (4, "planned")
    run = backfill.run(parallel=2)
    assert (run.completed, run.rows_written, run.chunk_counts["done"]) == (True, 2880, 4)
    assert run.verify()
    lab.sql("ALTER TABLE copy DELETE WHERE id = 7 SETTINGS mutations_sync = 2")
    result = backfill.verify()
    assert (result.ok, result.exit_code) == (False, 1)


def test_failed_chunks_have_names(api: Client, lab: Lab) -> None:
    database = lab.engine.database
    select = f"SELECT id, throwIf(id = 2000, 'no rate') AS bad, ts FROM {database}.orders"
    lab.sql("ALTER TABLE copy ADD COLUMN bad UInt8")
    backfill = api.plan(target=f"{database}.copy", select=select, window=("2025-01-01", "2025-01-03"), chunk="12h")
    run = backfill.run()
    assert run.status == "failed"
    (chunk,) = run.chunks(failed=True)
    assert (chunk.start, chunk.status) == (datetime(2025, 1, 2, tzinfo=UTC), "failed")
    assert chunk.error is not None
    assert chunk.error.startswith("no rate")
    assert len(run.chunks("done")) == 3
    assert {event["type"] for event in backfill.events()} >= {"RunStarted", "ChunkFailed", "ChunkDone"}
    with pytest.raises(RequestError, match="chunk status is 'lost'"):
        run.chunks("lost")


def test_a_backfill_is_found_again(api: Client, lab: Lab) -> None:
    database = lab.engine.database
    with pytest.raises(PlanNotFoundError):
        api.backfill()
    made = api.plan(target=f"{database}.copy", source=f"{database}.orders", window=("2025-01-01", "2025-01-02"))
    assert api.backfill().id == api.backfill(made.id[:6]).id == api.backfill(target=made.target).id == made.id
    assert [backfill.id for backfill in api.backfills(target=made.target)] == [made.id]
    assert api.check()["ok"] is False


def test_bad_arguments_are_told_apart_from_accidents(api: Client, lab: Lab) -> None:
    target, window = f"{lab.engine.database}.copy", ("2025-01-01", "2025-01-02")
    with pytest.raises(RequestError, match="no time zone"):
        api.plan(target=target, window=(datetime(2025, 1, 1), "2025-01-02"))
    with pytest.raises(RequestError, match="write mode is 'move'"):
        api.plan(target=target, window=window, write_mode="move")


def test_a_select_is_planned_and_paced_as_by_flags(api: Client, lab: Lab) -> None:
    database = lab.engine.database
    lab.sql("CREATE TABLE known ENGINE = MergeTree ORDER BY id AS SELECT id FROM orders")
    backfill = api.plan(
        target=f"{database}.copy",
        select=f"SELECT o.id, o.ts FROM {database}.orders AS o INNER JOIN {database}.known AS d ON d.id = o.id",
        filter_table=f"{database}.orders=ts",
        whole_table=[f"{database}.known"],
        window=("2025-01-01", "2025-01-03"),
        chunk="12h",
        max_chunk_rows=10_000,
        trial=False,
    )
    with pytest.raises(RequestError, match="maximum load is 80"):
        backfill.run(max_load=80)
    with pytest.raises(RequestError, match="belongs to no time of day"):
        backfill.run(zone="Europe/Berlin")
    run = backfill.run(newest_first=True, stop_at="2999-01-01")
    began = [event["from"] for event in backfill.events() if event["type"] == "ChunkStarted"]
    assert began == sorted(began, reverse=True)
    assert run.completed


def test_a_notebook_shows_the_map(api: Client, lab: Lab) -> None:
    database = lab.engine.database
    backfill = api.plan(
        target=f"{database}.copy", source=f"{database}.orders", window=("2025-01-01", "2025-01-03"), chunk=12
    )
    assert backfill._repr_html_().count('title="pending"') == 4
    assert backfill.run()._repr_html_().count('title="done"') == 4
    assert backfill.id in repr(backfill)


def test_the_client_loads_no_airflow() -> None:
    code = "import sys; from airflow_provider_backfill import Client; print('airflow' in sys.modules, Client.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False Client\n"


def test_a_report_says_what_it_cost(http_lab: Lab) -> None:
    http_lab.sql(
        "CREATE TABLE src (id UInt64, ts DateTime('UTC')) ENGINE = MergeTree PARTITION BY toDate(ts) ORDER BY ts",
        "INSERT INTO src SELECT number, toDateTime('2025-01-01', 'UTC') + number * 60 FROM numbers(2880)",
        "CREATE TABLE dst AS src",
    )
    client, database = Client(http_lab.engine.url, state_dir=http_lab.folder), http_lab.engine.database
    backfill = client.plan(
        target=f"{database}.dst",
        source=f"{database}.src",
        window=("2025-01-01", "2025-01-03"),
        chunk=24,
        reason="TICKET-7",
        owner="data platform",
    )
    run = backfill.run()
    assert run.rows_read >= 2880
    report = backfill.report()
    assert (report["reason"], report["owner"], report["status"]) == ("TICKET-7", "data platform", "completed")
    assert report["cost"]["queries"] >= 2
    assert report["cost"]["cpuSeconds"] > 0
    assert report["cost"]["writtenRows"] >= 2880
    assert len(report["people"]) == 1
