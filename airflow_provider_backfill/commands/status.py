"""Read the state of a plan."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..core.findings.signal import signal_of
from ..core.findings.state_rules import next_step
from ..core.instants import render_instant
from ..core.names import show_table
from ..core.plan import Plan
from ..core.replay import select_chunks
from ..core.run_state import ChunkStatus, Run, RunStatus
from ..core.tables import TableName
from ..core.window import Window
from ..errors import Command
from .chunks import chunks_between, failures_payload
from .lease import has_live_worker, owner_is_dead, utc_now
from .plan_findings import plan_case, state_findings
from .session import Payload, Session


def read_status(session: Session, plan_id: str) -> Payload:
    """Return the state and the findings of a plan from the state folder; no ClickHouse is needed."""
    plan = session.store.load_plan(plan_id)
    run = session.store.open_run(plan).run
    return {**status_payload(session, plan, run, "status"), "findings": state_findings(session, plan, run)}


class FailedChunk(NamedTuple):
    """A permanently failed chunk with its last error."""

    window: Window
    error: str


@dataclass(frozen=True, slots=True)
class WindowStatus:
    """
    The state of a plan's chunks in a window.

    Attributes:
        status: The status of the whole run.
        sources: The source of each statement, or the name of a statement without a source; without duplicates.
        environment: Address and database of the server at planning.
        counts: The number of the window's chunks by status.
        rows: Rows that the target received from the window's done chunks.
        failed: The permanently failed chunks of the window.
    """

    plan_id: str
    target: TableName
    sources: tuple[str, ...]
    environment: str
    window: Window
    status: RunStatus
    counts: Mapping[ChunkStatus, int]
    rows: int
    failed: tuple[FailedChunk, ...]

    @property
    def total(self) -> int:
        """The number of chunks in the window."""
        return sum(self.counts.values())

    @property
    def done(self) -> int:
        """The number of done chunks in the window."""
        return self.counts[ChunkStatus.DONE]

    @property
    def is_done(self) -> bool:
        """Whether all chunks in the window are done; also true for a window without chunks."""
        return self.done == self.total


def window_status(session: Session, plan_id: str, window: Window) -> WindowStatus:
    """Return the state of the plan's chunks inside *window*, such as a mapped task's share; no ClickHouse is needed."""
    plan = session.store.load_plan(plan_id)
    run = session.store.open_run(plan).run
    counts, rows, failed = dict.fromkeys(ChunkStatus, 0), 0, []
    for chunk in chunks_between(plan, window)(run):
        state = run.state(chunk.id)
        counts[state.status] += 1
        rows += state.content.rows if state.content is not None else 0
        if state.status is ChunkStatus.FAILED:
            failed.append(FailedChunk(Window(chunk.start, chunk.end), state.error))
    return WindowStatus(
        plan_id=plan.plan_id,
        target=plan.target,
        sources=tuple(dict.fromkeys(statement.source_text or statement.name for statement in plan.statements)),
        environment=plan.environment,
        window=window,
        status=run.status,
        counts=counts,
        rows=rows,
        failed=tuple(failed),
    )


def status_payload(session: Session, plan: Plan, run: Run, command: str, *, noop: bool = False) -> Payload:
    """
    Return the payload that run, resume, status, cancel, pause and undo share.

    ``ok`` is true for status, cancel and pause; for other commands, only if the run is completed.

    Args:
        noop: Whether the command found nothing to do.
    """
    payload: Payload = {
        "ok": command in ("status", "cancel", "pause") or run.status is RunStatus.COMPLETED,
        "command": command,
        "planId": plan.plan_id,
        "target": show_table(plan.target),
        "from": render_instant(plan.start),
        "to": render_instant(plan.end),
        "status": run.status,
        "signal": signal_of(plan_case(session, plan, run)),
        "chunkCounts": run.chunk_counts,
        "attempts": run.attempts,
        **({"shards": shard_counts(plan, run)} if plan.shards else {}),
        "rowsWritten": run.rows,
        "rowsRead": run.read_rows,
        "bytesRead": run.read_bytes,
        "runPath": session.store.run_path(plan.plan_id),
        "eventPath": session.store.event_path(plan.plan_id),
        "updatedAt": render_instant(run.updated_at) if run.updated_at else None,
    }
    moment = utc_now()
    if dead := [owner for owner in run.workers if owner_is_dead(run, owner, moment)]:
        payload["lostWorkers"] = dead
    if run.undoing:
        payload["undoing"] = True
    if run.throttled_by:
        payload["throttledBy"] = run.throttled_by
    if run.parallel:
        payload["maxParallelChunks"] = run.parallel
    if run.count(ChunkStatus.FAILED):
        payload["failures"] = failures_payload(plan, run)
    if run.last_error:
        payload["lastError"] = run.last_error
    step = next_step(plan, run, dead if not run.cancelled else ())
    if step is None and command in ("run", "resume"):
        # The chunks are done. Only ``verify`` shows whether the target has the rows of the SELECT.
        step = Command("verify", plan.plan_id)
    if step is not None:
        payload["next"] = str(step)
    if noop:
        payload["noop"] = True
    return payload


def shard_counts(plan: Plan, run: Run) -> list[Payload]:
    """Return for each shard of a plan its number, its number of chunks, and the number of chunks in each status."""
    found = []
    for shard in plan.shards:
        counts = dict.fromkeys(ChunkStatus, 0)
        for chunk in select_chunks(plan.on_shard(shard.number), run):
            counts[run.state(chunk.id).status] += 1
        found.append(
            {
                "shard": shard.number,
                "total": sum(counts.values()),
                **{status.value: count for status, count in counts.items()},
            }
        )
    return found


def is_settled(run: Run) -> bool:
    """
    Return whether a run rests until a user acts.

    Return True if no worker is alive, and the run is paused, has ended, or has dead workers with claims.
    """
    return not has_live_worker(run, utc_now()) and (
        bool(run.workers) or run.status not in (RunStatus.PLANNED, RunStatus.RUNNING)
    )
