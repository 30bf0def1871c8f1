"""Read and write the event log of one run. :func:`.replay.judge_event` judges each event before it is written."""

import random
import time
from collections import deque
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass

from ..core.events import ChunkEvent, ChunkSplit, Event, event_adapter
from ..core.instants import render_instant
from ..core.model import FORMAT, Instant
from ..core.plan import Plan
from ..core.replay import apply_event, judge_event, new_run
from ..core.run_state import Run, RunStatus
from ..errors import Advice, BackfillError, Command, DamagedStateError, Flag, Remedy, StateError, TransitionError
from .backend import LOG_CLOSED, ConflictError
from .damage import damage_reason, damaged, other_format, refuse_foreign, refuse_other_format
from .layout import run_file
from .log_lines import CHUNK_EVENT, EVENT, LogOpened, event_line, log_header

if TYPE_CHECKING:
    from .store import StateStore


_CHECKPOINT_SECONDS = 1.0
_CHECKPOINT_GROWTH = 4
"""The divisor of the run file's size: a new run file is due after the log has grown by this share of the size."""
_PAUSE_SECONDS = 2.0
"""The longest pause after a conflict with another writer, in seconds."""


_UNKNOWN = object()


@dataclass(config={"extra": "forbid", "alias_generator": to_camel, "populate_by_name": True, "defer_build": True})
class Checkpoint:
    """
    The content of a run file: a replay of the log up to *position*.

    Attributes:
        lines: Number of lines up to *position*.
        last: The last of these lines, without its newline. A log in which this line does not end at *position*
            was replaced or cut.
        status: The status of the run. Only people read this key and *chunk_counts*.
        size: Size of the run file in bytes; not stored.
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
def _checkpoint_adapter() -> TypeAdapter[Checkpoint]:
    return TypeAdapter(Checkpoint)


_DONE, _DONE_LETTERS = b'"done":{', b'0123456789abcdef"[]:,.+-'


def _without_done(data: bytes) -> bytes:
    """
    Return a run file without its done chunks, which make up most of its size and parsing time.

    Done chunks are lists of numbers, so the next brace ends them. Quotes in strings are escaped, so no text looks like
    the key. A file without done chunks, or with other content in this place, is returned unchanged.
    """
    start = data.find(_DONE) + len(_DONE)
    end = data.find(b"}", start)
    if start < len(_DONE) or end < 0 or data[start:end].translate(None, _DONE_LETTERS):
        return data
    return data[:start] + data[end:]


class RunLog:
    """
    One plan's event log and its replay, for one thread. Each thread of a worker opens a separate log.

    Args:
        brief: Whether to skip the done chunks of an up-to-date run file; for a single read only, see
            :meth:`StateStore.runs`.

    Attributes:
        run: The replay as of the last :meth:`refresh` or :meth:`commit`.
        lines: Number of lines that were read or written, including the header.
    """

    def __init__(self, store: "StateStore", plan: Plan, *, brief: bool = False) -> None:
        self.plan, self._brief = plan, brief
        self._store = store
        self._backend = store.backend
        self._generation = render_instant(plan.created_at)
        self._log = self._backend.log(plan.plan_id, self._generation)
        # The planning date of an older plan's log that has this log's name; empty without such a log. See _open_log.
        self._leftover = ""
        # The last known checkpoint: its size in bytes, its number of lines, the monotonic time in seconds when it was
        # seen, and the bytes of log lines that were read or written since.
        self._checkpoint_size, self._checkpoint_lines = 0, 0
        self._checkpoint_seen, self._grown = -_CHECKPOINT_SECONDS, 0
        self._stamp: object = _UNKNOWN
        self._forget()
        self._load_checkpoint()

    def _forget(self) -> None:
        """Reset the replay to the state before the first line."""
        self.run, self._position, self.lines, self._last = new_run(self.plan), 0, 0, b""
        self._closed = False
        # Lines that a commit has read or written and not yet applied.
        self._tail: deque[bytes] = deque()

    def _load_checkpoint(self) -> None:
        found = self.read_checkpoint(self._store, self.plan, brief=self._brief)
        if found is None:
            return
        self.run, self._position, self.lines = found.run, found.position, found.lines
        self._last = found.last.encode() + b"\n"
        self._checkpoint_size, self._checkpoint_lines = found.size, found.lines

    @staticmethod
    def read_checkpoint(store: "StateStore", plan: Plan, *, brief: bool = False) -> Checkpoint | None:
        """
        Return the checkpoint in the run file; None without a run file, or if the file is an earlier plan's.

        Raises:
            DamagedStateError: The file is unreadable or damaged, contains another plan's run, or another version or
                tool wrote it.
            StateError: The state folder cannot be read.
        """
        data, path = store.backend.read(run_file(plan.plan_id)), store.run_path(plan.plan_id)
        if data is None:
            return None
        remedy = Advice("`{}` writes it again from the event log", Command("repair", plan.plan_id))
        try:
            found = _checkpoint_adapter().validate_json(_without_done(data) if brief else data)
        except ValidationError as error:
            refuse_foreign(path, data)
            raise damaged(path, None, damage_reason(data, error), remedy) from None
        if found.format != FORMAT:
            raise other_format(path, found.format)
        if found.plan_id != plan.plan_id or found.run.plan_id != plan.plan_id:
            raise damaged(path, None, f"it belongs to plan {found.plan_id}", remedy)
        found.size = len(data)
        # An older run file remains if a crash interrupted the replacement of a plan.
        return found if found.planned_at == plan.created_at else None

    def refresh(self) -> Run:
        """
        Apply the lines appended since the last refresh, and return the run; skip an incomplete last line.

        Raises:
            DamagedStateError: A line is invalid or may not follow the earlier lines, the log belongs to another plan,
                or it has lost lines since the last checkpoint. The message names the file, and the line if one is at
                fault.
            StateError: The plan was removed or planned again meanwhile, or the log cannot be read.
        """
        self._fold()
        return self.run

    def _fold(self) -> bool:
        """Apply the new lines; return whether the log has changed since the last read."""
        self._fold_tail()
        news = False
        while (lines := self._log.read(self._position, self._last)) != []:
            news = True
            if self._brief:
                # Events can only be applied to a complete run.
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
            # Remove a line only after it was applied, so that a damaged line raises the error again next time.
            self._apply_line(self._tail[0], self.lines - len(self._tail) + 1)
            self._tail.popleft()

    def _read_past_others(self, chunk_id: str) -> bool:
        """
        Read the new lines without applying them, if all of them are events of chunks other than *chunk_id*.

        The commit applies these lines after it has released the lock. With many workers on one run, applying them under
        the lock would take most of a commit.

        Returns:
            Whether all new lines were read in this way. If not, the caller has to apply the new lines.
        """
        if not self.lines or self._brief:
            return False
        about = chunk_id.encode()
        while lines := self._log.read(self._position, self._last):
            if not all(line.startswith(EVENT) and CHUNK_EVENT in line and about not in line for line in lines):
                return False
            for line in lines:
                self._step_over(line)
            self._tail.extend(lines)
        return lines is not None and self.lines >= self._checkpoint_lines

    def _start_over(self) -> None:
        """
        Reset the replay to the first line, because the log differs from the lines that were read.

        There are three reasons. A line that was read may have been removed because it could not be made durable. The
        plan may have been planned again. The log may have been cut; then it ends before the checkpoint.

        Raises:
            StateError: The plan was removed or planned again.
        """
        self._check_plan()
        self._forget()

    def _check_plan(self) -> None:
        current = self._store.find_plan(self.plan.plan_id)
        if current is None or current.created_at != self.plan.created_at:
            raise StateError(
                f"Plan {self.plan.plan_id} was {'removed' if current is None else 'planned again'} "
                "while it was being worked on.",
                remedy=Advice("run the new plan")
                if current
                else Advice("`{}` shows what is there now", Command("status", self.plan.plan_id)),
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
        """Apply one line, or note the closing line; return False if the log belongs to an older plan."""
        if line == LOG_CLOSED:
            self._closed = True
            self._step_over(line)
            return True
        if not self._apply_line(line, self.lines + 1):
            return False
        self._step_over(line)
        return True

    def _apply_line(self, line: bytes, number: int) -> bool:
        """Apply line *number*; return False if it is the first line of an older plan's log."""
        try:
            if number == 1:
                return self._fold_header(line)
            apply_event(self.run, event_adapter().validate_json(line))
        except (ValidationError, TransitionError) as error:
            reason = damage_reason(line, error) if isinstance(error, ValidationError) else error.message
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
        refuse_other_format(path, line)
        header = LogOpened.model_validate_json(line)
        if header.plan_id != self.plan.plan_id:
            raise damaged(path, 1, f"it belongs to plan {header.plan_id}", _log_remedy(self.plan.plan_id))
        if header.planned_at == self.plan.created_at:
            self._leftover = ""
            return True
        # If the folder has a newer plan, this check raises. Otherwise a crash has left the log of an older plan.
        self._check_plan()
        self._leftover = render_instant(header.planned_at)
        return False

    def commit(self, decide: Callable[[Run], Event | None], *, about: str = "") -> Event | None:
        """
        Append the event that *decide* returns for the current run, durably.

        *decide* returns None or raises an error to append nothing. On a file system, the run contains all
        earlier events, except that events of other chunks may be missing if *about* is given. On an object store,
        *decide* may first get an older run. *decide* is then called again with a newer run if another writer was first
        or nothing would be appended.

        Args:
            about: The chunk of the event, if *decide* reads only this chunk and events about the whole run. The commit
                then does not wait for events of other chunks.

        Returns:
            The event, which is on disk; None if *decide* returned None.

        Raises:
            TransitionError: The run's state does not allow the event. An error of *decide* is raised, too.
            DamagedStateError: A new line of the log is damaged.
            StateError: The plan was removed or planned again, or the event or the run file could not be written, for
                example because the disk is full. The event may exist nevertheless, for example after a network error.
                The next refresh shows whether the event exists.
        """
        # Build the adapter before other writers wait for the lock, because the first build takes tens of milliseconds.
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
        # The tail has lines here only after an error. Apply these lines first, to write nothing after a damaged line.
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
                # An event that the known state refuses may be valid for the newest state.
                if current or not self._fold():
                    raise
                continue
            if event is None:
                if current or not self._fold():
                    return None
                continue
            line = event_line(event)
            if self._closed:
                self._check_plan()
                raise StateError(
                    f"Plan {self.plan.plan_id} was being planned again, and that was interrupted.",
                    remedy=Advice("plan again with {}", Flag("--force")),
                )
            began = time.monotonic()
            try:
                if self.lines == 0:
                    self._open_log()
                self._log.append(self._position, line)
            except ConflictError:
                # Back off with jitter; otherwise the same writers would conflict again at the next line.
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
        """Write the first line, which names the plan and the format; first rename the log of an older plan, if any."""
        self._check_plan()
        if self._leftover:
            self._log.set_aside(self._leftover.replace(":", ""))
            self._leftover = ""
        line = log_header(self.plan)
        self._log.append(0, line)
        self._step_over(line)

    def append(self, event: Event) -> None:
        """Commit *event*; raise the errors of :meth:`commit`, such as a TransitionError if the event is not allowed."""
        # A split is judged against all chunks, because its parts must be new to the whole run.
        about = event.chunk_id if isinstance(event, ChunkEvent) and not isinstance(event, ChunkSplit) else ""
        self.commit(lambda _: event, about=about)

    def checkpoint(self) -> None:
        """
        Sync the log and write the run file.

        While the run is running, do nothing if the last run file is recent or the log has grown little. If the run is
        not running, also publish the log.
        """
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
        # Fetch the stamp only here, to save one request for callers that only read.
        stamp = self._backend.stamp(run_file(self.plan.plan_id))
        if self._stamp in (_UNKNOWN, stamp):
            return True
        # Another worker has just written the run file.
        self._stamp, self._checkpoint_seen, self._grown = stamp, time.monotonic(), 0
        return False

    def write_checkpoint(self) -> None:
        """Write the run file now if there is a log. All applied lines must be durable."""
        if not self.lines:
            return
        counts = self.run.chunk_counts
        checkpoint = Checkpoint(
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
        name = run_file(self.plan.plan_id)
        self._backend.replace(name, data)
        self._stamp = self._backend.stamp(name)
        self._checkpoint_size, self._checkpoint_lines = len(data), self.lines
        self._checkpoint_seen, self._grown = time.monotonic(), 0


def _log_remedy(plan_id: str) -> Remedy:
    repair = Command("repair", plan_id)
    return Advice("restore the file from a backup, or run `{}`, which keeps the damaged one aside", repair)
