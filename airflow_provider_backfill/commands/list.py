"""List the plans of a state folder."""

from collections.abc import Iterator

from ..core.findings.signal import signal_of
from ..core.instants import render_instant
from ..core.model import whole
from ..core.names import show_table
from ..core.plan import Plan
from ..core.run_state import ChunkStatus, Run
from ..core.tables import TableName
from ..errors import DamagedStateError
from .lease import utc_now
from .plan_findings import plan_case
from .session import Payload, Session


def list_plans(session: Session, *, target: TableName | None = None, status: str | None = None) -> Payload:
    """
    Return the plans of the state folder with their status, the newest last.

    Damaged plans are listed separately, whatever the filters; ``ok`` is False if any plan is damaged.

    Args:
        target: List only plans of this table; None for all tables.
        status: List only plans with this status; None for any status.
    """
    plans, damaged, moment = [], [], utc_now()
    for name in session.store.plan_ids():
        try:
            plan = session.store.load_plan(name)
            run = session.store.open_run(plan).run
        except DamagedStateError as error:
            damaged.append({"planId": name, "message": str(error)})
            continue
        if (target is not None and not plan.is_called(target)) or status not in (None, run.status):
            continue
        plans.append(
            {
                "planId": plan.plan_id,
                "target": show_table(plan.target),
                "from": render_instant(plan.start),
                "to": render_instant(plan.end),
                "chunkHours": None if plan.chunk_hours is None else whole(plan.chunk_hours),
                "chunkLength": plan.chunking.text,
                "status": run.status,
                "waived": run.waiver is not None and run.waiver.holds(moment),
                "signal": signal_of(plan_case(session, plan, run)),
                "done": run.count(ChunkStatus.DONE),
                "total": run.total,
                "rowsWritten": run.rows,
                "createdAt": render_instant(plan.created_at),
                "startedAt": render_instant(run.started_at) if run.started_at else None,
                "updatedAt": render_instant(run.updated_at) if run.updated_at else None,
                "startedBy": run.started_by,
            }
        )
    plans.sort(key=lambda entry: str(entry["createdAt"]))
    return {
        "ok": not damaged,
        "command": "list",
        "stateDir": session.store.backend.where(""),
        "plans": plans,
        "damaged": damaged,
    }


def readable_runs(session: Session, target: TableName) -> Iterator[tuple[Plan, Run]]:
    """Return the plans of a target with their runs, without plans that cannot be read."""
    return session.store.readable_runs(lambda plan: plan.is_called(target))


def refuse_damaged(session: Session, target: TableName | None = None) -> None:
    """
    Raise the first error of a damaged plan; do nothing if there is none.

    A caller that found no plan calls this function, so that a damaged plan is not reported as missing.

    Args:
        target: Ignore the runs of other targets; None for all runs. A damaged plan file may belong to any target.

    Raises:
        DamagedStateError: A plan file of any target, or the run of a plan of *target*, is damaged.
    """
    for name in session.store.plan_ids():
        plan = session.store.load_plan(name)
        if target is None or plan.is_called(target):
            session.store.open_run(plan)
