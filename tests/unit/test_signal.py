"""The state of a plan in one word: healthy, waiting or broken, the same for every reader."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_backfill.core.coverage import FilledTwice
from airflow_provider_backfill.core.events import (
    RunCancelled,
    RunPaused,
    RunResumed,
    RunStarted,
    RunThrottled,
    RunUndone,
    RunUndoStarted,
    RunWaived,
)
from airflow_provider_backfill.core.findings.judge import judge
from airflow_provider_backfill.core.findings.registry import RuleContext, Severity
from airflow_provider_backfill.core.findings.signal import Signal, signal_of
from airflow_provider_backfill.core.replay import apply_event, new_run
from airflow_provider_backfill.core.run_state import RunStatus
from tests.state import START, chunks_of, done, failed, make_plan, started

PLAN = make_plan(2)
FIRST, SECOND = chunks_of(PLAN)
BEGIN = RunStarted(at=START, by="me")
WHOLE = (BEGIN, started(PLAN, FIRST), done(FIRST), started(PLAN, SECOND), done(SECOND))
TWICE = FilledTwice(PLAN.target, START, START + timedelta(hours=1), "a", "b", accepted=False)


def case(*events: Any, **known: Any) -> RuleContext:
    """What is known of a plan after these events."""
    run = new_run(PLAN)
    for event in events:
        apply_event(run, event)
    return RuleContext(moment=known.pop("moment", START), plan=PLAN, run=run, **known)


@pytest.mark.parametrize(
    ("known", "signal"),
    [
        (case(), Signal.WAITING),
        (case(BEGIN), Signal.HEALTHY),
        (case(BEGIN, moment=START + timedelta(hours=1)), Signal.WAITING),
        (case(BEGIN, started(PLAN, FIRST)), Signal.HEALTHY),
        (case(BEGIN, started(PLAN, FIRST), dead=frozenset({"host:1:2:a"})), Signal.BROKEN),
        (
            case(BEGIN, started(PLAN, FIRST), started(PLAN, SECOND, by="other"), dead=frozenset({"host:1:2:a"})),
            Signal.HEALTHY,
        ),
        (case(BEGIN, RunThrottled(at=START, by="me", reason="parts")), Signal.WAITING),
        (case(BEGIN, RunPaused(at=START, by="me", reason="night")), Signal.WAITING),
        (case(BEGIN, RunCancelled(at=START, by="me")), Signal.WAITING),
        (case(BEGIN, started(PLAN, FIRST), failed(FIRST, final=True)), Signal.BROKEN),
        (
            case(BEGIN, started(PLAN, FIRST), failed(FIRST, final=True), RunWaived(at=START, by="me", reason="gone")),
            Signal.HEALTHY,
        ),
        (case(*WHOLE), Signal.HEALTHY),
        (case(*WHOLE, twice=(TWICE,)), Signal.BROKEN),
        (case(*WHOLE, twice=(TWICE._replace(accepted=True),)), Signal.HEALTHY),
        (case(*WHOLE, RunUndoStarted(at=START, by="me")), Signal.WAITING),
        (case(*WHOLE, RunUndoStarted(at=START, by="me"), RunUndone(at=START, by="me")), Signal.HEALTHY),
        (case(*WHOLE, RunUndone(at=START, by="me")), Signal.HEALTHY),
        (RuleContext(moment=START, about="x", damage="line 3"), Signal.BROKEN),
    ],
)
def test_a_signal_for_each_state(known: RuleContext, signal: Signal) -> None:
    """And no finding is an error unless something is broken."""
    assert signal_of(known) is signal
    errors = [finding for finding in judge(known) if finding.severity is Severity.ERROR]
    assert bool(errors) == (signal is Signal.BROKEN)


def test_a_cancelled_plan_is_not_nothing() -> None:
    (finding,) = judge(case(BEGIN, RunCancelled(at=START, by="me")))
    assert (finding.code, finding.severity) == ("backfill_required_pending", Severity.WARN)


def test_an_undone_plan_is_over_until_it_is_resumed() -> None:
    """``check`` does not count it; after a resume, its chunks have to be executed again."""
    known = case(*WHOLE, RunUndone(at=START, by="me"), gate=True)
    assert known.run is not None
    assert (known.run.status, known.run.done, judge(known)) == (RunStatus.UNDONE, {}, [])
    apply_event(known.run, RunResumed(at=START, by="me"))
    assert known.run.status is RunStatus.RUNNING
    assert [finding.severity for finding in judge(known)] == [Severity.ERROR]
