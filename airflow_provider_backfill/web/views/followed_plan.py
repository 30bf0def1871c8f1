"""Follow one plan between requests: its run, the tail of its log, and the index of its chunks."""

import threading
import time
from datetime import datetime

from ...commands.lease import owner_is_dead
from ...commands.plan_findings import finding_payload, plan_case
from ...commands.session import Payload, Session
from ...commands.status import status_payload
from ...core.findings.judge import judge
from ...core.findings.signal import signal_of
from ...core.instants import render_instant, to_ms
from ...core.model import whole
from ...core.plan import Plan
from ...core.run_state import ChunkStatus, Run, RunStatus
from ...errors import Advice
from ...state import damage
from ...state.run_log import RunLog
from ...ui_urls import parse_task
from .chunk_map import ChunkIndex
from .log_tail import LogTail

_TAIL_SECONDS = 0.08


class FollowedPlan:
    """A plan and its run as of the last :meth:`refresh`; hold *lock* while reading."""

    def __init__(self, session: Session, plan: Plan, stamp: object) -> None:
        self.lock = threading.Lock()
        self.plan, self.stamp = plan, stamp
        self.session = session
        self.log = RunLog(session.store, plan)
        self.tail: LogTail | None = None
        self.index: ChunkIndex | None = None
        self.built = False
        self.seen = 0.0
        self._summary: Payload | None = None
        self._as_of: tuple[object, ...] = ()

    @property
    def run(self) -> Run:
        """The run as of the last refresh."""
        return self.log.run

    @property
    def weight(self) -> int:
        """The approximate memory use, in chunks; the overview evicts plans by this number."""
        return len(self.run.done) + len(self.run.chunks) + (len(self.index) if self.index else 0)

    def refresh(self, *, tail: bool = False, index: bool = False) -> None:
        """
        Read the new events; with *tail* and *index*, also update the values for the plan's own page.

        Raises:
            DamagedStateError: A file of the plan is damaged.
        """
        moving = self.run.status is RunStatus.RUNNING
        if (tail or moving) and self.tail is None:
            self.tail = LogTail(self.session.store, self.plan)
        # Read the tail first: the run must include all events that the tail has.
        if self.tail is not None:
            self._advance(_TAIL_SECONDS if tail else _TAIL_SECONDS / 8)
        self.log.refresh()
        if index and self.index is None:
            self.index = ChunkIndex(self.plan)
        if self.index is not None and self.tail is not None:
            if not self.built:
                self.built = self.index.build(self.run, _TAIL_SECONDS if index else 0)
                self.tail.fresh_from = self.log.lines
            else:
                self.index.follow(self.run, self.tail.news)
            self.tail.news.clear()
        self.seen = time.monotonic()

    def _advance(self, seconds: float) -> None:
        assert self.tail is not None  # noqa: S101 - asked by who calls
        try:
            self.tail.advance(seconds)
        except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError):
            # RunLog reports the line that is not an event. The new tail reads the log from its start after a repair.
            self.tail, path = LogTail(self.session.store, self.plan), self.session.store.event_path(self.plan.plan_id)
            self.log.refresh()
            raise damage.damaged(path, None, "a line of it is no event", Advice("check the log")) from None

    @property
    def caught_up(self) -> bool:
        """Whether the tail is at most 50 lines behind the run's log, which may have grown since the tail was read."""
        return self.tail is not None and self.tail.lines >= self.log.lines - 50

    @property
    def dag_ids(self) -> tuple[str, ...]:
        """The ids of the DAGs that planned or ran the plan; empty if none did."""
        tasks = map(parse_task, (self.plan.created_by, self.run.started_by))
        return tuple(dict.fromkeys(task.dag_id for task in tasks if task is not None))

    def dead(self, moment: datetime) -> list[str]:
        """Return the names of the dead workers."""
        return [owner for owner in self.run.workers if owner_is_dead(self.run, owner, moment)]

    def _seconds_left(self, moment: datetime, chunks: int) -> int | None:
        seconds = self.tail.progress.seconds_left(to_ms(moment) / 1000, chunks) if self.tail is not None else None
        return None if seconds is None else round(seconds)

    def version(self, moment: datetime) -> tuple[object, ...]:
        """Return a value that changes whenever the shown data changes."""
        read = self.tail.lines if self.tail is not None else 0
        # A rate decreases over time even without events.
        beat = to_ms(moment) // 5_000 if self.run.status is RunStatus.RUNNING else 0
        waived = bool(self.run.waiver and self.run.waiver.holds(moment))
        return (
            render_instant(self.plan.created_at),
            self.log.lines,
            read,
            self.built,
            tuple(self.dead(moment)),
            beat,
            waived,
        )

    def summary(self, moment: datetime) -> Payload:
        """Return the plan as one row of the list of plans."""
        as_of = self.version(moment)
        if self._summary is None or as_of != self._as_of:
            self._summary, self._as_of = self._summarise(moment), as_of
        return self._summary

    def _summarise(self, moment: datetime) -> Payload:
        plan, run = self.plan, self.run
        payload = status_payload(self.session, plan, run, "status")
        for name in ("ok", "command", "runPath", "eventPath"):
            del payload[name]
        pace = None
        if run.status is RunStatus.RUNNING and self.tail is not None and self.caught_up:
            pace = self.tail.pace(to_ms(moment))
        left = run.count(ChunkStatus.PENDING) + run.count(ChunkStatus.RUNNING)
        waiver = run.waiver if run.waiver and run.waiver.holds(moment) else None
        case = plan_case(self.session, plan, run)
        findings = judge(case)
        return {
            **payload,
            "chunkHours": None if plan.chunk_hours is None else whole(plan.chunk_hours),
            "chunkLength": plan.chunking.text,
            "signal": signal_of(case),
            "chunks": plan.chunking.words,
            "writeMode": plan.write_mode,
            "createdAt": render_instant(plan.created_at),
            "startedAt": render_instant(run.started_at) if run.started_at else None,
            "author": plan.owner or run.started_by or plan.created_by,
            "dagIds": list(self.dag_ids),
            "splits": len(run.splits),
            "cancelling": run.cancelling,
            "waiver": {
                "by": waiver.by,
                "reason": waiver.reason,
                "until": render_instant(waiver.until) if waiver.until else None,
                "supersededBy": waiver.superseded_by,
            }
            if waiver
            else None,
            "rowsPerSecond": round(pace.rows, 1) if pace else None,
            "rowsReadPerSecond": round(pace.read_rows, 1) if pace else None,
            "chunksPerMinute": round(pace.chunks * 60, 1) if pace else None,
            "secondsLeft": self._seconds_left(moment, left) if pace else None,
            "findings": [finding_payload(finding) for finding in findings],
        }
