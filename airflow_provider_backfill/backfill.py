"""Represent one backfill in the Python API: its plan, its run, and their results."""

from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from .core.hours import read_schedule
from .core.instants import render_instant
from .core.names import show_table
from .core.plain_text import show_number
from .core.plan import Plan
from .core.progress_map import CellKind, ProgressMap
from .core.run_state import ChunkStatus, Run, RunStatus
from .errors import RequestError

if TYPE_CHECKING:
    from .commands.chunks import ChunkResult
    from .commands.session import Payload, Session


_CELL_COLOURS = {
    CellKind.DONE: "#2e9e5b",
    CellKind.PARTLY: "#a7d9ba",
    CellKind.RUNNING: "#19b5d6",
    CellKind.FAILED: "#d64545",
    CellKind.PENDING: "#d5dae1",
}


class Pace(TypedDict, total=False):
    """
    The optional arguments of a run that decide when and how chunks start.

    Attributes:
        max_load: Wait while the server uses more than this share of its limit on parts or on memory; by default 0.8.
        max_failures: Pause after this many permanent failures in a row; by default 10.
        newest_first: Start at the end of the window.
        hours: Start chunks only in these hours of the day: ``22-06`` or ``22:30-06:00``; at any time if None.
        stop_at: Start no chunk after this time and pause: ``06:00``, or ``2025-01-31T06:00:00Z``; no limit if None.
        zone: Time zone of *hours* and *stop_at*; UTC if None.
        force_overlap, force_compatibility, force_environment: The flags of ``run`` with these names; by default off.
    """

    max_load: float
    max_failures: int
    newest_first: bool
    hours: str | None
    stop_at: str | None
    zone: str | None
    force_overlap: bool
    force_compatibility: bool
    force_environment: bool


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """
    The result of ``verify``.

    Attributes:
        ok: Whether all chunks are done, and the target has the source's rows for the whole window.
        exit_code: The exit code of the command: 0 if *ok*; 3 if inconclusive; 1 if rows differ or chunks are not done.
        payload: The payload of ``verify --json``, with ``exitCode`` added.
    """

    ok: bool
    exit_code: int
    payload: "Payload"

    def __bool__(self) -> bool:
        return self.ok


@dataclass(frozen=True, slots=True)
class RunResult:
    """
    The state of a backfill at the time of the call that returned this object.

    Attributes:
        status: planned, running, paused, completed, failed, cancelled or undone.
        chunk_counts: The number of chunks by status, their ``total``, and ``skipped``, which is always 0.
        attempts: Number of attempts of all chunks so far.
        rows_written: Number of rows that the target received.
        rows_read, bytes_read: Numbers of rows and uncompressed bytes that the filling statements read; 0 if the server
            does not report them.
        last_error: The last error of a chunk; None without an error.
        payload: The payload of ``status --json``, without the address of the plan's page.
    """

    backfill: "Backfill"
    status: str
    chunk_counts: dict[str, int]
    attempts: int
    rows_written: int
    rows_read: int
    bytes_read: int
    last_error: str | None
    payload: "Payload"

    @property
    def completed(self) -> bool:
        """Whether every chunk is done, and the backfill is neither cancelled nor undone."""
        return self.status == RunStatus.COMPLETED

    def verify(self) -> VerifyResult:
        """Compare the target with the source; see :meth:`Backfill.verify`."""
        return self.backfill.verify()

    def chunks(self, status: str | None = None, *, failed: bool = False) -> "list[ChunkResult]":
        """List the chunks of the backfill, in time order; see :meth:`Backfill.chunks`."""
        return self.backfill.chunks(status, failed=failed)

    def _repr_html_(self) -> str:
        return self.backfill._repr_html_()


@dataclass(frozen=True, slots=True)
class LeftoverTable:
    """
    A table that a run or a trial left on the server.

    Attributes:
        kind: ``staging``, ``fence`` or ``trial``.
        rows: Rows in the table; None if unknown.
        fate: ``removed``, ``removable`` or ``kept``.
        reason: The reason for the fate.
    """

    table: str
    plan_id: str
    kind: str
    rows: int | None
    fate: str
    reason: str


class Backfill:
    """
    One plan and its run, as returned by :meth:`Client.plan` and :meth:`Client.backfill`.

    Attributes:
        id: The plan's id, 16 hex digits.
        target: ``database.table``.
        window: The half-open window, as two aware datetimes in UTC.
        chunk_count: The planned number of chunks, on all shards.
        plan_payload: The payload of ``plan --json``; None unless this object comes from :meth:`Client.plan`.
    """

    def __init__(self, session: "Session", plan: Plan, plan_payload: "Payload | None" = None) -> None:
        self._session, self._plan = session, plan
        self.id = plan.plan_id
        self.target = show_table(plan.target)
        self.window = (plan.start, plan.end)
        self.chunk_count = plan.total_chunks
        self.plan_payload = plan_payload

    def run(
        self,
        *,
        parallel: int | None = None,
        replay_done: bool = False,
        replay_failed: bool = False,
        clear_window: bool = False,
        **pace: Unpack[Pace],
    ) -> RunResult:
        """
        Execute the pending chunks, and wait until all chunks have ended or the run is paused or cancelled.

        Args:
            parallel: Number of parallel chunks; the option ``maxParallelChunks`` if None.
            replay_done, replay_failed, clear_window: The flags of ``run`` with these names.
            pace: Fields of :class:`Pace`, by name.

        Returns:
            The state after the run. Failed chunks and a pause raise no error.

        Raises:
            RequestError: The run may not start. The message gives the reason, and the hint suggests a change.
            ServerError: ClickHouse could not be reached.
        """
        replay = {"replay_done": replay_done, "replay_failed": replay_failed, "clear_window": clear_window}
        return self._execute(parallel, replay, pace, resume=False)

    def resume(self, *, parallel: int | None = None, **pace: Unpack[Pace]) -> RunResult:
        """
        Continue a paused, failed or cancelled run, and execute its failed chunks again.

        The arguments are those of :meth:`run` without *replay_done*, *replay_failed* and *clear_window*. The result and
        the errors are those of :meth:`run`, too. A plan that has never run raises a RequestError.
        """
        return self._execute(parallel, {}, pace, resume=True)

    def _execute(self, parallel: int | None, replay: dict[str, bool], pace: Pace, *, resume: bool) -> RunResult:
        from .commands.run import RunFlags, run_plan

        flags = RunFlags(
            **replay,
            force_overlap=pace.get("force_overlap", False),
            force_compatibility=pace.get("force_compatibility", False),
            force_environment=pace.get("force_environment", False),
        )
        run_plan(
            self._session,
            self.id,
            flags=flags,
            resume=resume,
            parallel=parallel,
            max_load=pace.get("max_load", 0.8),
            max_failures=pace.get("max_failures", 10),
            schedule=read_schedule(pace.get("hours"), pace.get("stop_at"), pace.get("zone"), datetime.now(UTC)),
            newest_first=pace.get("newest_first", False),
        )
        return self.status()

    def status(self) -> RunResult:
        """Return the current state of the backfill, read from its event log; no ClickHouse is needed."""
        from .commands.status import read_status

        payload = read_status(self._session, self.id)
        return RunResult(
            backfill=self,
            status=str(payload["status"]),
            chunk_counts=dict(payload["chunkCounts"]),
            attempts=payload["attempts"],
            rows_written=payload["rowsWritten"],
            rows_read=payload["rowsRead"],
            bytes_read=payload["bytesRead"],
            last_error=payload.get("lastError"),
            payload=payload,
        )

    def chunks(self, status: str | None = None, *, failed: bool = False) -> "list[ChunkResult]":
        """
        Return chunks in time order; no ClickHouse is needed. A split chunk is represented by its parts.

        Args:
            status: Return only chunks of this status; all if None.
            failed: Whether to return only failed chunks; if true, *status* is ignored.

        Raises:
            RequestError: The status does not exist.
        """
        from .commands.chunks import list_chunks

        known = [each.value for each in ChunkStatus]
        text = ChunkStatus.FAILED.value if failed else status
        if text is not None and text not in known:
            raise RequestError(f"The chunk status is {text!r}.", hint=f"use one of {', '.join(known)}")
        wanted = None if text is None else ChunkStatus(text)
        return list_chunks(self._session, self.id, wanted)

    def events(self) -> list[dict[str, Any]]:
        """Return the events so far as dicts, oldest first. The log's first entry and heartbeats are left out."""
        from .commands.events import EventReader

        return list(EventReader(self._session, self.id).read())

    def verify(self) -> VerifyResult:
        """
        Compare the target's rows of the done chunks with the rows that the source returns now.

        Raises:
            RequestError: No chunk is done.
            ServerError: ClickHouse could not be asked.
        """
        from .commands.verify import verify_plan

        payload = verify_plan(self._session, self.id)
        code = int(payload.get("exitCode", 0 if payload["ok"] else 1))
        return VerifyResult(bool(payload["ok"]), code, payload)

    def doctor(self) -> "Payload":
        """Diagnose the backfill and its tables; return the payload of ``doctor --json``."""
        from .commands.doctor import diagnose

        return diagnose(self._session, self.id)

    def report(self) -> "Payload":
        """Report who ran the backfill, when, and its cost; return the payload of ``report --json``."""
        from .commands.report import report_plan

        return report_plan(self._session, self.id)

    def pause(self, reason: str = "") -> RunResult:
        """
        Pause the run until :meth:`resume`, and return the state.

        The run's workers release their chunks. A chunk whose rows are already sealed is completed instead.

        Raises:
            RequestError: The plan has never run, or is completed, cancelled or undone.
        """
        from .commands.pause import pause_plan

        pause_plan(self._session, self.id, reason=reason)
        return self.status()

    def cancel(self, reason: str = "") -> RunResult:
        """
        Cancel the run until :meth:`resume`, and return the state.

        If the client has the address of a ClickHouse, also kill the run's queries. Workers kill their own queries.

        Raises:
            RequestError: The plan is completed.
        """
        from .commands.cancel import cancel_plan

        cancel_plan(self._session, self.id, reason=reason)
        return self.status()

    def undo(self) -> RunResult:
        """
        Restore the rows that a plan with ``backup=True`` has replaced, and return the state, which is ``undone``.

        Raises:
            RequestError: The plan has no backup, its backup table is gone, or a worker of the plan is alive; or the
                target's database would replace rows on other servers as well.
            ServerError: ClickHouse could not be asked.
        """
        from .commands.undo import undo_plan

        undo_plan(self._session, self.id)
        return self.status()

    def __repr__(self) -> str:
        start, end = (render_instant(moment) for moment in self.window)
        return f"<Backfill {self.id} of {self.target}, {start} to {end}, {show_number(self.chunk_count, 'chunk')}>"

    def _repr_html_(self) -> str:
        """Return HTML for a notebook: a title, and a map of the window; a cell's colour shows its chunks' status."""
        run: Run = self._session.store.open_run(self._plan).run
        rows = ProgressMap(self._plan).rows(run, width=60, most=40)
        lines = [
            f'<div style="white-space:nowrap;line-height:13px"><code>{render_instant(row.start)[:16]}</code> '
            + "".join(
                f'<span title="{kind}" style="display:inline-block;width:11px;height:11px;margin:0 1px;'
                f'background:{_CELL_COLOURS[kind]}"></span>'
                for kind in row.cells
            )
            + "</div>"
            for row in rows
        ]
        done, total = run.count(ChunkStatus.DONE), run.total
        title = f"{escape(self.target)} · {run.status} · {done:,} of {total:,} chunks · {show_number(run.rows, 'row')}"
        return f"<div><b>{title}</b>{''.join(lines)}</div>"
