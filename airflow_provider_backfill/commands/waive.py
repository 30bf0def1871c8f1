"""Waive a plan, so that ``check`` no longer requires it."""

from datetime import datetime

from ..core.events import RunWaived
from ..core.instants import render_instant
from ..core.names import show_table
from ..core.remedy import command
from ..core.run_state import RunStatus
from ..errors import Advice, Flag, RequestError
from .lease import utc_now
from .session import Payload, Session


def waive_plan(
    session: Session, plan_id: str, *, reason: str, until: datetime | None = None, superseded_by: str = ""
) -> Payload:
    """
    Mark a plan as not required: ``check`` lists the plan but does not count it.

    The waiver ends at *until*, or when a user runs or resumes the plan.

    Args:
        until: The instant at which the waiver ends; None for no end.
        superseded_by: The id of the plan that replaces this plan; empty if there is none.

    Returns:
        A payload with the plan's status, the reason, the end, and the id of the replacing plan; the end and the id are
        None if they were not given.

    Raises:
        RequestError: The plan does not exist or is already completed, the reason is empty, the end has passed, or
            *superseded_by* names an unknown plan, this plan itself, or a plan with a different target.
    """
    plan = session.store.load_plan(plan_id)
    moment = utc_now()
    if not reason.strip():
        raise RequestError(
            "A waiver needs a reason.", remedy=command("waive", plan.plan_id, Flag("--reason", "the source is gone"))
        )
    if until is not None and until <= moment:
        raise RequestError(
            f"The waiver would end at {render_instant(until)}, which is past.",
            remedy=Advice("pass a later {}, or omit it", Flag("--until")),
        )
    if superseded_by:
        other = session.store.load_plan(superseded_by)
        if other.plan_id == plan.plan_id or not other.has_target_of(plan):
            raise RequestError(
                f"Plan {other.plan_id} fills {other.target} and cannot do the work of plan {plan.plan_id} "
                f"on {plan.target}.",
                hint="name another plan on the same target",
            )
        superseded_by = other.plan_id
    log = session.store.open_run(plan)
    if log.run.status is RunStatus.COMPLETED:
        raise RequestError(f"Plan {plan.plan_id} is completed; there is nothing to waive.", hint="")
    log.append(RunWaived(at=moment, by=session.user, reason=reason.strip(), until=until, superseded_by=superseded_by))
    log.checkpoint()
    return {
        "ok": True,
        "command": "waive",
        "planId": plan.plan_id,
        "target": show_table(plan.target),
        "status": log.run.status,
        "reason": reason.strip(),
        "until": render_instant(until) if until is not None else None,
        "supersededBy": superseded_by or None,
    }
