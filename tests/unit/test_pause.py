"""A paused run stays paused until a user resumes it: no worker continues, with or without knowing of the pause."""

from __future__ import annotations

import pytest

from airflow_provider_backfill.core.events import RunPaused, RunResumed, RunStarted
from airflow_provider_backfill.core.plan import Plan
from airflow_provider_backfill.errors import TransitionError
from airflow_provider_backfill.state.store import StateStore
from tests.command_line import Cli
from tests.state import START, chunks_of, make_plan, started


@pytest.fixture
def plan(store: StateStore) -> Plan:
    """A plan that has begun."""
    plan = make_plan(4)
    store.save_plan(plan)
    store.open_run(plan).append(RunStarted(at=START, by="me"))
    return plan


def test_a_paused_plan_takes_no_claim_and_no_start(cli: Cli, store: StateStore, plan: Plan) -> None:
    assert cli.json("pause", plan.plan_id, "--reason", "the month is closed")["status"] == "paused"
    log = store.open_run(plan)
    for event in (started(plan, chunks_of(plan)[0]), RunStarted(at=START, by="other")):
        with pytest.raises(TransitionError, match="paused until a user resumes it"):
            log.append(event)
    answer = cli("run", plan.plan_id)
    assert answer.code == 2
    assert "clickhouse-backfill resume" in answer.err


def test_a_resume_ends_the_pause(cli: Cli, store: StateStore, plan: Plan) -> None:
    cli("pause", plan.plan_id)
    log = store.open_run(plan)
    log.append(RunResumed(at=START, by="me"))
    log.append(started(plan, chunks_of(plan)[0]))
    assert log.run.status == "running"


def test_a_worker_that_pauses_by_itself_may_be_run_again(store: StateStore, plan: Plan) -> None:
    log = store.open_run(plan)
    log.append(RunPaused(at=START, by="me", reason="stopped by SIGINT"))
    log.append(RunStarted(at=START, by="me"))
    assert log.run.status == "running"


def test_to_pause_twice_writes_once(cli: Cli, plan: Plan) -> None:
    cli("pause", plan.plan_id)
    assert cli.json("pause", plan.plan_id)["noop"] is True
    assert [event["type"] for event in cli.events(plan.plan_id)] == ["RunStarted", "RunPaused"]


@pytest.mark.parametrize("status", ["planned", "cancelled"])
def test_what_does_not_run_cannot_be_paused(cli: Cli, store: StateStore, status: str) -> None:
    plan = make_plan(2, target="shop.other")
    store.save_plan(plan)
    if status == "cancelled":
        cli("cancel", plan.plan_id)
    answer = cli("pause", plan.plan_id)
    assert answer.code == 2
    assert f"is {status}" in answer.err
