"""Pause a run until a user resumes it."""

from ..core.events import RunPaused
from ..core.remedy import command
from ..core.run_state import Run, RunStatus
from ..errors import RequestError
from .lease import utc_now
from .session import Payload, Session
from .status import status_payload


def pause_plan(session: Session, plan_id: str, *, reason: str = "") -> Payload:
    """
    Pause a run: its workers release their chunks within two seconds, and only ``resume`` continues the run.

    No ClickHouse is needed, because each worker kills its own queries. A worker that is moving a chunk's
    sealed rows into the target (write mode ``stage``) completes the chunk first. If a user has already paused the run,
    nothing changes.

    Returns:
        The run's status; ``noop`` is present and true if a user had already paused the run.

    Raises:
        PlanNotFoundError: There is no such plan.
        RequestError: The plan has never run, or is completed, cancelled or undone.
    """
    plan = session.store.load_plan(plan_id)
    log = session.store.open_run(plan)
    if log.run.status in (RunStatus.PLANNED, RunStatus.COMPLETED) or log.run.status.is_cancelled:
        raise RequestError(
            f"Plan {plan.plan_id} is {log.run.status}, so nothing of it can be paused.",
            remedy=command("status", plan.plan_id),
        )
    noop = log.run.pause_holds

    def pause(run: Run) -> RunPaused | None:
        if run.pause_holds:
            return None
        return RunPaused(at=utc_now(), by=session.user, reason=reason, until_resumed=True)

    log.commit(pause)
    log.checkpoint()
    return status_payload(session, plan, log.refresh(), "pause", noop=noop)
