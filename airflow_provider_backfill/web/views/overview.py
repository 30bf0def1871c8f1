"""
Build the page's view of plans and runs, cheap enough for a request every two seconds.

Runs stay in memory between requests, so each request reads only new events. The first reading is divided into slices of
a fraction of a second, and an answer says whether it is complete. The state folder is never changed.
"""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import Any

from ...commands.chunks import statement_payload
from ...commands.coverage import coverage_payload
from ...commands.lease import owner_is_dead, utc_now
from ...commands.session import Payload, Session
from ...core.findings.signal import Signal
from ...core.instants import render_instant, to_ms
from ...core.names import show_table
from ...core.plan import WriteMode
from ...core.run_state import ChunkStatus, RunStatus
from ...core.tables import TableName
from ...errors import DamagedStateError, PlanNotFoundError, RequestError
from ...state.layout import check_plan_id
from .chunk_attempts import read_attempts
from .followed_plan import FollowedPlan
from .plan_payload import airflow_runs, definition_payload, new_events, rare_chunks, without_status

_LIST_SECONDS = 0.12
# The maximum number of failed chunks that the page lists and offers for selection on the map.
_FAILED = 300
_KEPT_CHUNKS = 1_000_000
# The rank of each status in the list of plans. Plans that need attention come first.
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


SORTS: dict[str, Callable[[Payload], Any]] = {
    "target": lambda plan: plan["target"],
    "status": lambda plan: _ORDER[plan["status"]],
    "progress": lambda plan: plan["chunkCounts"]["done"] / plan["chunkCounts"]["total"],
    "rows": lambda plan: plan["rowsWritten"],
    "read": lambda plan: plan["rowsRead"],
    "started": lambda plan: plan["startedAt"] or "",
    "changed": lambda plan: plan["updatedAt"] or plan["createdAt"],
    "dag": lambda plan: plan["dagIds"],
    "author": lambda plan: plan["author"],
}
"""By column of the list: the function that returns a plan's sort key."""


def _row(summary: Payload) -> Payload:
    return {name: value for name, value in summary.items() if name != "findings"}


class Overview:
    """
    All plans of a state folder for the page; one object per process, safe for threads.

    Args:
        session: The session with store and options; no server is needed.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._store = session.store
        self._lock = threading.Lock()
        self._followed: OrderedDict[str, FollowedPlan] = OrderedDict()
        self._damaged: dict[str, DamagedStateError] = {}

    def _follow(self, plan_id: str) -> FollowedPlan:
        """Return the followed plan; read the plan at the first request and after a change of its file."""
        stamp = self._store.backend.stamp(f"plans/{plan_id}.json")
        with self._lock:
            known = self._followed.get(plan_id)
            if known is not None and known.stamp == stamp:
                self._followed.move_to_end(plan_id)
                return known
        plan = FollowedPlan(self.session, self._store.load_plan(plan_id), stamp)
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

    def plans(
        self,
        *,
        search: str = "",
        status: str = "",
        since: str = "",
        offset: int = 0,
        limit: int = 100,
        sort: str = "",
        falling: bool = False,
        may_see: Callable[[Collection[str]], bool] = lambda _: True,
    ) -> Payload:
        """
        Return a part of the list of plans, and the verdict of ``check`` on all plans that the user may see.

        Args:
            search: List only plans whose target or id contains this text.
            status: List only plans with this status.
            since: The ``version`` of an earlier answer to the same question; if nothing has changed, the answer has
                only ``changed`` (false) and ``version``.
            offset, limit: The number of plans to skip, and the maximum number of plans to list.
            sort: One of :data:`SORTS`, in descending order with *falling*; empty for plans that need attention first.
            may_see: Returns whether to show plans of these DAGs; called without DAGs if a plan is damaged or has none.

        Returns:
            The payload of the list; its ``complete`` is false while some plans have not been read yet.

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
        # The DAGs of a damaged plan are unknown.
        all_seen = may_see(())
        damaged = {name: error for name, error in self._damaged.items() if all_seen and name in set(names)}
        digest.update(f"{sorted(damaged)}{waiting}{search}{status}{offset}{limit}{sort}{falling}".encode())
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
        if sort:
            chosen.sort(key=SORTS[sort], reverse=falling)
        else:
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
        """Refresh plans for a short time, the longest unrefreshed first; return the number of plans never read."""
        deadline = time.monotonic() + _LIST_SECONDS
        with self._lock:
            for gone in set(self._followed) - set(names):
                del self._followed[gone]
            seen = {name: followed.seen for name, followed in self._followed.items()}
        left = sorted(names, key=lambda name: seen.get(name, 0.0))
        for done, name in enumerate(left):
            # Refresh at least one plan, even in a slow folder.
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
                # The plan was retired between the listing and the reading.
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

    def table(
        self, target: TableName, *, since: str = "", may_see: Callable[[Collection[str]], bool] = lambda _: True
    ) -> Payload:
        """
        Return the coverage of a table by the plans that the user may see, and these plans, newest first.

        The coverage is None while no plan of the table has been read.

        Args:
            since: The ``version`` of an earlier answer; if nothing has changed, the new answer has only ``changed``
                (false) and ``version``.
            may_see: Returns whether to show plans of these DAGs.

        Raises:
            PlanNotFoundError: The user may see no plan of the table.
            StateError: The state folder cannot be read.
        """
        moment, waiting = utc_now(), self._look(self._store.plan_ids())
        with self._lock:
            followed = [one for _, one in sorted(self._followed.items()) if one.plan.target == target]
        followed = [one for one in followed if may_see(one.dag_ids)]
        if not followed and not waiting:
            raise PlanNotFoundError(
                f"There is no plan of {show_table(target)[:200]} that you may see.", hint="the list has all of them"
            )
        version = hashlib.sha256(repr([one.version(moment) for one in followed]).encode()).hexdigest()[:16]
        if since == version and not waiting:
            return {"changed": False, "version": version}
        with ExitStack() as held:
            for one in followed:
                held.enter_context(one.lock)
            runs = [(one.plan, one.run) for one in followed]
            window = (min(plan.start for plan, _ in runs), max(plan.end for plan, _ in runs)) if runs else None
            coverage = None if window is None else coverage_payload(target, runs, *window)
            plans = [_row(one.summary(moment)) for one in followed]
        return {
            "changed": True,
            "version": version,
            "complete": not waiting,
            "target": show_table(target),
            "coverage": coverage,
            "plans": sorted(plans, key=lambda plan: plan["createdAt"], reverse=True),
        }

    def dag_ids(self, wanted: str) -> tuple[str, ...]:
        """
        Return the ids of the DAGs that planned or ran a plan; empty for a plan of the command line.

        Raises:
            RequestError: *wanted* is not a plan id.
            PlanNotFoundError: The plan does not exist.
            DamagedStateError: The plan's files are damaged.
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
        Return one plan for its own page: state, definition, map, pace, workers, rare chunks, DAG runs, recent events.

        Args:
            since: The ``version`` of an earlier answer; if nothing has changed, the new answer has only ``changed``
                (false) and ``version``.
            start, end: The bounds of the map for a zoom, in milliseconds since 1970; None for the plan's bounds.
            cells: The maximum number of cells in the map.
            after: Return only events after this line of the log.

        Raises:
            RequestError: *wanted* is not a plan id, or the plan does not exist.
            DamagedStateError: The plan's files are damaged.
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
                "plan": without_status(followed.summary(moment)),
                "definition": definition_payload(plan, self._store),
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
                "running": rare_chunks(run, index, tail, ChunkStatus.RUNNING, 20),
                "failed": rare_chunks(run, index, tail, ChunkStatus.FAILED, _FAILED),
                "airflow": airflow_runs(run, tail),
                # Show events only when the windows of their chunks are known.
                "events": new_events(tail, index, after) if known else [],
                "lastEvent": tail.lines if known else after,
            }

    def chunk(self, wanted: str, chunk_id: str) -> Payload:
        """
        Return one chunk: its state, its parts, all its attempts, and the SQL of its last attempt.

        Before the first attempt, the SQL is that of the first attempt.

        Raises:
            RequestError: *wanted* is not a plan id, or the plan or chunk does not exist.
            DamagedStateError: The plan's files are damaged.
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
        attempts = read_attempts(self._store, plan, chunk_id)
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
                statement_payload(plan, chunk, max(1, state.attempt), position)
                for position in range(len(plan.statements))
            ],
        }
