"""
Plans and runs, read and written through one interface, whatever the backend.

The event log is the truth. The run file is a checkpoint of its replay: it may lag, and it
is written again when it is older than a moment, so its cost does not grow with the plan.
A commit is: lock, fold what others appended, let the caller decide, judge, append, fsync.
Knows nothing of ClickHouse or Airflow; gets the time passed in with each event.
"""

import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ..core.model import FORMAT, Event, Plan, Run
from ..core.run import apply_event, new_run
from ..errors import DamagedStateError, RequestError, StateError, TransitionError

_EVENT: TypeAdapter[Event] = TypeAdapter(Event)
_PLAN_ID = re.compile(r"[0-9a-f]{16}")
_CHECKPOINT_SECONDS = 1.0
_CHECKPOINT_SHARE = 20.0


class Backend(Protocol):
    """What the store needs from a file system or an object store; :mod:`.files` says what each promises."""

    def where(self, name: str) -> str: ...  # noqa: D102
    def read(self, name: str, offset: int = 0) -> bytes | None: ...  # noqa: D102
    def size(self, name: str) -> int: ...  # noqa: D102
    def age(self, name: str) -> float: ...  # noqa: D102
    def names(self, folder: str, suffix: str) -> list[str]: ...  # noqa: D102
    def create(self, name: str, data: bytes) -> bool: ...  # noqa: D102
    def replace(self, name: str, data: bytes) -> None: ...  # noqa: D102
    def retire(self, name: str, tag: str) -> None: ...  # noqa: D102
    def locked(self, name: str) -> AbstractContextManager[None]: ...  # noqa: D102
    def append(self, name: str, offset: int, line: bytes) -> None: ...  # noqa: D102


@dataclass(config={"extra": "forbid"})
class _Checkpoint:
    """A replay up to *offset* bytes and *lines* lines of the log; *status* is there for people."""

    format: int
    offset: int
    lines: int
    status: str
    run: Run


_CHECKPOINT: TypeAdapter[_Checkpoint] = TypeAdapter(_Checkpoint)


def check_plan_id(text: str) -> str:
    """
    The plan id in *text*.

    Raises:
        RequestError: It is not 16 hex digits.
    """
    plan_id = text.strip()
    if not _PLAN_ID.fullmatch(plan_id):
        raise RequestError(
            f"{text!r} is not a plan id.",
            hint="a plan id is 16 hex digits, as printed by `plan`; `clickhouse-backfill list` shows them all",
        )
    return plan_id


class StateStore:
    """All plans below one state folder."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def plan_path(self, plan_id: str) -> str:
        """Where the plan is kept, as shown to people."""
        return self.backend.where(f"plans/{plan_id}.json")

    def run_path(self, plan_id: str) -> str:
        """Where the run's checkpoint is kept, as shown to people."""
        return self.backend.where(f"runs/{plan_id}.json")

    def event_path(self, plan_id: str) -> str:
        """Where the run's events are kept, as shown to people."""
        return self.backend.where(f"events/{plan_id}.ndjson")

    def plan_ids(self) -> list[str]:
        """The ids of every plan, sorted."""
        return [name for name in self.backend.names("plans", ".json") if _PLAN_ID.fullmatch(name)]

    def find_plan(self, plan_id: str) -> Plan | None:
        """
        The plan, or None when there is none.

        Raises:
            DamagedStateError: The file does not hold this plan.
        """
        data = self.backend.read(f"plans/{plan_id}.json")
        if data is None:
            return None
        path = self.plan_path(plan_id)
        try:
            plan = Plan.model_validate_json(data)
        except ValidationError as error:
            raise _damaged(path, None, _reason(data, error)) from None
        if plan.plan_id != plan_id:
            raise _damaged(path, None, f"it holds plan {plan.plan_id}")
        return plan

    def load_plan(self, plan_id: str) -> Plan:
        """
        The plan.

        Raises:
            RequestError: No such plan, or not a plan id.
            DamagedStateError: The file does not hold this plan.
        """
        plan = self.find_plan(check_plan_id(plan_id))
        if plan is None:
            raise RequestError(
                f"There is no plan {plan_id} in {self.backend.where('')}.",
                hint="`clickhouse-backfill list` shows the plans; --state-dir chooses another folder",
            )
        return plan

    def save_plan(self, plan: Plan) -> bool:
        """Write the plan once; False when it was there already (whatever it holds)."""
        data = plan.model_dump_json(by_alias=True, indent=2).encode() + b"\n"
        return self.backend.create(f"plans/{plan.plan_id}.json", data)

    def retire_plan(self, plan_id: str, tag: str) -> None:
        """Keep the plan's files beside themselves under *tag*, so that the plan can be made anew."""
        with self.backend.locked(plan_id):
            for name in (f"plans/{plan_id}.json", f"runs/{plan_id}.json", f"events/{plan_id}.ndjson"):
                self.backend.retire(name, tag)

    def open_run(self, plan: Plan) -> "RunLog":
        """The plan's run as of now."""
        log = RunLog(self, plan)
        log.refresh()
        return log

    def exclusive(self, name: str) -> AbstractContextManager[None]:
        """Hold a lock that spans plans, such as the one on a target while a run begins."""
        return self.backend.locked(name)


class RunLog:
    """
    One plan's event log with its replay; each thread of a worker opens its own.

    Attributes:
        run: The replay as of the last :meth:`refresh` or :meth:`commit`.
    """

    def __init__(self, store: StateStore, plan: Plan) -> None:
        self.plan = plan
        self._store = store
        self._backend = store.backend
        self._name = f"events/{plan.plan_id}.ndjson"
        self._checkpoint_name = f"runs/{plan.plan_id}.json"
        self._checkpoint_cost = 0.0
        self.run, self._offset, self._lines = self._load_checkpoint()

    def _load_checkpoint(self) -> tuple[Run, int, int]:
        data = self._backend.read(self._checkpoint_name)
        if data is None:
            return new_run(self.plan), 0, 0
        path = self._store.run_path(self.plan.plan_id)
        remedy = "delete that file; it is written again from the event log"
        try:
            checkpoint = _CHECKPOINT.validate_json(data)
        except ValidationError as error:
            raise _damaged(path, None, _reason(data, error), remedy) from None
        if checkpoint.run.plan_id != self.plan.plan_id:
            raise _damaged(path, None, f"it belongs to plan {checkpoint.run.plan_id}", remedy)
        if checkpoint.offset > self._backend.size(self._name):
            raise _damaged(
                self._store.event_path(self.plan.plan_id),
                checkpoint.lines,
                f"{path} saw {checkpoint.offset} bytes, the log has {self._backend.size(self._name)}",
            )
        return checkpoint.run, checkpoint.offset, checkpoint.lines

    def refresh(self) -> Run:
        """
        Fold what was appended since the last look; a torn last line is skipped.

        Raises:
            DamagedStateError: A line is not an event, or not one that may follow; names file and line.
        """
        if self._backend.size(self._name) <= self._offset:
            return self.run
        tail = self._backend.read(self._name, self._offset) or b""
        for line in tail[: tail.rfind(b"\n") + 1].splitlines(keepends=True):
            try:
                apply_event(self.run, _EVENT.validate_json(line))
            except (ValidationError, TransitionError) as error:
                reason = _reason(line, error) if isinstance(error, ValidationError) else error.message
                raise _damaged(self._store.event_path(self.plan.plan_id), self._lines + 1, reason) from None
            self._offset += len(line)
            self._lines += 1
        return self.run

    def commit(self, decide: Callable[[Run], Event | None]) -> Event | None:
        """
        Append the event that *decide* returns for the run as of now, durably.

        *decide* is called under the log's lock with everything folded, so what it sees cannot
        change before its event is on disk; it returns None to append nothing, or raises.

        Returns:
            The event, once it is on disk.

        Raises:
            TransitionError: The run's present state does not allow the event.
            StateError: The event is not on disk, such as when the disk is full.
        """
        with self._backend.locked(self.plan.plan_id):
            event = decide(self.refresh())
            if event is None:
                return None
            apply_event(self.run, event)
            line = _EVENT.dump_json(event, by_alias=True, exclude_none=True) + b"\n"
            try:
                self._backend.append(self._name, self._offset, line)
            except StateError:
                # The replay in memory is ahead of the disk now: take it from the disk again.
                self.run, self._offset, self._lines = self._load_checkpoint()
                raise
            self._offset += len(line)
            self._lines += 1
        if self._backend.age(self._checkpoint_name) > max(
            _CHECKPOINT_SECONDS, self._checkpoint_cost * _CHECKPOINT_SHARE
        ):
            self.checkpoint()
        return event

    def append(self, event: Event) -> None:
        """Commit *event* whatever else happened, as long as the run's present state allows it."""
        self.commit(lambda _: event)

    def checkpoint(self) -> None:
        """Write the run file as of the last look."""
        began = time.monotonic()
        checkpoint = _Checkpoint(FORMAT, self._offset, self._lines, self.run.status, self.run)
        data = _CHECKPOINT.dump_json(checkpoint, by_alias=True, exclude_defaults=True)
        self._backend.replace(self._checkpoint_name, data + b"\n")
        self._checkpoint_cost = time.monotonic() - began


def _reason(data: bytes, error: ValidationError) -> str:
    """Why bytes are not what they should be, in a few words."""
    if not data.strip(b"\0 \n"):
        return "it is empty"
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]


def _damaged(path: str, line: int | None, reason: str, remedy: str = "") -> DamagedStateError:
    place = path if line is None else f"{path}, line {line}"
    return DamagedStateError(
        f"{place} is damaged: {reason}.",
        hint=remedy or "restore the file from a backup, or keep it aside and plan anew with `plan … --force`",
    )
