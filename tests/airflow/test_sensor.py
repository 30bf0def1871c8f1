"""The sensor's result for each state of a run."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_provider_backfill.commands.cancel import cancel_plan
from airflow_provider_backfill.commands.run import run_plan
from airflow_provider_backfill.commands.status import read_status
from airflow_provider_backfill.sensors import BackfillStatusSensor
from tests.clickhouse.lab import Lab


@pytest.fixture
def lab(http_lab: Lab) -> Lab:
    http_lab.sql(
        "CREATE TABLE source (ts DateTime('UTC')) ENGINE = MergeTree ORDER BY ts AS"
        " SELECT toDateTime('2025-01-01', 'UTC') + 3600 * number FROM numbers(24)",
        "CREATE TABLE target (ts DateTime('UTC')) ENGINE = MergeTree ORDER BY ts",
    )
    return http_lab


def plan(lab: Lab, condition: str = "1") -> str:
    select = f"SELECT ts FROM {lab.engine.database}.source WHERE {condition}"
    return str(lab.plan("target", "2025-01-01", "2025-01-02", 6, select=select)["planId"])


def wait(lab: Lab, plan_id: Any, **arguments: Any) -> None:
    """Run a sensor task with rendered arguments."""
    sensor = BackfillStatusSensor(
        task_id="wait", plan_id="-", state_dir=str(lab.folder), poke_interval=0.05, **arguments
    )
    sensor.plan_id = plan_id
    context = {"ti": SimpleNamespace(xcom_push=lambda *_: None)}
    type(sensor).execute.__wrapped__(sensor, context)  # type: ignore[attr-defined]


def test_it_waits_for_a_run_that_somebody_else_executes(lab: Lab) -> None:
    """From another process in life, such as the command line: only the state folder is shared."""
    plan_id = plan(lab)
    runner = threading.Timer(0.5, run_plan, [lab.session, plan_id])
    runner.start()
    began = time.monotonic()
    wait(lab, plan_id, timeout=30)
    assert time.monotonic() - began > 0.5
    runner.join()
    assert read_status(lab.session, plan_id)["status"] == "completed"


def test_it_fails_at_once_when_the_run_has_failed(lab: Lab) -> None:
    plan_id = plan(lab, "NOT throwIf(toHour(ts) = 7)")
    run_plan(lab.session, plan_id)
    with pytest.raises(AirflowFailException, match=r"3 of 4 chunks done, 1 failed.*clickhouse-backfill resume"):
        wait(lab, plan_id)


def test_it_fails_at_once_when_the_run_was_cancelled(lab: Lab) -> None:
    plan_id = plan(lab)
    cancel_plan(lab.session, plan_id)
    with pytest.raises(AirflowFailException, match="is cancelled: 0 of 4 chunks done"):
        wait(lab, plan_id)


def test_soft_fail_makes_it_skipped(lab: Lab) -> None:
    plan_id = plan(lab)
    cancel_plan(lab.session, plan_id)
    with pytest.raises(AirflowSkipException):
        wait(lab, plan_id, soft_fail=True)


@pytest.mark.parametrize("plan_id", ["0123456789abcdef", "nonsense", "", None])
def test_a_plan_that_is_not_there_fails_at_once(lab: Lab, plan_id: Any) -> None:
    with pytest.raises(AirflowFailException, match="plan"):
        wait(lab, plan_id)


def test_damaged_state_fails_at_once_and_is_named(lab: Lab) -> None:
    plan_id = plan(lab)
    (lab.folder / "plans" / f"{plan_id}.json").write_text("{")
    with pytest.raises(AirflowFailException, match=f"{plan_id}.json is damaged"):
        wait(lab, plan_id)
