"""Show the progress of a run as lines of text."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import IO, Protocol, Self

from ..core.events import ChunkDone, ChunkFailed, ChunkReleased, ChunkSplit, ChunkStarted, Event, RunThrottled
from ..core.failures import short_error
from ..core.instants import render_instant
from ..core.plain_text import show_bytes, show_number
from ..core.progress import Pace, ProgressMeter
from ..core.run_state import ChunkStatus, Run
from ..errors import BackfillError
from .console import write
from .text import show_count, show_seconds

# Up to _ALL_LINES chunks, every finished chunk has a line. In larger plans, _LINE_SECONDS seconds pass after a line
# before the line of the next finished chunk.
_ALL_LINES = 50
_LINE_SECONDS = 2.0
_MIDNIGHT = "T00:00:00.000Z"


class Progress(Protocol):
    """A display of a run while the run lasts; used as a context manager."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...

    def report(self, event: Event) -> None:
        """Show an event that a worker of this process wrote; any thread of these workers may call this method."""


class RateMeter:
    """The pace of a run and its time left, measured by comparing successive readings of the run."""

    def __init__(self, run: Run) -> None:
        self._meter = ProgressMeter(time.monotonic())
        self._seen = self._totals(run)

    @staticmethod
    def _totals(run: Run) -> tuple[int, int, int, int]:
        return ended(run), run.rows, run.read_rows, run.read_bytes

    def _look(self, run: Run) -> float:
        now, totals = time.monotonic(), self._totals(run)
        chunks, rows, read_rows, read_bytes = (after - before for after, before in zip(totals, self._seen, strict=True))
        if chunks > 0:
            self._meter.add(now, chunks, max(rows, 0), max(read_rows, 0), max(read_bytes, 0))
        self._seen = totals
        return now

    def pace(self, run: Run) -> Pace | None:
        """Return the recent work per second; None until a chunk has ended since the first reading."""
        return self._meter.pace(self._look(run))

    def seconds_left(self, run: Run) -> float | None:
        """Return the seconds until all chunks have ended; None until a chunk has ended since the first reading."""
        return self._meter.seconds_left(self._look(run), run.total - ended(run))

    def text(self, run: Run) -> str:
        """Return the time left and then the pace, in words; empty until a chunk has ended since the first reading."""
        pace, left = self.pace(run), self.seconds_left(run)
        if pace is None or left is None:
            return ""
        words = []
        if left:
            end = datetime.now().astimezone() + timedelta(seconds=left)
            words.append(f"about {show_seconds(left)} left, until {end:%H:%M}")
        words.append(
            f"{pace.chunks * 60:,.0f} chunks/min" if pace.chunks * 60 >= 10 else f"{pace.chunks * 60:.1f} chunks/min"
        )
        if pace.read_rows:
            words.append(f"reads {show_count(pace.read_rows)} rows/s, {show_bytes(pace.read_bytes)}/s")
        else:
            words.append(f"writes {show_count(pace.rows)} rows/s")
        return ", ".join(words)


def pace_payload(pace: Pace | None) -> dict[str, float | None]:
    """Return a pace as JSON, rounded to one decimal; all values are None if the pace is unknown."""
    names = ("chunksPerMinute", "rowsPerSecond", "rowsReadPerSecond", "bytesReadPerSecond")
    if pace is None:
        return dict.fromkeys(names)
    values = (pace.chunks * 60, pace.rows, pace.read_rows, pace.read_bytes)
    return {name: round(value, 1) for name, value in zip(names, values, strict=True)}


def ended(run: Run) -> int:
    """Return the number of chunks that are done or have failed permanently."""
    return run.count(ChunkStatus.DONE) + run.count(ChunkStatus.FAILED)


class EventText:
    """
    A narrator that describes events in lines of text.

    The narrator remembers the windows of running chunks, because only the event of an attempt's start has the window.

    Args:
        whole: Whether to include the server's remarks about its query plan in errors.
    """

    def __init__(self, *, whole: bool = False) -> None:
        self._windows: dict[str, str] = {}
        self._short: Callable[[str], str] = str if whole else short_error

    def tell(self, event: Event) -> str:
        """Return a line about the start or end of an attempt, or about a throttled run; empty for all other events."""
        match event:
            case ChunkStarted():
                where = f"  shard {event.shard}" if event.shard else ""
                self._windows[event.chunk_id] = chunk_window(event.start, event.end) + where
                return f"{self._windows[event.chunk_id]}  attempt {event.attempt} begins"
            case ChunkDone():
                rows = show_number(event.content.rows, "row")
                return f"{self._end(event.chunk_id)}  {rows} in {show_seconds(event.seconds)}"
            case ChunkFailed():
                then = "failed permanently" if event.final else "failed, will be retried"
                return f"{self._end(event.chunk_id)}  attempt {event.attempt} {then}: {self._short(event.message)}"
            case ChunkSplit():
                return f"{self._end(event.chunk_id)}  split into {len(event.parts)} parts: {self._short(event.message)}"
            case ChunkReleased():
                return f"{self._end(event.chunk_id)}  given back: {event.reason}"
            case RunThrottled():
                return f"waits: {event.reason}"
            case _:
                return ""

    def _end(self, chunk_id: str) -> str:
        return self._windows.pop(chunk_id, chunk_id)


def chunk_window(start_at: datetime, end_at: datetime) -> str:
    """Return a chunk's window in UTC, in short form: ``2025-01-01 to 2025-01-02``, ``2025-01-01 06:00 to 12:00``."""
    start, end = (render_instant(moment) for moment in (start_at, end_at))
    if {start[10:], end[10:]} == {_MIDNIGHT}:
        return f"{start[:10]} to {end[:10]}"
    # Repeat the day only if it changes, and omit zero seconds.
    first, last = (text.removesuffix("Z").removesuffix(".000").removesuffix(":00") for text in (start, end))
    return f"{first} to {last[11:] if start[:10] == end[:10] else last}".replace("T", " ")


class LineProgress:
    """
    A display of a run as plain lines.

    Each failure, split and wait has a line. Each finished chunk of a plan with up to 50 chunks has a line. In a larger
    plan, a finished chunk has a line only if the last line is at least two seconds old.

    Args:
        look: Returns the current run; called at the beginning and for each line.
        every: Whether all events that have a text have a line, for plans of any size.
    """

    def __init__(self, out: IO[str], look: Callable[[], Run], *, every: bool = False) -> None:
        self._out, self._look, self._every = out, look, every
        run = look()
        self._pace = RateMeter(run)
        self._pause = 0.0 if every or run.total <= _ALL_LINES else _LINE_SECONDS
        self._next = 0.0
        self._lock = threading.Lock()
        self._narrator = EventText(whole=every)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def report(self, event: Event) -> None:
        """Write the event's line, if one is due."""
        with self._lock:
            text = self._narrator.tell(event)
            wanted = bool(text) and (self._every or not isinstance(event, ChunkStarted | ChunkReleased))
            if not wanted or (isinstance(event, ChunkDone) and time.monotonic() < self._next):
                return
            self._next = time.monotonic() + self._pause
            try:
                run = self._look()
            except BackfillError:
                # The worker meets the same error and reports it.
                return
            pace = self._pace.text(run) if self._pause and isinstance(event, ChunkDone) else ""
            done = f"{run.count(ChunkStatus.DONE)}/{run.total}"
            write(self._out, f"{event.at:%H:%M:%S}Z  {done}  {text}" + (f"  ({pace})" if pace else ""))


class JsonLines:
    """
    A display of a run as JSON, one object per line, for log collectors.

    Each line is an event from the event log, with ``planId`` and ``level`` (``info``, ``warning`` or ``error``). Unless
    the log cannot be read, ``chunksDone`` and ``chunksTotal`` have the numbers of done and of all chunks.

    Args:
        look: Returns the current run.
    """

    def __init__(self, out: IO[str], plan_id: str, look: Callable[[], Run]) -> None:
        self._out, self._plan_id, self._look = out, plan_id, look
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def report(self, event: Event) -> None:
        """Write the event as one JSON line; safe to call from any thread."""
        level = "info"
        if isinstance(event, ChunkFailed):
            level = "error" if event.final else "warning"
        with self._lock:
            line = {"level": level, "planId": self._plan_id, **event.model_dump(mode="json", by_alias=True)}
            with suppress(BackfillError):
                run = self._look()
                line |= {"chunksDone": run.count(ChunkStatus.DONE), "chunksTotal": run.total}
            write(self._out, json.dumps(line))


class ChangeLog:
    """A display of a run for a watcher, with a plain line for each change of status or counts."""

    def __init__(self, out: IO[str], run: Run) -> None:
        self._out = out
        self._pace = RateMeter(run)
        self._last = ""

    def draw(self, run: Run) -> None:
        """Write a line if status or counts have changed since the last line."""
        line = counts_text(run)
        if line != self._last:
            self._last = line
            pace = self._pace.text(run)
            moment = f"{run.updated_at:%H:%M:%S}Z  " if run.updated_at else ""
            write(self._out, f"{moment}{line}" + (f"  ({pace})" if pace else ""))


def counts_text(run: Run) -> str:
    """Return one line with the run's status, its numbers of done and failed chunks, and its rows."""
    failed = run.count(ChunkStatus.FAILED)
    return (
        f"{run.status}: {run.count(ChunkStatus.DONE):,} of {run.total:,} chunks done"
        + (f", {failed:,} failed" if failed else "")
        + f", {show_number(run.rows, 'row')}"
    )
