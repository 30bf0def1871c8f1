"""
Plans and runs, read and written through one interface, whatever the backend.

The event log is the truth. The run file is a checkpoint of its replay: it may lag, and it
is written again when the log has grown by a fair part of its size, so that the cost of a
commit does not grow with the plan.
A commit is: fold what others appended, let the caller decide, judge, append durably. A lock
keeps others out meanwhile, or, on object stores, a conflict tells of them and it starts over.
Knows nothing of ClickHouse or Airflow; gets the time passed in with each event.
"""

import json
import random
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

from pydantic import TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass

from ..core.identity import render_instant
from ..core.model import (
    FORMAT,
    ChunkEvent,
    ChunkSplit,
    ChunkStatus,
    Event,
    Instant,
    Model,
    Plan,
    Run,
    RunStatus,
    event_adapter,
)
from ..core.run import apply_event, judge_event, new_run
from ..errors import BackfillError, ConfigError, DamagedStateError, RequestError, StateError, TransitionError
from .backend import LOG_CLOSED, Backend, ConflictError
from .files import FileBackend
from .salvage import Salvaged, salvage

_PLAN_ID = re.compile(r"[0-9a-f]{16}")
_CHECKPOINT_SECONDS = 1.0
_CHECKPOINT_GROWTH = 4
"""A run file is written again when the log has grown by the run file's size divided by this."""
_PAUSE_SECONDS = 2.0
"""The longest pause after a conflict with another writer."""
_EVENT, _CHUNK_EVENT = b'{"at":"', b'"type":"Chunk'
"""How each line of ours begins, and what is in each about a chunk and in no other: quotes within texts are escaped."""
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}
"""The package's extra that each kind of URL needs."""
_UNKNOWN = object()
_UPGRADE = "install a newer airflow-provider-backfill"


class LogOpened(Model):
    """The first line of every log: which plan it is of, and in which format the lines are."""

    type: Literal["LogOpened"] = "LogOpened"
    format: int
    plan_id: str
    planned_at: Instant


@dataclass(config={"extra": "forbid", "alias_generator": to_camel, "populate_by_name": True, "defer_build": True})
class _Checkpoint:
    """
    A replay of the log up to *position*.

    Attributes:
        lines: Lines up to there.
        last: The last of them, to know the log again.
        status: For people, as are the *chunk_counts*.
        size: Of the file it was read from, in bytes; not in the file.
    """

    format: int
    plan_id: str
    planned_at: Instant
    status: str
    chunk_counts: dict[str, int]
    position: int
    lines: int
    last: str
    run: Run
    size: int = 0


@cache
def _checkpoint_adapter() -> TypeAdapter[_Checkpoint]:
    return TypeAdapter(_Checkpoint)


_DONE, _DONE_LETTERS = b'"done":{', b'0123456789abcdef"[]:,.+-'


def _without_done(data: bytes) -> bytes:
    """
    A run file without its done chunks: most of it, and most of what it costs to parse.

    They are lists of numbers, so no brace is in them; and in a string the quotes would be escaped.
    All of it when anything else is in them: then the file is damaged.
    """
    start = data.find(_DONE) + len(_DONE)
    end = data.find(b"}", start)
    if start < len(_DONE) or end < 0 or data[start:end].translate(None, _DONE_LETTERS):
        return data
    return data[:start] + data[end:]


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


def open_store(state_dir: str, *, config: Mapping[str, str] | None = None) -> "StateStore":
    """
    The store in *state_dir*: a folder, or ``s3://``, ``gs://``, ``az://`` and what else names an object store.

    Args:
        config: Credentials and addresses of an object store beyond the environment's.

    Raises:
        ConfigError: An unknown kind of URL, a password in it, or a missing extra.
        StateError: The object store refuses the configuration.
    """
    scheme, separator, rest = state_dir.partition("://")
    if not separator or scheme == "file":
        return StateStore(FileBackend(Path(unquote(rest) if separator else state_dir).expanduser().absolute()))
    if scheme not in _EXTRAS:
        raise ConfigError(
            f"stateDir is {state_dir!r}, and {scheme}:// is not a place to keep state in.",
            hint=f"pass a folder, or a URL with {', '.join(f'{known}://' for known in _EXTRAS)}",
        )
    if "@" in rest.partition("/")[0] and not scheme.startswith("abfs"):
        raise ConfigError(
            f"stateDir has credentials in its URL ({scheme}://…@…), which would be shown and logged.",
            hint="give them in the environment, or in the Airflow connection",
        )
    try:
        from .objects import connect
    except ImportError:
        raise ConfigError(
            f"stateDir is {state_dir!r}, and obstore is not installed.",
            hint=f"run pip install 'airflow-provider-backfill[{_EXTRAS[scheme]}]'",
        ) from None
    return StateStore(connect(state_dir, config or {}))


class StateStore:
    """All plans below one state folder."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def plan_path(self, plan_id: str) -> str:
        """Where the plan is kept, as shown to people."""
        return self.backend.where(_plan_file(plan_id))

    def run_path(self, plan_id: str) -> str:
        """Where the run's checkpoint is kept, as shown to people."""
        return self.backend.where(_run_file(plan_id))

    def event_path(self, plan_id: str) -> str:
        """Where the run's events are kept, as shown to people."""
        return self.backend.where(_event_file(plan_id))

    def plan_ids(self) -> list[str]:
        """The ids of every plan, sorted."""
        return [name for name in self.backend.names("plans", ".json") if _PLAN_ID.fullmatch(name)]

    def find_plan(self, plan_id: str) -> Plan | None:
        """
        The plan, or None when there is none.

        Raises:
            DamagedStateError: The file does not hold this plan, or was written by another program.
        """
        data = self.backend.read(_plan_file(plan_id))
        if data is None:
            return None
        path = self.plan_path(plan_id)
        try:
            plan = Plan.model_validate_json(data)
        except ValidationError as error:
            _refuse_foreign(path, data)
            raise damaged(path, None, _reason(data, error), _plan_remedy(plan_id)) from None
        if plan.plan_id != plan_id:
            raise damaged(path, None, f"it holds plan {plan.plan_id}", _plan_remedy(plan_id))
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
        return self.backend.create(_plan_file(plan.plan_id), data)

    def retire_plan(self, plan_id: str, tag: str) -> None:
        """
        Keep the plan's files beside themselves under *tag*, so that the plan can be made anew.

        Workers that still run the old plan find out at their next commit.
        """
        plan = self.find_plan(plan_id)
        with self.backend.locked(plan_id):
            if plan is not None:
                self.backend.log(plan_id, render_instant(plan.created_at)).close()
            # The plan first: what a crash leaves of the others is known by its date as an older plan's.
            for name in (_plan_file(plan_id), _run_file(plan_id), _event_file(plan_id)):
                self.backend.retire(name, tag)

    def open_run(self, plan: Plan) -> "RunLog":
        """
        The plan's run as of now.

        Raises:
            DamagedStateError: The run file or the log does not hold what it must; names file and line.
        """
        log = RunLog(self, plan)
        log.refresh()
        return log

    def runs(
        self, plan_ids: Sequence[str], *, brief: bool = False
    ) -> Iterator[tuple[str, tuple[Plan, Run] | StateError]]:
        """
        Yield each plan's id, and the plan with its run or why they cannot be read; in the order of *plan_ids*.

        On an object store several are read at once, because each takes some round trips. A plan that
        went away meanwhile is left out.

        Args:
            brief: Leave out of a run what its done chunks did, where the run file is up to date:
                status, counts and workers are there, ``done`` may be empty.
        """
        read = partial(self._read, brief=brief)
        # A thread each would only be in the way of the others where reading takes no waiting.
        with ThreadPoolExecutor(self.backend.parallel) if self.backend.parallel > 1 else nullcontext() as pool:
            found = pool.map(read, plan_ids) if pool is not None else map(read, plan_ids)
            yield from ((name, one) for name, one in zip(plan_ids, found, strict=True) if one is not None)

    def _read(self, plan_id: str, *, brief: bool) -> tuple[Plan, Run] | StateError | None:
        try:
            plan = self.find_plan(plan_id)
            return None if plan is None else (plan, RunLog(self, plan, brief=brief).refresh())
        except StateError as error:
            return error

    def retire_run_file(self, plan_id: str, tag: str) -> str:
        """Keep the run file beside itself under *tag*, to be written anew; where it is then, as shown to people."""
        self.backend.retire(_run_file(plan_id), tag)
        return f"{self.run_path(plan_id)}.{tag}"

    def salvage_run(self, plan: Plan) -> Salvaged:
        """
        What can be made out of the plan's damaged log, with the help of the run file where that is whole.

        Raises:
            DamagedStateError: The log is not one file, but objects, which only the object store can restore.
        """
        if not isinstance(self.backend, FileBackend):
            raise DamagedStateError(
                f"{self.event_path(plan.plan_id)} is kept as many objects, of which one is damaged or gone.",
                hint="restore the object from an earlier version in the object store",
            )
        checkpoint: _Checkpoint | None = None
        with suppress(DamagedStateError):
            checkpoint = RunLog.read_checkpoint(self, plan)
        log = self.backend.read(_event_file(plan.plan_id)) or b""
        if checkpoint is None:
            return salvage(plan, log, None, b"", 0)
        return salvage(plan, log, checkpoint.run, checkpoint.last.encode() + b"\n", checkpoint.lines)

    def restore_run(self, plan: Plan, events: Sequence[Event], tag: str) -> str:
        """
        Put a log of *events* in place of the plan's log, which is kept beside itself under *tag*.

        Returns:
            Where the old log is now, as shown to people.
        """
        name = _event_file(plan.plan_id)
        lines = [_header(plan), *map(_line, events)]
        with self.backend.locked(plan.plan_id):
            if (old := self.backend.read(name)) is not None:
                self.backend.create(f"{name}.{tag}", old)
            # The run file first: without it, a crash in between leaves the log as damaged as before.
            self.backend.retire(_run_file(plan.plan_id), tag)
            self.backend.replace(name, b"".join(lines))
        return f"{self.event_path(plan.plan_id)}.{tag}"

    def exclusive(self, name: str) -> AbstractContextManager[None]:
        """Hold a lock that spans plans, such as the one on a target while a run begins."""
        return self.backend.locked(name)


class RunLog:
    """
    One plan's event log with its replay, for one thread; each thread of a worker opens its own.

    Args:
        brief: Take no done chunks from an up-to-date run file; only to look once, see :meth:`StateStore.runs`.

    Attributes:
        run: The replay as of the last :meth:`refresh` or :meth:`commit`.
        lines: How many lines of the log it holds.
    """

    def __init__(self, store: StateStore, plan: Plan, *, brief: bool = False) -> None:
        self.plan, self._brief = plan, brief
        self._store = store
        self._backend = store.backend
        self._generation = render_instant(plan.created_at)
        self._log = self._backend.log(plan.plan_id, self._generation)
        # An older plan's log that lies in the way, by its date; see _open_log.
        self._leftover = ""
        # The last checkpoint that we know of: its size, when we saw it, and how much was appended since.
        self._checkpoint_size, self._checkpoint_lines = 0, 0
        self._checkpoint_seen, self._grown = -_CHECKPOINT_SECONDS, 0
        self._stamp: object = _UNKNOWN
        self._forget()
        self._load_checkpoint()

    def _forget(self) -> None:
        """Start over before the first line."""
        self.run, self._position, self.lines, self._last = new_run(self.plan), 0, 0, b""
        self._closed = False
        # Lines that a commit has read and not folded yet.
        self._tail: deque[bytes] = deque()

    def _load_checkpoint(self) -> None:
        found = self.read_checkpoint(self._store, self.plan, brief=self._brief)
        if found is None:
            return
        self.run, self._position, self.lines = found.run, found.position, found.lines
        self._last = found.last.encode() + b"\n"
        self._checkpoint_size, self._checkpoint_lines = found.size, found.lines

    @staticmethod
    def read_checkpoint(store: StateStore, plan: Plan, *, brief: bool = False) -> _Checkpoint | None:
        """
        What the run file says; None when there is none.

        Raises:
            DamagedStateError: It does not hold this plan's run.
        """
        data, path = store.backend.read(_run_file(plan.plan_id)), store.run_path(plan.plan_id)
        if data is None:
            return None
        remedy = f"`{_command('repair', plan.plan_id)}` writes it again from the event log"
        try:
            found = _checkpoint_adapter().validate_json(_without_done(data) if brief else data)
        except ValidationError as error:
            _refuse_foreign(path, data)
            raise damaged(path, None, _reason(data, error), remedy) from None
        if found.format > FORMAT:
            raise _newer(path, found.format)
        if found.plan_id != plan.plan_id or found.run.plan_id != plan.plan_id:
            raise damaged(path, None, f"it belongs to plan {found.plan_id}", remedy)
        # Otherwise left by a crash between the steps that made room for this plan.
        found.size = len(data)
        return found if found.planned_at == plan.created_at else None

    def refresh(self) -> Run:
        """
        Fold what was appended since the last look; a torn last line is skipped.

        Raises:
            DamagedStateError: A line is not an event, or not one that may follow; names file and line.
            StateError: The plan was planned anew meanwhile.
        """
        self._fold()
        return self.run

    def _fold(self) -> bool:
        """Fold what is new; whether there was anything."""
        self._fold_tail()
        news = False
        while (lines := self._log.read(self._position, self._last)) != []:
            news = True
            if self._brief:
                # Events can be folded into a whole run only.
                self._brief = False
                self._forget()
                self._load_checkpoint()
            elif lines is None:
                self._start_over()
            elif not all(map(self._fold_line, lines)):
                break
        if self.lines < self._checkpoint_lines:
            raise self._shortened()
        return news

    def _fold_tail(self) -> None:
        while self._tail:
            # Taken out only then: a damaged line is met again by whoever looks next.
            self._apply_line(self._tail[0], self.lines - len(self._tail) + 1)
            self._tail.popleft()

    def _read_past_others(self, chunk_id: str) -> bool:
        """
        Read what is new, to be folded once the lock is free, if all of it is about other chunks than this one.

        With many workers on one run, folding each other's events under the lock would take most of a commit.
        """
        if not self.lines or self._brief:
            return False
        about = chunk_id.encode()
        while lines := self._log.read(self._position, self._last):
            if not all(line.startswith(_EVENT) and _CHUNK_EVENT in line and about not in line for line in lines):
                return False
            for line in lines:
                self._step_over(line)
            self._tail.extend(lines)
        return lines is not None and self.lines >= self._checkpoint_lines

    def _start_over(self) -> None:
        """
        Fold from the first line: the log is not the one we knew.

        What we read may have been taken back because it could not be made durable; or the plan
        was planned anew; or the log was cut, which shows when it ends before the checkpoint.
        """
        self._check_plan()
        self._forget()

    def _check_plan(self) -> None:
        current = self._store.find_plan(self.plan.plan_id)
        if current is None or current.created_at != self.plan.created_at:
            raise StateError(
                f"Plan {self.plan.plan_id} was {'removed' if current is None else 'planned anew'} "
                "while it was being worked on.",
                hint="run the new plan"
                if current
                else f"`{_command('status', self.plan.plan_id)}` shows what is there now",
            )

    def _shortened(self) -> DamagedStateError:
        plan_id = self.plan.plan_id
        return damaged(
            self._store.event_path(plan_id),
            self.lines + 1,
            f"{self._checkpoint_lines} lines were there when {self._store.run_path(plan_id)} was written, "
            f"and {self.lines} are now",
            _log_remedy(plan_id),
        )

    def _fold_line(self, line: bytes) -> bool:
        """Fold one line; False when the log is an older plan's and lies in the way."""
        if line == LOG_CLOSED:
            self._closed = True
            self._step_over(line)
            return True
        if not self._apply_line(line, self.lines + 1):
            return False
        self._step_over(line)
        return True

    def _apply_line(self, line: bytes, number: int) -> bool:
        """Apply line *number*; False when it is the first line of an older plan's log."""
        try:
            if number == 1:
                return self._fold_header(line)
            apply_event(self.run, event_adapter().validate_json(line))
        except (ValidationError, TransitionError) as error:
            reason = _reason(line, error) if isinstance(error, ValidationError) else error.message
            plan_id = self.plan.plan_id
            raise damaged(self._store.event_path(plan_id), number, reason, _log_remedy(plan_id)) from None
        return True

    def _step_over(self, line: bytes) -> None:
        self._position = self._log.advance(self._position, line)
        self.lines += 1
        self._grown += len(line)
        self._last = line

    def _fold_header(self, line: bytes) -> bool:
        path = self._store.event_path(self.plan.plan_id)
        _refuse_newer(path, line)
        header = LogOpened.model_validate_json(line)
        if header.plan_id != self.plan.plan_id:
            raise damaged(path, 1, f"it belongs to plan {header.plan_id}", _log_remedy(self.plan.plan_id))
        if header.planned_at == self.plan.created_at:
            self._leftover = ""
            return True
        # Either this plan is no longer the one in the folder, or a crash left the log of the one before it.
        self._check_plan()
        self._leftover = render_instant(header.planned_at)
        return False

    def commit(self, decide: Callable[[Run], Event | None], *, about: str = "") -> Event | None:
        """
        Append the event that *decide* returns for the run as of now, durably.

        What *decide* sees cannot change before its event is on disk; it returns None to append
        nothing, or raises. It may be called again when others were faster.

        Args:
            about: The chunk that the event is about, when *decide* looks at nothing else but that chunk and
                what is said of the whole run; what others do to other chunks is then not waited for.

        Returns:
            The event, once it is on disk.

        Raises:
            TransitionError: The run's present state does not allow the event.
            StateError: The event is not on disk, such as when the disk is full. After an error
                of a network the event may be there all the same; the next look tells.
        """
        # Made when first used, which takes tens of milliseconds: not while others wait for the lock.
        event_adapter()
        try:
            with self._log.locked():
                event = self._commit(decide, about)
        finally:
            self._fold_tail()
        if event is not None and self._is_checkpoint_due():
            self.write_checkpoint()
        return event

    def _commit(self, decide: Callable[[Run], Event | None], about: str) -> Event | None:
        # Not empty only after an error: nothing may be written behind a damaged line.
        self._fold_tail()
        pause, current = 0.0, not self._log.optimistic
        if current and not (about and self._read_past_others(about)):
            self._fold()
        while True:
            try:
                event = decide(self.run)
                if event is not None:
                    judge_event(self.run, event)
            except BackfillError:
                # What was refused for the run as we know it may be right for the run as it is.
                if current or not self._fold():
                    raise
                continue
            if event is None:
                if current or not self._fold():
                    return None
                continue
            line = _line(event)
            if self._closed:
                self._check_plan()
                raise StateError(
                    f"Plan {self.plan.plan_id} was being planned anew, and that was interrupted.",
                    hint="give the command `plan … --force` again",
                )
            began = time.monotonic()
            try:
                if self.lines == 0:
                    self._open_log()
                self._log.append(self._position, line)
            except ConflictError:
                # Without a pause, by the time it takes to meet, those who met would meet again at the next line.
                pause = min(pause * 2 or time.monotonic() - began, _PAUSE_SECONDS)
                time.sleep(random.uniform(0, pause))  # noqa: S311 - spreads load, keeps no secret
                self._fold()
                continue
            if self._tail:
                self._tail.append(line)
            else:
                apply_event(self.run, event)
            self._step_over(line)
            return event

    def _open_log(self) -> None:
        """Write the first line of a log, which says what the others are."""
        self._check_plan()
        if self._leftover:
            self._log.set_aside(self._leftover.replace(":", ""))
            self._leftover = ""
        line = _header(self.plan)
        self._log.append(0, line)
        self._step_over(line)

    def append(self, event: Event) -> None:
        """Commit *event* whatever else happened, as long as the run's present state allows it."""
        # The parts of a split must be no other's.
        about = event.chunk_id if isinstance(event, ChunkEvent) and not isinstance(event, ChunkSplit) else ""
        self.commit(lambda _: event, about=about)

    def checkpoint(self) -> None:
        """Write the run file as of now, unless the run goes on and the last one is good enough."""
        if self.run.status is RunStatus.RUNNING and not self._is_checkpoint_due():
            return
        with self._log.locked():
            self._fold()
            self._log.sync()
        self.write_checkpoint()
        if self.run.status is not RunStatus.RUNNING:
            self._log.publish(self._position)

    def _is_checkpoint_due(self) -> bool:
        if self._grown * _CHECKPOINT_GROWTH < self._checkpoint_size:
            return False
        if time.monotonic() - self._checkpoint_seen < _CHECKPOINT_SECONDS:
            return False
        # Not asked for when the run file was read: that is one request less for each who only reads.
        stamp = self._backend.stamp(_run_file(self.plan.plan_id))
        if self._stamp in (_UNKNOWN, stamp):
            return True
        # Another worker has just written it.
        self._stamp, self._checkpoint_seen, self._grown = stamp, time.monotonic(), 0
        return False

    def write_checkpoint(self) -> None:
        """Write the run file at once, if there is a log; every line that was folded must be durable."""
        if not self.lines:
            return
        counts = {"total": self.run.total, **{status.value: self.run.count(status) for status in ChunkStatus}}
        checkpoint = _Checkpoint(
            format=FORMAT,
            plan_id=self.plan.plan_id,
            planned_at=self.plan.created_at,
            status=self.run.status,
            chunk_counts=counts,
            position=self._position,
            lines=self.lines,
            last=self._last.decode().removesuffix("\n"),
            run=self.run,
        )
        data = _checkpoint_adapter().dump_json(checkpoint, by_alias=True, exclude_defaults=True) + b"\n"
        name = _run_file(self.plan.plan_id)
        self._backend.replace(name, data)
        self._stamp = self._backend.stamp(name)
        self._checkpoint_size, self._checkpoint_lines = len(data), self.lines
        self._checkpoint_seen, self._grown = time.monotonic(), 0


def _header(plan: Plan) -> bytes:
    header = LogOpened(format=FORMAT, plan_id=plan.plan_id, planned_at=plan.created_at)
    return header.model_dump_json(by_alias=True).encode() + b"\n"


def _line(event: Event) -> bytes:
    return event_adapter().dump_json(event, by_alias=True, exclude_none=True) + b"\n"


def _command(verb: str, plan_id: str) -> str:
    return f"clickhouse-backfill {verb} --plan-id {plan_id}"


def _plan_file(plan_id: str) -> str:
    return f"plans/{plan_id}.json"


def _run_file(plan_id: str) -> str:
    return f"runs/{plan_id}.json"


def _event_file(plan_id: str) -> str:
    return f"events/{plan_id}.ndjson"


def _plan_remedy(plan_id: str) -> str:
    return f"restore the file from a backup, or keep it aside and plan anew with `plan … --force` (plan {plan_id})"


def _log_remedy(plan_id: str) -> str:
    return f"restore the file from a backup, or run `{_command('repair', plan_id)}`, which keeps the damaged one aside"


def _reason(data: bytes, error: ValidationError) -> str:
    """Why bytes are not what they should be, in a few words."""
    if not data.strip(b"\0 \n"):
        return "it is empty"
    first = error.errors(include_url=False)[0]
    if first["type"] == "union_tag_invalid":
        return f"it is a {first['ctx']['tag']}, which this version does not know; a newer one may have written it"
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _refuse_newer(path: str, data: bytes) -> None:
    number = _object(data).get("format")
    if isinstance(number, int) and number > FORMAT:
        raise _newer(path, number)


def _refuse_foreign(path: str, data: bytes) -> None:
    """Say so when a file that could not be read is a newer version's, or another tool's in the same layout."""
    _refuse_newer(path, data)
    if "format" not in (found := _object(data)) and isinstance(found.get("chunks"), list):
        raise DamagedStateError(
            f"{path} was written by chkit's backfill plugin, whose runs this tool does not continue.",
            hint="choose another folder with --state-dir, and plan the window anew there",
        )


def _newer(path: str, number: int) -> DamagedStateError:
    return DamagedStateError(
        f"{path} was written by a newer version: it has format {number}, and this one reads up to {FORMAT}.",
        hint=_UPGRADE,
    )


def damaged(path: str, line: int | None, reason: str, remedy: str) -> DamagedStateError:
    """The error for a state file that does not hold what it must."""
    place = path if line is None else f"{path}, line {line}"
    return DamagedStateError(f"{place} is damaged: {reason}.", hint=remedy)
