"""Judge a plan's state in one word, the same for the page, ``list``, ``status``, ``doctor`` and ``check``. Pure."""

from datetime import timedelta
from enum import StrEnum

from ..run_state import ChunkStatus, RunStatus
from .registry import RuleContext

# A run without a claimed chunk, such as between two tasks, counts as running for this time.
_BETWEEN_TASKS = timedelta(minutes=5)


class Signal(StrEnum):
    """The attention that a plan needs: none, an action in time, or a repair."""

    HEALTHY = "healthy"
    WAITING = "waiting"
    BROKEN = "broken"


def signal_of(case: RuleContext) -> Signal:
    """Judge a case as far as it is known. The first matching condition decides."""
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
