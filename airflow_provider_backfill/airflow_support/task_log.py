"""
Report running chunks from a task: lines in its log, and Airflow's metrics.

Reports work in a worker and in the triggerer. In the triggerer, Airflow finds a task's log by context variables, which
threads do not inherit. So the reporter keeps the context of its creator.

Each write costs processor time in Airflow's supervisor of the task, whatever the number of lines. In the triggerer,
each write even makes Airflow query its database for triggers. So the reporter holds lines about chunks that begin and
end, and writes the lines of a second together.

The metrics have the tags ``target`` and ``dag_id``. They are the counters ``clickhouse_backfill.chunks_done``,
``.chunks_failed``, ``.chunk_retries`` and ``.rows``, and the timing ``.chunk_seconds``, which Airflow sends in
milliseconds like all its timings.
"""

import threading
from collections.abc import Callable
from contextvars import copy_context
from datetime import datetime, timedelta
from functools import partial
from logging import Logger
from typing import Any, Self

from ..core.events import ChunkDone, ChunkFailed, ChunkReleased, ChunkSplit, ChunkStarted, Event
from ..core.failures import short_error
from ..core.instants import render_instant
from ..core.names import show_table
from ..core.plain_text import plain_line, show_number
from ..core.plan import Plan
from ..core.sql import query_id
from .compat import Stats
from .fields import show_window

_PREFIX = "clickhouse_backfill"
_HOLD_SECONDS = 1.0
_ChunkEvent = ChunkStarted | ChunkDone | ChunkFailed | ChunkSplit | ChunkReleased


class ChunkReporter:
    """
    A reporter that logs and counts a worker's events; any of the worker's threads may call the reporter.

    The reporter is a context manager. Within the context, lines are written once per second, and warnings and errors
    immediately. If a chunk ends before the line about its start is written, that line is dropped.
    """

    def __init__(self, log: Logger | Any, dag_id: str) -> None:
        self._log, self._dag_id = log, dag_id
        self._plan_id, self._tags = "", {"dag_id": dag_id}
        self._context = copy_context()
        # For each running chunk, by its id: the window as text, and the start time.
        self._began: dict[str, tuple[str, datetime]] = {}
        # The held lines in order. A line about a chunk's start has the chunk's id, every other line has empty text.
        self._held: list[tuple[str, Callable[[], None]]] = []
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._writer = threading.Thread(target=self._write_regularly, name="backfill-lines", daemon=True)

    def __enter__(self) -> Self:
        """Start the thread that writes the held lines once per second."""
        self._writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Write the remaining lines, and end the thread."""
        self._ended.set()
        self._writer.join()

    def _write_regularly(self) -> None:
        while not self._ended.wait(_HOLD_SECONDS):
            self._flush()
        self._flush()

    def begin(self, plan: Plan) -> None:
        """Set the plan of the events. Call this method before the first event."""
        self._plan_id = plan.plan_id
        self._tags = {"target": show_table(plan.target), "dag_id": self._dag_id}

    def __call__(self, event: Event) -> None:
        """Log an event of the worker, and count its metrics; safe to call from any thread."""
        # Only one thread at a time can enter a context, so each call enters a copy.
        self._context.copy().run(self._tell, event)

    def _flush(self) -> None:
        # Write under the lock: another thread may flush a later line.
        with self._lock:
            held, self._held = self._held, []
            for _, write in held:
                self._context.copy().run(write)

    def _tell(self, event: Event) -> None:
        match event:
            case ChunkStarted():
                window = show_window(render_instant(event.start), render_instant(event.end))
                self._began[event.chunk_id] = window, event.at
                self._say(self._log.info, event, "begins")
            case ChunkDone():
                self._say(self._log.info, event, f"{show_number(event.content.rows, 'row')} in {event.seconds:g} s")
                self._count("chunks_done")
                self._count("rows", event.content.rows)
                Stats.timing(f"{_PREFIX}.chunk_seconds", timedelta(seconds=event.seconds), tags=self._tags)
            case ChunkFailed():
                then = "failed permanently" if event.final else "will be retried"
                level = self._log.error if event.final else self._log.warning
                _, began = self._began.get(event.chunk_id, ("", event.at))
                self._say(
                    level, event, short_error(event.message), f"{then}, {(event.at - began).total_seconds():.1f} s, "
                )
                self._count("chunks_failed" if event.final else "chunk_retries")
            case ChunkSplit():
                self._say(self._log.warning, event, f"split into {len(event.parts)} parts: {event.message}")
            case ChunkReleased():
                self._say(self._log.warning, event, f"given back: {event.reason}")
            case _:
                pass

    def _count(self, name: str, number: int = 1) -> None:
        Stats.incr(f"{_PREFIX}.{name}", number, tags=self._tags)

    def _say(self, level: Callable[..., None], event: _ChunkEvent, what: str, more: str = "") -> None:
        """
        Hold a line with the window and result of an event. For a failure, a split or a release, write all held lines.

        Every event but a start removes the recorded start of the chunk, and the held line about this start. The query
        id contains the ids of plan and chunk.
        """
        window, _ = self._began.get(event.chunk_id, (f"chunk {event.chunk_id}", event.at))
        if not isinstance(event, ChunkStarted):
            self._began.pop(event.chunk_id, None)
        query = query_id(self._plan_id, event.chunk_id, event.attempt)
        write = partial(level, "%s: %s (%sattempt %s, query %s)", window, plain_line(what), more, event.attempt, query)
        begins = isinstance(event, ChunkStarted)
        with self._lock:
            if not begins:
                self._held = [line for line in self._held if line[0] != event.chunk_id]
            self._held.append((event.chunk_id if begins else "", write))
        if not isinstance(event, ChunkStarted | ChunkDone):
            self._flush()
