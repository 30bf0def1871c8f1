"""
Poll a backfill for a waiting task: the backfill is completed, cannot complete, or is in progress.

Sensors poll in a worker or in the triggerer. No ClickHouse is needed; each poll reads the state folder again.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from ..core.instants import parse_instant, render_instant
from ..core.names import show_table
from ..core.plain_text import show_number
from ..core.plan import Plan
from ..core.remedy import command
from ..core.run_state import ChunkStatus, Run, RunStatus
from ..core.tables import TableName
from ..core.window import Window
from .coverage import read_coverage
from .lease import has_live_worker, utc_now
from .list import readable_runs
from .session import Payload, Session
from .status import status_payload

_LOST = (RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.UNDONE)


class PollResult(NamedTuple):
    """
    The result of one poll.

    Attributes:
        line: The progress, as one sentence without a full stop.
        published: The :func:`published` payload of a completed backfill; None before completion.
        lost: Why the backfill cannot complete without a user, so that waiting is useless; empty otherwise.
        worrying: Whether a plan in progress is paused or has dead workers, so that a person should check the plan.
    """

    line: str
    published: Payload | None = None
    lost: str = ""
    worrying: bool = False


def poll_plan(session: Session, plan_id: str, *, fail_if_idle: bool = False) -> PollResult:
    """
    Return the progress of a plan. A failed, cancelled or undone plan is lost.

    Args:
        fail_if_idle: Whether to report an unfinished plan as lost, too, if no living worker has claimed a chunk.

    Raises:
        RequestError: The plan does not exist.
        DamagedStateError: The plan's files are damaged.
    """
    plan = session.store.load_plan(plan_id)
    run = session.store.open_run(plan).run
    status = status_payload(session, plan, run, "status")
    dead = status.get("lostWorkers", [])
    gone = f"; workers gone: {', '.join(dead)}" if dead else ""
    line = f"Plan {plan_id} of {plan.target} is {run.status}: {_counts(status)}{gone}"
    if run.status is RunStatus.COMPLETED:
        return PollResult(line, published(show_table(plan.target), plan.start, plan.end, run.rows, [plan_id]))
    worrying = bool(dead) or run.status is RunStatus.PAUSED
    idle = fail_if_idle and not has_live_worker(run, utc_now())
    if run.status in _LOST or idle:
        error = f" {run.last_error}" if run.last_error else ""
        nobody = " Nobody works on it any more." if idle and run.status not in _LOST else ""
        return PollResult(line, lost=f"{line}.{error}{nobody} (next: {status['next']})")
    return PollResult(line, worrying=worrying)


def poll_window(session: Session, target: TableName, window: Window) -> PollResult:
    """
    Return how much of a window of *target* is proven filled, whichever plans have filled the window.

    The window counts as filled if no server with plans for the window has a gap, no part was filled twice without the
    user's acceptance, and no plan is damaged. Otherwise, the window is lost if a plan is damaged. The window is also
    lost if a part was filled twice without acceptance, and no open plan rebuilds the part. If the plans are on one
    server, the window is also lost if all plans of a gap are failed, cancelled or undone. A gap without a plan is not
    lost, since a user may plan the gap later.

    Raises:
        RequestError: The window is empty.
        StateError: The state folder cannot be read.
    """
    name, (start, end) = show_table(target), window
    # Read the runs first: a rebuild that completes meanwhile then counts as open, so that the next poll decides.
    runs = list(readable_runs(session, target))
    found = read_coverage(session, target, start, end)
    share = max((server["share"] for server in found["servers"]), default=0.0)
    line = f"{name} is filled to {share:.1%} from {render_instant(start)} to {render_instant(end)}"
    if found["ok"]:
        plans = sorted({plan for part in found["servers"][0]["covered"] for plan in part["planIds"]})
        # A chunk may lie partly in the window, so the number of rows in the window is unknown.
        return PollResult(line, published(name, start, end, None, plans))
    if found["damaged"]:
        damaged = found["damaged"][0]
        return PollResult(line, lost=f"{line}, and plan {damaged['planId']} cannot be read. {damaged['message']}")
    for part in found["filledTwice"]:
        rebuilds = [run for plan, run in _meeting(runs, part) if not plan.adds_rows]
        if not part["accepted"] and all(run.status in (*_LOST, RunStatus.COMPLETED) for run in rebuilds):
            first, second = part["planIds"]
            again = command("run", second, "--replay-done", "--clear-window")
            why = f"{part['from']} to {part['to']} was filled twice, by plan {first} and by plan {second}"
            return PollResult(line, lost=f"{line}. {why} (next: {again})")
    for gap in found["gaps"]:
        meeting = _meeting(runs, gap)
        if meeting and all(run.status in _LOST for _, run in meeting):
            why = ", ".join(f"plan {plan.plan_id} is {run.status}" for plan, run in meeting)
            return PollResult(line, lost=f"{line}. {gap['from']} to {gap['to']} is missing, and {why}")
    return PollResult(line)


def published(target: str, start: datetime, end: datetime, rows: int | None, plans: list[str]) -> Payload:
    """Return the content of asset events and results about a filled window; *rows* (a number) is None if unknown."""
    return {
        "target": target,
        "from": render_instant(start),
        "to": render_instant(end),
        "rowsWritten": rows,
        "planIds": plans,
    }


def _meeting(runs: Iterable[tuple[Plan, Run]], part: Payload) -> list[tuple[Plan, Run]]:
    """Return the plans, with their runs, whose windows overlap a part of the coverage."""
    start, end = parse_instant(part["from"]), parse_instant(part["to"])
    return [(plan, run) for plan, run in runs if plan.start < end and plan.end > start]


def _counts(status: Payload) -> str:
    counts = status["chunkCounts"]
    others = [f"{counts[name]} {name}" for name in (ChunkStatus.RUNNING, ChunkStatus.FAILED) if counts[name]]
    done = f"{counts['done']:,} of {show_number(counts['total'], 'chunk')} done"
    return ", ".join([done, *others, show_number(status["rowsWritten"], "row")])
