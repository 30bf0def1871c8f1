"""What becomes of a running query when Airflow stops its task; the first two ways that one process can show."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.airflow.conftest import Flow
from tests.clickhouse.lab import Lab

Make = Callable[..., Flow]


@pytest.fixture
def slow(http_lab: Lab, backfill: Make, connect: Callable[..., None]) -> Callable[..., Flow]:
    """Makes a DAG whose one chunk sleeps a minute on the server."""
    connect(http_lab.engine.url, session_settings={"max_block_size": 1})
    http_lab.sql(
        "CREATE TABLE source (ts DateTime('UTC')) ENGINE = MergeTree ORDER BY ts SETTINGS index_granularity = 1 AS"
        " SELECT toDateTime('2025-01-01', 'UTC') + number FROM numbers(60)",
        "CREATE TABLE target (ts DateTime('UTC')) ENGINE = MergeTree ORDER BY ts",
    )
    select = f"SELECT ts FROM {http_lab.engine.database}.source WHERE NOT sleepEachRow(1)"
    window = {"window_from": "2025-01-01", "window_to": "2025-01-02", "chunk_hours": 24, "select": select}
    return lambda **chunks: backfill(str(http_lab.table("target")), window, chunks.pop("chunks", {}), **chunks)


def queries(lab: Lab) -> int:
    """How many statements of ours run on the server."""
    found: int = lab.value(
        "SELECT count() FROM system.processes WHERE startsWith(query_id, 'backfill-')"
        f" AND position(query, '{lab.engine.database}')"
    )
    return found


def chunk_counts(lab: Lab, flow: Flow) -> dict[str, int]:
    from airflow_provider_backfill.commands.status import read_status

    counts: dict[str, int] = read_status(lab.session, flow.result("plan", "plan_id"))["chunkCounts"]
    return counts


def test_on_kill_kills_the_query_and_gives_the_chunk_back(http_lab: Lab, slow: Callable[..., Flow]) -> None:
    """Airflow calls on_kill from a signal handler, and sends SIGKILL five seconds later."""
    from airflow_provider_backfill.operators import BackfillChunkOperator

    took: list[float] = []

    class Watched(BackfillChunkOperator):
        def execute(self, context: Any) -> dict[str, Any]:
            killer = threading.Thread(target=self.kill_once_it_runs)
            killer.start()
            try:
                return super().execute(context)
            finally:
                killer.join()

        def kill_once_it_runs(self) -> None:
            while not queries(http_lab):
                time.sleep(0.05)
            began = time.monotonic()
            self.on_kill()
            self.on_kill()
            while queries(http_lab):
                time.sleep(0.05)
            took.append(time.monotonic() - began)

    flow = slow(operator=Watched)
    assert flow.start() == "failed"
    assert took[0] < 3
    assert queries(http_lab) == 0
    assert chunk_counts(http_lab, flow)["pending"] == 1
    assert http_lab.value("SELECT count() FROM target") == 0


def test_a_timeout_kills_the_query_and_spends_no_attempt(http_lab: Lab, slow: Callable[..., Flow]) -> None:
    """The exception comes up in the main thread, while the query is sent from another one."""
    flow = slow(chunks={"execution_timeout": timedelta(seconds=2)})
    began = time.monotonic()
    assert flow.start() == "failed"
    assert time.monotonic() - began < 40
    assert queries(http_lab) == 0
    assert chunk_counts(http_lab, flow)["pending"] == 1
