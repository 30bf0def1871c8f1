"""The sensor's result for each state of a run."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from airflow_provider_backfill.commands.cancel import cancel_plan
from airflow_provider_backfill.commands.run import run_plan
from airflow_provider_backfill.commands.status import read_status
from airflow_provider_backfill.errors import BackfillError, RequestError, StateError
from airflow_provider_backfill.sensors import BackfillStatusSensor
from airflow_provider_backfill.triggers import BackfillStatusTrigger
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


def wait(folder: Path, plan_id: Any, **arguments: Any) -> None:
    """Run a sensor task with rendered arguments."""
    sensor = BackfillStatusSensor(task_id="wait", plan_id="-", state_dir=str(folder), poke_interval=0.05, **arguments)
    sensor.plan_id = plan_id
    context = {"ti": SimpleNamespace(xcom_push=lambda *_: None)}
    type(sensor).execute.__wrapped__(sensor, context)  # type: ignore[attr-defined]


def test_it_waits_for_a_run_that_somebody_else_executes(lab: Lab) -> None:
    """From another process in life, such as the command line: only the state folder is shared."""
    plan_id = plan(lab)
    runner = threading.Timer(0.5, run_plan, [lab.session, plan_id])
    runner.start()
    began = time.monotonic()
    wait(lab.folder, plan_id, timeout=30)
    assert time.monotonic() - began > 0.5
    runner.join()
    assert read_status(lab.session, plan_id)["status"] == "completed"


def test_it_fails_at_once_when_the_run_has_failed(lab: Lab) -> None:
    plan_id = plan(lab, "NOT throwIf(toHour(ts) = 7)")
    run_plan(lab.session, plan_id)
    with pytest.raises(AirflowFailException, match=r"3 of 4 chunks done, 1 failed.*clickhouse-backfill resume"):
        wait(lab.folder, plan_id)


def test_it_fails_at_once_when_the_run_was_cancelled(lab: Lab) -> None:
    plan_id = plan(lab)
    cancel_plan(lab.session, plan_id)
    with pytest.raises(AirflowFailException, match="is cancelled: 0 of 4 chunks done"):
        wait(lab.folder, plan_id)


def test_soft_fail_makes_it_skipped(lab: Lab) -> None:
    plan_id = plan(lab)
    cancel_plan(lab.session, plan_id)
    with pytest.raises(AirflowSkipException):
        wait(lab.folder, plan_id, soft_fail=True)


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("error", [StateError("The bucket does not answer."), OSError("no route to host")])
def test_never_fail_skips_on_any_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, deferrable: bool
) -> None:
    """The state folder cannot be read: with never_fail, no error fails the task, whichever way it waits."""

    def look(*_: object) -> None:
        raise error

    monkeypatch.setattr("airflow_provider_backfill.sensors.Watched.look", look)
    with pytest.raises(AirflowSkipException):
        wait(tmp_path, "0123456789abcdef", never_fail=True, deferrable=deferrable)
    with pytest.raises((AirflowException, OSError)) as failed:
        wait(tmp_path, "0123456789abcdef", soft_fail=True, deferrable=deferrable)
    # Airflow's next try may read the folder.
    assert not isinstance(failed.value, (AirflowFailException, AirflowSkipException))


@pytest.mark.parametrize("error", [StateError("The bucket does not answer."), RequestError("There is no such plan.")])
def test_a_state_folder_that_cannot_be_read_meanwhile_is_read_by_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BackfillError
) -> None:
    """As in a worker, only an error that a retry cannot repair fails a deferred sensor without retries."""

    def look(*_: object) -> None:
        raise error

    async def event(trigger: BackfillStatusTrigger) -> Any:
        return (await anext(trigger.run())).payload

    monkeypatch.setattr("airflow_provider_backfill.sensors.Watched.look", look)
    monkeypatch.setattr("airflow_provider_backfill.triggers._SETTLE_SECONDS", 0)
    payload = asyncio.run(event(BackfillStatusTrigger(poke_interval=1, plan_id="-", state_dir=str(tmp_path))))
    sensor = BackfillStatusSensor(task_id="wait", plan_id="-", state_dir=str(tmp_path))
    with pytest.raises(AirflowException, match=error.message) as failed:
        sensor.execute_complete({}, payload)
    assert isinstance(failed.value, AirflowFailException) is isinstance(error, RequestError)


@pytest.mark.parametrize("plan_id", ["0123456789abcdef", "nonsense", "", None])
def test_a_plan_that_is_not_there_fails_at_once(lab: Lab, plan_id: Any) -> None:
    with pytest.raises(AirflowFailException, match="plan"):
        wait(lab.folder, plan_id)


def test_damaged_state_fails_at_once_and_is_named(lab: Lab) -> None:
    plan_id = plan(lab)
    (lab.folder / "plans" / f"{plan_id}.json").write_text("{")
    with pytest.raises(AirflowFailException, match=f"{plan_id}.json is damaged"):
        wait(lab.folder, plan_id)
