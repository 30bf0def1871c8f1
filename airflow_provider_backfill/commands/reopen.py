"""Reopen a cancelled, undone, paused or failed plan for the next task or command."""

from ..core.events import RunResumed
from ..core.remedy import command
from ..core.run_state import Run, RunStatus
from ..errors import Advice, RequestError
from .lease import utc_now
from .session import Payload, Session
from .status import status_payload


def reopen_plan(session: Session, plan_id: str) -> Payload:
    """
    Reopen a cancelled, undone, paused or failed run without executing a chunk.

    The cancel or pause ends, and failed chunks get a new budget of attempts. The next worker (of a cleared or retried
    task, or of ``clickhouse-backfill resume``) continues the run.

    Returns:
        The run's status after reopening. ``ok`` is true only if all chunks are already done.

    Raises:
        RequestError: The plan does not exist, was never run, is completed, or has an unfinished undo.
    """
    plan = session.store.load_plan(plan_id)
    log = session.store.open_run(plan)
    if log.run.status is RunStatus.PLANNED:
        raise RequestError(f"Plan {plan_id} was never run.", remedy=command("run", plan.plan_id))
    if log.run.status is RunStatus.COMPLETED:
        raise RequestError(
            f"Plan {plan_id} is completed; there is nothing to resume.", hint="its rows are in the target"
        )
    refuse_unfinished_undo(log.run)
    log.append(RunResumed(at=utc_now(), by=session.user))
    return status_payload(session, plan, log.run, "resume")


def refuse_unfinished_undo(run: Run) -> None:
    """
    Refuse to run or resume a plan whose undo has begun and is not finished.

    A chunk that is executed again would copy the plan's own rows over the backup's rows.
    """
    if run.undoing:
        raise RequestError(
            f"The undo of plan {run.plan_id} has begun and is not finished: the replaced rows may be restored in part.",
            remedy=Advice("first finish the undo: {}", command("undo", run.plan_id)),
        )
