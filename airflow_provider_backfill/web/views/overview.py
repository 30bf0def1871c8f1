"""
What the page in Airflow shows of plans and runs, cheap enough to be asked every other second.

Folded runs are kept between requests and only what was appended since is read. What a first look
costs is cut into slices of a fraction of a second, and an answer says when more is to come.
Changes nothing.
"""

import hashlib
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import datetime
from typing import Any

from ...commands.lease import owner_is_dead, utc_now
from ...commands.plan_findings import adds_up_payload, finding_payload, plan_case
from ...commands.session import Session
from ...commands.status import status_payload
from ...core.facts import TableName
from ...core.findings.judge import judge
from ...core.findings.signal import Signal, signal_of
from ...core.instants import render_instant, to_ms
from ...core.masking import mask_secrets
from ...core.model import whole
from ...core.plan import Chunk, Plan, WriteMode
from ...core.run_state import ChunkStatus, Run, RunStatus
from ...core.sql import chunk_filter, insert_select, pasteable, quote_table, staging_table
from ...errors import Advice, DamagedStateError, RequestError
from ...state import damage
from ...state.layout import check_plan_id
from ...state.run_log import RunLog
from ...state.store import StateStore
from ...ui_urls import parse_task
from .chunk_map import ChunkIndex
from .log_tail import LogTail

Payload = dict[str, Any]

_LIST_SECONDS = 0.12
_TAIL_SECONDS = 0.08
_KEPT_CHUNKS = 1_000_000
# Those that need somebody first, and among equals the newest.
_ORDER = {
    status: rank
    for rank, status in enumerate(
        (
            RunStatus.RUNNING,
            RunStatus.FAILED,
            RunStatus.PAUSED,
            RunStatus.PLANNED,
            RunStatus.CANCELLED,
            RunStatus.COMPLETED,
            RunStatus.UNDONE,
        )
    )
}


class _Followed:
    """One plan as far as it is known; *lock* is held while it is looked at."""

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
        return self.log.run

    @property
    def weight(self) -> int:
        """How much memory it takes, in chunks."""
        return len(self.run.done) + len(self.run.chunks) + (len(self.index) if self.index else 0)

    def refresh(self, *, tail: bool = False, index: bool = False) -> None:
        """Read what is new; with *tail* and *index* also what only the plan's own page needs."""
        moving = self.run.status is RunStatus.RUNNING
        if (tail or moving) and self.tail is None:
            self.tail = LogTail(self.session.store, self.plan)
        # The tail first: the run must never be behind the events that are taken from it.
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
            # A line that is no event. Who folds the log names it; the tail begins anew once it is repaired.
            self.tail, path = LogTail(self.session.store, self.plan), self.session.store.event_path(self.plan.plan_id)
            self.log.refresh()
            raise damage.damaged(path, None, "a line of it is no event", Advice("look at the log")) from None

    @property
    def caught_up(self) -> bool:
        """Whether the tail is as good as at the log's end, which moves on while it is read."""
        return self.tail is not None and self.tail.lines >= self.log.lines - 50

    @property
    def dag_ids(self) -> tuple[str, ...]:
        """The DAGs that it was made in or ran for."""
        tasks = map(parse_task, (self.plan.created_by, self.run.started_by))
        return tuple(dict.fromkeys(task.dag_id for task in tasks if task is not None))

    def dead(self, moment: datetime) -> list[str]:
        return [owner for owner in self.run.workers if owner_is_dead(self.run, owner, moment)]

    def version(self, moment: datetime) -> tuple[object, ...]:
        """Changes whenever something that is shown does."""
        read = self.tail.lines if self.tail is not None else 0
        # A rate fades also while nothing happens.
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
        """The plan in one row of a list."""
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
            "secondsLeft": round(left / pace.chunks) if pace and pace.chunks else None,
            "findings": [finding_payload(finding) for finding in findings],
        }


def _row(summary: Payload) -> Payload:
    return {name: value for name, value in summary.items() if name != "findings"}


class Overview:
    """
    All plans of a state folder, as the page asks for them; made once in a process, safe for its threads.

    Args:
        session: Its store and options; no server is needed.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._store = session.store
        self._lock = threading.Lock()
        self._followed: OrderedDict[str, _Followed] = OrderedDict()
        self._damaged: dict[str, DamagedStateError] = {}

    def _follow(self, plan_id: str) -> _Followed:
        """The plan as it was last seen, or a first look at it."""
        stamp = self._store.backend.stamp(f"plans/{plan_id}.json")
        with self._lock:
            known = self._followed.get(plan_id)
            if known is not None and known.stamp == stamp:
                self._followed.move_to_end(plan_id)
                return known
        plan = _Followed(self.session, self._store.load_plan(plan_id), stamp)
        with self._lock:
            self._followed[plan_id] = plan
            self._make_room(plan_id)
        return plan

    def _make_room(self, wanted: str) -> None:
        total = sum(followed.weight for followed in self._followed.values())
        for name in list(self._followed):
            if total <= _KEPT_CHUNKS:
                return
            if name != wanted:
                total -= self._followed.pop(name).weight

    # ------------------------------------------------------------ list

    def plans(
        self,
        *,
        search: str = "",
        status: str = "",
        since: str = "",
        offset: int = 0,
        limit: int = 100,
        may_see: Callable[[Collection[str]], bool] = lambda _: True,
    ) -> Payload:
        """
        A part of the list of plans, those that need somebody first, and the verdict of ``check`` on all.

        Args:
            search: Only plans whose target or id contains it.
            status: Only plans that stand there.
            since: The ``version`` of an earlier answer to the same question; when nothing has changed
                the answer is ``{"changed": false}``.
            may_see: Whether the plans of these DAGs are shown; asked with none for those that belong to none.

        Returns:
            Among others ``complete``: false while some plans were not looked at yet, for lack of time.

        Raises:
            StateError: The state folder cannot be read.
        """
        moment = utc_now()
        names = self._store.plan_ids()
        waiting = self._look(names)
        found, digest = [], hashlib.sha256()
        with self._lock:
            known = [(name, self._followed.get(name)) for name in names]
        for name, followed in known:
            if followed is None:
                digest.update(f"{name}?".encode())
                continue
            if not may_see(followed.dag_ids):
                continue
            found.append(followed.summary(moment))
            digest.update(f"{name}{followed.version(moment)}".encode())
        # Whose a damaged plan is cannot be told.
        all_seen = may_see(())
        damaged = {name: error for name, error in self._damaged.items() if all_seen and name in set(names)}
        digest.update(f"{sorted(damaged)}{waiting}{search}{status}{offset}{limit}".encode())
        version = digest.hexdigest()[:16]
        if since == version:
            return {"changed": False, "version": version}
        chosen = [
            plan
            for plan in found
            if (not search or search.lower() in plan["target"].lower() or search.lower() in plan["planId"])
        ]
        counts = {which.value: sum(plan["status"] == which for plan in chosen) for which in RunStatus}
        chosen = [plan for plan in chosen if not status or plan["status"] == status]
        chosen.sort(key=lambda plan: plan["createdAt"], reverse=True)
        chosen.sort(key=lambda plan: _ORDER[plan["status"]])
        return {
            "changed": True,
            "version": version,
            "complete": not waiting,
            "stateDir": self._store.backend.where(""),
            "verdict": self._verdict(found, damaged),
            "total": len(names) if all_seen else len(found),
            "counts": counts,
            "matching": len(chosen),
            "plans": [_row(plan) for plan in chosen[offset : offset + limit]],
            "damaged": [
                {"planId": name, "message": error.message, "hint": error.hint} for name, error in damaged.items()
            ],
        }

    def _look(self, names: list[str]) -> int:
        """Look at what is new, longest unseen first, for a moment; how many were never looked at."""
        deadline = time.monotonic() + _LIST_SECONDS
        with self._lock:
            for gone in set(self._followed) - set(names):
                del self._followed[gone]
            seen = {name: followed.seen for name, followed in self._followed.items()}
        left = sorted(names, key=lambda name: seen.get(name, 0.0))
        for done, name in enumerate(left):
            # At least one, however slow the folder is.
            if done and time.monotonic() > deadline:
                return sum(name not in seen and name not in self._damaged for name in left[done:])
            try:
                followed = self._follow(name)
                with followed.lock:
                    followed.refresh()
                self._damaged.pop(name, None)
            except DamagedStateError as error:
                self._damaged[name] = error
                with self._lock:
                    self._followed.pop(name, None)
            except RequestError:
                # Retired between the listing and the look.
                continue
        return 0

    def _verdict(self, plans: list[Payload], damaged: dict[str, DamagedStateError]) -> Payload:
        findings = [finding for plan in plans for finding in plan["findings"]]
        pending = sum(
            plan["status"] not in (RunStatus.COMPLETED, RunStatus.UNDONE) and not plan["waiver"] for plan in plans
        )
        signals = {which.value: sum(plan["signal"] == which for plan in plans) for which in Signal}
        signals[Signal.BROKEN] += len(damaged)
        required = self.session.options.policy.fail_check_on_required_pending_backfill
        return {
            "ok": not signals[Signal.BROKEN] and not (required and pending),
            "signals": signals,
            "relaxed": not required,
            "evaluated": len(plans),
            "pending": pending,
            "active": sum(plan["status"] == RunStatus.RUNNING for plan in plans),
            "failed": sum(plan["status"] == RunStatus.FAILED for plan in plans),
            "damaged": len(damaged),
            "findingCodes": sorted(
                {finding["code"] for finding in findings} | ({"backfill_state_damaged"} if damaged else set())
            ),
        }

    # ------------------------------------------------------------ one plan

    def dag_ids(self, wanted: str) -> tuple[str, ...]:
        """
        The DAGs that a plan was made in or ran for; none where it is of the command line.

        Raises:
            PlanNotFoundError: No such plan.
            DamagedStateError: Its files do not hold what they must.
        """
        followed = self._follow(check_plan_id(wanted))
        with followed.lock:
            followed.refresh()
            return followed.dag_ids

    def plan(
        self,
        wanted: str,
        *,
        since: str = "",
        start: int | None = None,
        end: int | None = None,
        cells: int = 1_500,
        after: int = 0,
    ) -> Payload:
        """
        Everything about one plan: where it stands, the map of its chunks, what happened of late.

        Args:
            since: The ``version`` of an earlier answer to the same question.
            start: Show the map from here, in milliseconds since 1970; with *end*, a zoom.
            cells: At most so many cells in the map.
            after: Only events after this line of the log.

        Raises:
            RequestError: No such plan.
            DamagedStateError: Its files do not hold what they must.
        """
        followed = self._follow(check_plan_id(wanted))
        moment = utc_now()
        with followed.lock:
            followed.refresh(tail=True, index=True)
            plan, run, tail, index = followed.plan, followed.run, followed.tail, followed.index
            assert tail is not None  # noqa: S101 - refresh makes both
            assert index is not None  # noqa: S101
            text = f"{followed.version(moment)}{start}{end}{cells}"
            version = hashlib.sha256(text.encode()).hexdigest()[:16]
            if since == version:
                return {"changed": False, "version": version}
            known = followed.caught_up and followed.built
            return {
                "changed": True,
                "version": version,
                "complete": known,
                "plan": _without_status(followed.summary(moment)),
                "definition": _definition(plan, self._store),
                "map": index.map(run, start, end, cells) if followed.built else None,
                "series": tail.meter.payload(),
                "began": tail.began,
                "workers": [
                    {
                        "name": name,
                        "claims": worker.claims,
                        "seenAt": render_instant(worker.seen_at),
                        "gone": owner_is_dead(run, name, moment),
                    }
                    for name, worker in run.workers.items()
                ],
                "running": _states(run, index, ChunkStatus.RUNNING, 20),
                "failed": _states(run, index, ChunkStatus.FAILED, 50),
                "airflow": _airflow(run, tail),
                # Only once the windows of their chunks are known.
                "events": _events(tail, index, after) if known else [],
                "lastEvent": tail.lines if known else after,
            }

    def chunk(self, wanted: str, chunk_id: str) -> Payload:
        """
        One chunk: every attempt with its query id, error and SQL.

        Raises:
            RequestError: No such plan or chunk.
        """
        followed = self._follow(check_plan_id(wanted))
        with followed.lock:
            followed.refresh(tail=True, index=True)
            plan, run, index = followed.plan, followed.run, followed.index
            assert index is not None  # noqa: S101 - refresh makes it
            chunk = index.chunk(chunk_id)
            if chunk is None:
                raise RequestError(
                    f"Plan {wanted} has no chunk {chunk_id[:40]!r}.", hint="open the plan's page and choose one there"
                )
            state = run.state(chunk_id)
            parts = run.splits.get(chunk_id, ())
            whole_chunk = index.above(run, chunk_id)
        attempts = _attempts(self._store, plan, chunk_id)
        return {
            "planId": plan.plan_id,
            "chunkId": chunk_id,
            "from": to_ms(chunk.start),
            "to": to_ms(chunk.end),
            "status": "split" if parts else state.status,
            "rows": state.content.rows if state.content else None,
            "checksum": str(state.content.checksum) if state.content else None,
            "seconds": state.seconds,
            "tries": state.tries,
            "token": plan.token(chunk) if plan.write_mode is WriteMode.INSERT else "",
            "partOf": whole_chunk,
            "parts": [
                {
                    "chunkId": part.id,
                    "from": to_ms(part.start),
                    "to": to_ms(part.end),
                    "status": "split" if part.id in run.splits else run.state(part.id).status,
                }
                for part in parts
            ],
            "attempts": attempts,
            "statements": [
                _statement(plan, chunk, max(1, state.attempt), position) for position in range(len(plan.statements))
            ],
        }


def _without_status(summary: Payload) -> Payload:
    """A summary without the finding that only says what its status says."""
    found = [finding for finding in summary["findings"] if finding["code"] != "backfill_required_pending"]
    return {**summary, "findings": found}


def _definition(plan: Plan, store: StateStore) -> Payload:
    return {
        "timeColumn": plan.time_column,
        "writeMode": plan.write_mode,
        "modeReason": plan.mode_reason,
        "guarantee": plan.guarantee,
        "addsUp": adds_up_payload(plan),
        "existingRows": plan.existing_rows,
        "environment": plan.environment,
        "chunkCount": plan.total_chunks,
        "statements": [
            {
                "name": s.name,
                "source": s.source_text,
                "select": mask_secrets(s.select),
                "verifiedAgainstSource": s.row_wise,
            }
            for s in plan.statements
        ],
        "planPath": store.plan_path(plan.plan_id),
        "eventPath": store.event_path(plan.plan_id),
    }


def _states(run: Run, index: ChunkIndex, status: ChunkStatus, limit: int) -> list[Payload]:
    """The first chunks at a status that is rare: running or failed."""
    found: list[Payload] = []
    for name, state in run.chunks.items():
        if state.status is not status or (window := index.window(name)) is None:
            continue
        found.append(
            {
                "chunkId": name,
                "from": window[0],
                "to": window[1],
                "attempt": state.attempt,
                "owner": state.owner,
                "startedAt": render_instant(state.started_at) if state.started_at else None,
                "error": state.error,
            }
        )
        if len(found) == limit:
            break
    return sorted(found, key=lambda entry: entry["from"])


def _airflow(run: Run, tail: LogTail) -> Payload:
    """
    The DAG runs that failed chunks were executed by, with the task instances to clear, and the last one of all.

    Returns:
        ``runs``, the last one first; ``failedElsewhere`` counts the failed chunks that no task of Airflow's
        has executed.
    """
    failed = [tail.began_by.get(name, "") for name, state in run.chunks.items() if state.status is ChunkStatus.FAILED]
    last = parse_task(tail.last_by)
    runs: dict[tuple[str, str], Payload] = {}
    elsewhere = 0
    for task, is_failed in [(last, False), *((parse_task(name), True) for name in failed)]:
        if task is None:
            elsewhere += is_failed
            continue
        known = runs.setdefault(
            (task.dag_id, task.run_id),
            {"dagId": task.dag_id, "runId": task.run_id, "taskIds": [], "failedTasks": {}},
        )
        if task.task_id not in known["taskIds"]:
            known["taskIds"].append(task.task_id)
        if is_failed:
            place = task.task_id, task.map_index
            known["failedTasks"][place] = known["failedTasks"].get(place, 0) + 1
    for known in runs.values():
        known["failedTasks"] = [
            {"taskId": task, "mapIndex": index, "chunks": chunks}
            for (task, index), chunks in sorted(known["failedTasks"].items())
        ]
    return {"runs": list(runs.values()), "failedElsewhere": elsewhere}


def _events(tail: LogTail, index: ChunkIndex, after: int) -> list[Payload]:
    """The events after a line, oldest first, each with its number and, of a chunk, its window."""
    found = []
    for number, line in tail.feed:
        if number <= after:
            continue
        event = json.loads(line)
        event["number"] = number
        if (name := event.get("chunkId")) and (window := index.window(name)):
            event["from"], event["to"] = window
        if "content" in event:
            event["rows"] = event.pop("content")[0]
        found.append(event)
    return found


def _attempts(store: StateStore, plan: Plan, chunk_id: str) -> list[Payload]:
    """What the log says of one chunk, attempt by attempt."""
    log, position, last = store.backend.log(plan.plan_id, render_instant(plan.created_at)), 0, b""
    wanted = f'"chunkId":"{chunk_id}"'.encode()
    attempts: dict[int, Payload] = {}
    while lines := log.read(position, last):
        for line in lines:
            position = log.advance(position, line)
            if wanted in line:
                # A line that is damaged since the log was folded is told of at the next look.
                with suppress(ValueError, LookupError, TypeError, RecursionError):
                    _note_attempt(attempts, json.loads(line))
        last = lines[-1]
    return list(attempts.values())


def _note_attempt(attempts: dict[int, Payload], event: Payload) -> None:
    kind = event["type"]
    if kind == "ChunkStarted":
        attempts[event["attempt"]] = {
            "attempt": event["attempt"],
            "queryId": event["queryId"],
            "by": event["by"],
            "startedAt": event["at"],
            "takesOver": event.get("takesOver", False),
            "outcome": "running",
            "onBehalfOf": event.get("onBehalfOf", ""),
        }
        for number, earlier in attempts.items():
            if number < event["attempt"] and earlier["outcome"] == "running":
                earlier["outcome"] = "lost"
        return
    attempt = attempts.get(event["attempt"])
    if attempt is None:
        return
    if kind == "ChunkVerified":
        attempt["verifiedAt"], attempt["staged"] = event["at"], event["content"][0]
        return
    attempt["endedAt"] = event["at"]
    attempt["outcome"] = {
        "ChunkDone": "done",
        "ChunkFailed": "failed",
        "ChunkReleased": "given back",
        "ChunkSplit": "split",
    }.get(kind, kind)
    if kind == "ChunkDone":
        attempt["rows"], attempt["seconds"] = event["content"][0], event["seconds"]
    for name in ("code", "name", "message", "reason", "final"):
        if name in event:
            attempt[name] = event[name]


def _statement(plan: Plan, chunk: Chunk, attempt: int, position: int) -> Payload:
    """The INSERT of an attempt with its time filter, as a person can paste it, but for secrets."""
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
