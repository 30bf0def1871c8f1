"""
Judge a plan's state in one word, on which the page, ``list``, ``status``, ``doctor`` and ``check`` agree.

This module is pure.
"""

from datetime import timedelta
from enum import StrEnum

from ..run_state import ChunkStatus, RunStatus
from .registry import RuleContext

# The time for which a run without claimed chunks counts as active after the run's last event, as between two tasks.
_BETWEEN_TASKS = timedelta(minutes=5)


class Signal(StrEnum):
    """The state of a plan: healthy, waiting for a person or for the server, or broken and in need of a repair."""

    HEALTHY = "healthy"
    WAITING = "waiting"
    BROKEN = "broken"


def signal_of(case: RuleContext) -> Signal:
    """
    Return the signal of a case. The first condition that holds decides:

    - Broken: files are damaged, or two plans filled the same stretch of time, and this is not accepted.
    - Healthy: there is no run, or the run is waived, completed or undone.
    - Broken: chunks have failed, or all workers with claims are dead.
    - Waiting: the run is planned, paused or cancelled, or waits for the server.
    - Waiting: no worker has claims, and the last event is more than five minutes old.
    - Healthy: all other cases.
    """
    run = case.run
    if case.damage or any(not stretch.accepted for stretch in case.twice):
        return Signal.BROKEN
    if run is None or case.waived or run.status in (RunStatus.COMPLETED, RunStatus.UNDONE):
        return Signal.HEALTHY
    if run.count(ChunkStatus.FAILED) or case.abandoned:
        return Signal.BROKEN
    if run.status is not RunStatus.RUNNING or run.throttled_by:
        return Signal.WAITING
    quiet = run.updated_at is None or case.moment - run.updated_at > _BETWEEN_TASKS
    return Signal.WAITING if quiet and not run.workers else Signal.HEALTHY
