"""Select chunks of a plan by status or window, and describe chunks, statements and failures as JSON."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from ..core.failures import group_failures, short_error
from ..core.instants import render_instant
from ..core.masking import mask_secrets
from ..core.plan import Chunk, Plan, WriteMode
from ..core.replay import select_chunks
from ..core.run_state import ChunkStatus, Run
from ..core.sql import chunk_filter, insert_select, pasteable, query_id, quote_table, staging_table
from ..core.tables import TableName
from ..core.window import Window
from ..errors import Advice, Command, RequestError
from .session import Payload, Session

# The maximum number of failed chunks that a status payload groups by error, and the maximum number of windows that it
# shows per group.
_GROUPED = 1000
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """
    One chunk ``[start, end)`` of a backfill, in UTC.

    Attributes:
        status: ``pending``, ``running``, ``done`` or ``failed``.
        attempts: Number of attempts so far.
        query_id: The id of the last attempt's INSERT; None before the first attempt.
        rows: Rows that the target received from the chunk; None until the chunk is done.
        error: The last error, shortened; None without an error.
    """

    id: str
    start: datetime
    end: datetime
    status: ChunkStatus
    attempts: int
    query_id: str | None
    rows: int | None
    error: str | None

    def payload(self) -> Payload:
        """Return the chunk as ``status --chunks --json`` shows it."""
        return {
            "chunkId": self.id,
            "from": render_instant(self.start),
            "to": render_instant(self.end),
            "status": self.status,
            "attempts": self.attempts,
            "queryId": self.query_id,
            "rowsWritten": self.rows,
            "error": self.error,
        }


def list_chunks(session: Session, plan_id: str, status: ChunkStatus | None) -> list[ChunkResult]:
    """
    Return the chunks of a plan with *status* (None for all chunks), in time order; no ClickHouse is needed.

    A split chunk is represented by its parts.
    """
    plan = session.store.load_plan(plan_id)
    run = session.store.open_run(plan).run
    return [_result(plan, run, chunk) for chunk in select_chunks(plan, run, *([] if status is None else [status]))]


def chunk_statements(session: Session, plan_id: str, chunk_id: str) -> list[Payload]:
    """
    Return the INSERT statements of a chunk's last attempt, or of the first attempt if no attempt has begun.

    Args:
        chunk_id: The beginning of the chunk's id.

    Raises:
        RequestError: The plan does not exist, or not exactly one chunk has an id that begins with *chunk_id*.
    """
    plan = session.store.load_plan(plan_id)
    run = session.store.open_run(plan).run
    matches = list(islice((chunk for chunk in select_chunks(plan, run) if chunk.id.startswith(chunk_id)), 2))
    if len(matches) != 1:
        raise RequestError(
            f"Plan {plan_id} has {'several chunks' if matches else 'no chunk'} with an id like {chunk_id[:40]!r}.",
            remedy=Advice("`{}` shows the ids", Command("events", plan_id)),
        )
    attempt = max(1, run.state(matches[0].id).attempt)
    return [statement_payload(plan, matches[0], attempt, position) for position in range(len(plan.statements))]


def statement_payload(plan: Plan, chunk: Chunk, attempt: int, position: int) -> Payload:
    """
    Return, as JSON, the INSERT of one attempt for the plan's statement at *position*.

    ``insert`` has the INSERT, and ``filter`` has the SETTINGS clause; both are ready to paste. The chunk's window is in
    the clause, or in query parameters that precede the INSERT. ``name``, ``source`` and ``into`` name the statement,
    its source and the table that the INSERT writes to. Secrets in the INSERT are masked.
    """
    plan = plan.on_shard(chunk.shard) if chunk.shard else plan
    statement = plan.statements[position]
    into: TableName = plan.target
    if plan.write_mode is not WriteMode.INSERT:
        into = staging_table(plan, plan.target, chunk.id, attempt)
    insert, clause = pasteable(insert_select(into, statement), chunk_filter(plan, statement, chunk))
    return {
        "name": statement.name,
        "source": statement.source_text,
        "into": quote_table(into),
        "insert": mask_secrets(insert),
        "filter": clause,
    }


def _result(plan: Plan, run: Run, chunk: Chunk) -> ChunkResult:
    state = run.state(chunk.id)
    return ChunkResult(
        id=chunk.id,
        start=chunk.start,
        end=chunk.end,
        status=state.status,
        attempts=state.attempt,
        query_id=query_id(plan.plan_id, chunk.id, state.attempt) if state.attempt else None,
        rows=state.content.rows if state.content is not None else None,
        error=short_error(state.error) if state.error else None,
    )


def failures_payload(plan: Plan, run: Run) -> list[Payload]:
    """Return up to 1000 failed chunks grouped by error, the largest group first, with up to 20 windows per group."""
    failed = islice(select_chunks(plan, run, ChunkStatus.FAILED), _GROUPED)
    return [
        {
            "error": group.error,
            "count": len(group.chunks),
            "windows": [
                {"from": render_instant(chunk.start), "to": render_instant(chunk.end)}
                for chunk in group.chunks[:_SHOWN]
            ],
        }
        for group in group_failures((chunk, run.state(chunk.id).error) for chunk in failed)
    ]


def chunks_between(
    plan: Plan, window: Window | None, only: frozenset[str] = frozenset()
) -> Callable[[Run], Iterator[Chunk]]:
    """
    Return a function that yields the chunks a worker may take: all, or those that lie completely in *window*.

    Args:
        only: The ids of the only chunks to take; empty for all.
    """

    def chosen(run: Run) -> Iterator[Chunk]:
        for chunk in select_chunks(plan, run):
            if window is not None and chunk.end > window.end:
                return
            if (window is None or chunk.start >= window.start) and (not only or chunk.id in only):
                yield chunk

    return chosen
