"""
Work in Airflow's triggerer: wait for a plan or a window, and execute the chunks of a mapped task.

Only the plan's event log has state. So a trigger that is started again, in the same or another triggerer, continues
from the log. Blocking work runs in threads, and the triggerer's loop only awaits them.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from logging import Logger
from typing import Any, NamedTuple

from airflow.triggers.base import BaseTrigger, TriggerEvent

from .airflow_support.compat import AirflowException, AirflowFailException
from .airflow_support.fields import is_newest_first, parse_mapped_item
from .airflow_support.pace import Pace
from .airflow_support.session import airflow_errors, load_airflow_options, open_session
from .airflow_support.task_log import ChunkReporter
from .commands.poll import PollResult, poll_plan, poll_window
from .commands.run import RunFlags, run_plan
from .commands.session import Session
from .commands.status import window_status
from .core.instants import parse_instant
from .core.names import parse_table
from .core.plain_text import plain_line
from .core.plan import Plan
from .core.run_state import ChunkStatus, Run
from .core.window import Window

# The minimum time in seconds after a line, before the same line or a different line is logged.
_SAME_LINE_SECONDS = 300.0
_NEW_LINE_SECONDS = 15.0
# The maximum wait in seconds for the chunks of a cancelled trigger to stop.
_STOP_SECONDS = 20.0
# The minimum time in seconds between the start of a trigger and its event. If a task comes back before the scheduler
# has recorded the task's deferral, the scheduler fails the task ("the executor reported that the task instance
# finished, but its state is queued", Airflow 3.3.2). On a busy machine, the recording took 6 seconds.
_SETTLE_SECONDS = 10.0


class Watched(NamedTuple):
    """The subject of a wait (a plan, or a window of a target) and its state folder."""

    plan_id: str = ""
    target: str = ""
    window_from: str = ""
    window_to: str = ""
    fail_if_idle: bool = False
    state_dir: str | None = None
    options: Mapping[str, Any] | None = None

    def look(self, user: str) -> PollResult:
        """
        Poll the backfill once, and return the result.

        Raises:
            BackfillError: The plan does not exist, its files are damaged, an option or a bound is invalid, or the state
                folder cannot be read.
        """
        session = open_session(load_airflow_options({"state_dir": self.state_dir}, self.options), user)
        if self.plan_id:
            return poll_plan(session, self.plan_id, fail_if_idle=self.fail_if_idle)
        window = Window(parse_instant(self.window_from), parse_instant(self.window_to))
        return poll_window(session, parse_table(self.target, "target"), window)


class Progress:
    """A logger of polls at a readable pace: a new line every 15 seconds at most, an unchanged line every 5 minutes."""

    def __init__(self, log: Logger | Any) -> None:
        self._log, self._said, self._said_at = log, "", 0.0

    def tell(self, found: PollResult) -> None:
        """Log the line of a poll, unless a line was written recently. The last poll is always logged."""
        silent = time.monotonic() - self._said_at
        over = found.published is not None or found.lost
        if self._said and not over and silent < (_SAME_LINE_SECONDS if found.line == self._said else _NEW_LINE_SECONDS):
            return
        self._said, self._said_at = found.line, time.monotonic()
        say = self._log.warning if found.worrying else self._log.info
        say("%s", plain_line(found.line))


class BackfillStatusTrigger(BaseTrigger):
    """
    Wait for the backfill of a :class:`Watched`.

    The only event has *published* and *lost* of the last poll, and *final* (whether a retry is useless). If the poll
    raised an error, *lost* is that error's message, and *published* is None.
    """

    def __init__(self, *, poke_interval: float, **watched: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.poke_interval = poke_interval
        self.watched = Watched(**watched)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """
        Return the class and the arguments that recreate the trigger.

        The arguments are a dict by name, since a later version of the package may read them.
        """
        return f"{__name__}.{type(self).__name__}", {"poke_interval": self.poke_interval, **self.watched._asdict()}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until the backfill is completed or cannot complete, and then yield the only event."""
        progress, began = Progress(self.log), time.monotonic()
        while True:
            try:
                found = await asyncio.to_thread(self._look)
            except AirflowException as error:
                await _settle(began)
                yield _event(published=None, lost=str(error), final=isinstance(error, AirflowFailException))
                return
            progress.tell(found)
            if found.published is not None or found.lost:
                await _settle(began)
                yield _event(published=found.published, lost=found.lost, final=True)
                return
            await asyncio.sleep(self.poke_interval)

    def _look(self) -> PollResult:
        with airflow_errors():
            return self.watched.look("airflow:triggerer")


class BackfillChunkTrigger(BaseTrigger):
    """
    Execute the chunks of a window in the triggerer, one after the other, in a separate thread.

    The trigger does all of a chunk's work, not only the wait for a query that a worker has sent. The work consists of
    sending a few statements and waiting for ClickHouse. A thread can do this cheaply, while a task needs a process.
    Also, the server aborts the query of a lost client, and a deferred worker is a lost client. So one process owns a
    claim from start to end, as in a worker.

    Before the task defers, it checks everything and logs the chunks to replay. So the trigger may be started again at
    any time: the trigger continues with the remaining chunks in the log, and takes over the claims of a dead triggerer
    like the claims of any dead worker.

    The only event has *error* and *final* (whether a retry is useless). *error* is empty unless the run raised an
    error; a failed chunk raises none. The log has the results of the chunks.
    """

    def __init__(
        self,
        *,
        chunks: Mapping[str, Any],
        user: str,
        dag_id: str,
        clickhouse_conn_id: str,
        state_dir: str | None,
        options: Mapping[str, Any] | None,
        flags: Mapping[str, bool],
        pace: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.arguments: dict[str, Any] = {
            "chunks": chunks,
            "user": user,
            "dag_id": dag_id,
            "clickhouse_conn_id": clickhouse_conn_id,
            "state_dir": state_dir,
            "options": options,
            "flags": flags,
            # Triggers that an earlier version of the package stored have None here.
            "pace": pace or {},
        }
        self._worker: Any = None
        self._stopped = ""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and the arguments that recreate the trigger."""
        return f"{__name__}.{type(self).__name__}", self.arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Execute the remaining chunks, then yield the only event. Stop the chunks if Airflow cancels the trigger."""
        # Use a separate pool, because the loop's default pool is small and other triggers need its threads.
        pool = ThreadPoolExecutor(1, thread_name_prefix="backfill-trigger")
        began = time.monotonic()
        try:
            work = asyncio.get_running_loop().run_in_executor(pool, copy_context().run, self._execute)
            try:
                event = await asyncio.shield(work)
            except asyncio.CancelledError:
                # A person changed the task's state, the task timed out, or the triggerer stops. In each case, kill the
                # query and release the chunk, so that another worker can continue.
                self._stop("the wait in the triggerer was cancelled")
                await asyncio.wait([work], timeout=_STOP_SECONDS)
                raise
        finally:
            pool.shutdown(wait=False)
        await _settle(began)
        yield _event(**event)

    def _stop(self, reason: str) -> None:
        self._stopped = reason
        if self._worker is not None:
            self._worker.stop(reason)

    def _execute(self) -> dict[str, Any]:
        """Execute the chunks in the calling thread, and return *error* and *final* of the event."""
        try:
            with airflow_errors():
                self._run_chunks()
        except AirflowException as error:
            return {"error": str(error), "final": isinstance(error, AirflowFailException)}
        return {"error": "", "final": False}

    def _run_chunks(self) -> None:
        given = self.arguments
        plan_id, window = parse_mapped_item(given["chunks"])
        session = open_session(
            load_airflow_options({"state_dir": given["state_dir"]}, given["options"]),
            given["user"],
            given["clickhouse_conn_id"],
        )
        if _is_over(session, plan_id, window):
            return

        reporter = ChunkReporter(self.log, given["dag_id"])

        def begin(worker: Any, plan: Plan, _: Run) -> None:
            reporter.begin(plan)
            self._worker = worker
            if self._stopped:
                worker.stop(self._stopped)

        with reporter:
            run_plan(
                session,
                plan_id,
                flags=RunFlags(**given["flags"]),
                parallel=1,
                window=window,
                on_start=begin,
                report=reporter,
                newest_first=is_newest_first(given["chunks"]),
                **Pace(**given["pace"]).arguments(),
            )


def _is_over(session: Session, plan_id: str, window: Window) -> bool:
    """
    Return whether nothing is left to execute.

    Nothing is left if the run is cancelled or undone, or if no chunk of the window is pending or running: for example,
    if a trigger is started again after its last chunk.
    """
    status = window_status(session, plan_id, window)
    left = status.counts[ChunkStatus.PENDING] + status.counts[ChunkStatus.RUNNING]
    return status.status.is_cancelled or not left


async def _settle(began: float) -> None:
    await asyncio.sleep(max(0.0, began + _SETTLE_SECONDS - time.monotonic()))


def _event(**payload: Any) -> TriggerEvent:
    return TriggerEvent(payload)  # type: ignore[no-untyped-call]
