"""
Execute a plan's chunks as a worker: claim chunks, execute them, keep the claims alive, and stop on request.

Each thread executes one chunk at a time. A further thread watches the log for a cancel or a pause, sends heartbeats,
and kills the queries of a stopping worker. All state of the run is in the log, so any worker can replace a dead worker.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

from ..clickhouse.attempt import Attempt, Step, kill_queries
from ..clickhouse.client import ClickHouse
from ..clickhouse.cluster import one_server
from ..clickhouse.execute import run_attempt
from ..clickhouse.fence import Fence, WindowTakenError
from ..core.events import (
    ChunkDone,
    ChunkFailed,
    ChunkReleased,
    ChunkSplit,
    ChunkVerified,
    Event,
    RunThrottled,
    WorkerHeartbeat,
)
from ..core.facts import TableFacts
from ..core.hours import ANY_TIME, Schedule
from ..core.instants import render_instant
from ..core.masking import mask_message
from ..core.plan import Chunk, Plan
from ..core.planner import thread_settings
from ..core.replay import expand
from ..core.retry import retry_delay
from ..core.run_state import ChunkState, ChunkStatus, ContentSums, Run, Staged
from ..core.tables import TableName
from ..core.window import Slice, Window
from ..errors import (
    BackfillError,
    RequestError,
    ServerError,
    ServerUnreachableError,
    TransitionError,
    VerificationError,
)
from ..state.run_log import RunLog
from ..state.store import StateStore
from .claims import Claims
from .filled_windows import rivals
from .lease import LEASE_SECONDS, new_owner, utc_now
from .neighbours import neighbours
from .outcomes import Outcomes
from .staged_tables import Place, StagedTables
from .waiting import wait_for

_WATCH_SECONDS = 0.5
_WIDTH_SECONDS = 0.2
_HOLD_SECONDS = 1.0
_HOLD_SAID_SECONDS = 30.0
_HOLD_SAID_MOST_SECONDS = 3600.0
MAX_FAILURES_IN_A_ROW = 10


class StopRequested(Exception):  # noqa: N818 - no error, and caught where the attempt ends
    """The signal that ends an attempt at a step, after the worker was told to stop."""


class Worker:
    """
    A worker that executes the chunks of one plan on one server or shard.

    Args:
        retries: Total number of attempts per chunk.
        retry_delay_ms: Milliseconds to wait after the first failed attempt; doubled with each further attempt.
        report: Called with each event that this worker writes, except heartbeats, from any of its threads.
        step: Called with each step of an attempt; for tests that stop a worker there.
        lease_seconds: Seconds for which the worker's claims hold after its last heartbeat.
        fence: The fence that keeps other runs out of the plan's window; None if there is none.
        gate: Returns why the next chunk has to wait; empty if it may start.
        schedule: When chunks may start.
        newest_first: Whether to begin with the end of the window.
        max_failures: The number of consecutive permanently failed chunks after which the worker stops.
        on_behalf_of: The user or task that gave the command, for the claims in the log.
        check_target: Called before the last chunk is recorded. Raises if the target is another table than at the start.
        replicated: The replicated tables of the plan, each with its cluster (empty for a table read locally).
    """

    def __init__(
        self,
        server: ClickHouse,
        store: StateStore,
        plan: Plan,
        target: TableFacts,
        *,
        retries: int,
        retry_delay_ms: float,
        report: Callable[[Event], None] = lambda _: None,
        step: Callable[[Step], None] = lambda _: None,
        lease_seconds: float = LEASE_SECONDS,
        gate: Callable[[], str] = lambda: "",
        schedule: Schedule = ANY_TIME,
        newest_first: bool = False,
        fence: Fence | None = None,
        max_failures: int = MAX_FAILURES_IN_A_ROW,
        on_behalf_of: str = "",
        check_target: Callable[[], None] = lambda: None,
        replicated: tuple[tuple[TableName, str], ...] = (),
    ) -> None:
        self.owner = new_owner()
        self._claims = Claims(plan.plan_id, self.owner, lease_seconds, on_behalf_of, plan.shard)
        self._server, self._store, self._plan, self._target = server, store, plan, target
        self._staged = StagedTables(server, store, plan, target)
        self._places: dict[str, Place] = {}
        self._outcomes = Outcomes(server, plan, target, self.owner, retries)
        self._retry_delay_ms, self._lease = retry_delay_ms, lease_seconds
        self._report, self._step = report, step
        self._replicated, self._check_target = replicated, check_target
        self._gate, self._fence, self._max_failures = gate, fence, max_failures
        self._schedule, self._newest_first = schedule, newest_first
        self._failures_in_a_row = 0
        # Whether the next chunk is probably empty: no attempt has succeeded yet, or the last success had no rows.
        self._sparse = True
        self._held_said = -_HOLD_SAID_SECONDS
        self._paced, self._parallel = 0, 1
        self._stopping = threading.Event()
        self._reason = ""
        self._active: set[str] = set()
        self._error: Exception | None = None

    @property
    def reason(self) -> str:
        """Why the worker stopped before all chunks ended; empty if the worker has not stopped early."""
        return self._reason

    def drop_staged(self) -> None:
        """Drop the remaining staging tables of done and refused chunks. Call this after :meth:`run` has ended."""
        self._staged.drop_rest()

    def stop(self, reason: str) -> None:
        """Tell all threads to release their chunks and end; return at once. Safe to call from a signal handler."""
        if not self._stopping.is_set():
            self._reason = reason
            self._stopping.set()

    def run(self, chunks: Callable[[Run], Iterator[Chunk]], parallel: int) -> None:
        """
        Execute the pending chunks, *parallel* at a time, and wait for chunks of other workers.

        Chunks of dead workers are taken over. An embedded engine executes one chunk at a time.

        Args:
            chunks: Yields, for a state of the run, the chunks that this worker may take.
            parallel: The number of parallel chunks, until the user sets a number for all workers of the run.

        Raises:
            StateError: The state folder failed; the next worker takes over the claimed chunks.
            ServerError: The server could not be reached to stop the queries.
        """
        self._parallel = parallel
        watcher = threading.Thread(target=self._guard, args=(self._watch,), name="backfill-watch", daemon=True)
        ended = self._ended = threading.Event()
        watcher.start()
        try:
            while not self._is_over():
                log = self._store.open_run(self._plan)
                moment = utc_now()
                ready = [
                    chunk
                    for chunk in chunks(log.run)
                    if (state := log.run.state(chunk.id)).status is ChunkStatus.PENDING
                    or (state.status is ChunkStatus.RUNNING and self._claims.is_dead(log.run, state.owner, moment))
                ]
                if self._newest_first:
                    ready.reverse()
                if ready:
                    self._work_through(ready, parallel)
                elif any(log.run.state(chunk.id).status is ChunkStatus.RUNNING for chunk in chunks(log.run)):
                    self._stopping.wait(_WATCH_SECONDS)
                else:
                    break
        finally:
            ended.set()
            watcher.join()
            self._staged.wait()
        if self._error is not None:
            raise self._error

    def _work_through(self, ready: list[Chunk], parallel: int) -> None:
        queue = iter(ready)
        lock = threading.Lock()
        drained = threading.Event()
        ended: dict[int, threading.Event] = {}

        def width() -> int:
            return 1 if self._server.embedded else min(self._paced or parallel, len(ready))

        def work(number: int) -> None:
            log = self._store.open_run(self._plan)
            while not self._stopping.is_set() and number < width():
                with lock:
                    chunk = None if self._is_over() else next(queue, None)
                if chunk is None:
                    drained.set()
                    return
                self._execute(log, chunk)

        def work_and_tell(number: int, end: threading.Event) -> None:
            try:
                self._guard(lambda: work(number))
            finally:
                end.set()

        try:
            while not (drained.is_set() or self._stopping.is_set()):
                for number in range(width()):
                    if number not in ended or ended[number].is_set():
                        end = ended[number] = threading.Event()
                        name = f"backfill-{number}"
                        threading.Thread(target=work_and_tell, args=(number, end), name=name, daemon=True).start()
                drained.wait(_WIDTH_SECONDS)
            wait_for(list(ended.values()))
        except BaseException as error:
            # A timeout or an interrupt ends this thread, and the other threads must not continue alone.
            self.stop(f"interrupted by {type(error).__name__}")
            wait_for(list(ended.values()))
            raise

    def _guard(self, work: Callable[[], None]) -> None:
        """Run one thread's work. The first error stops the other threads, and :meth:`run` raises it."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 - raised again by run(); a thread that just died would hang it
            self._error = self._error or error
            self.stop(
                error.message if isinstance(error, BackfillError) else mask_message(f"{type(error).__name__}: {error}")
            )

    def _watch(self) -> None:
        log = self._store.open_run(self._plan)
        alive_until = time.monotonic()
        while not self._ended.is_set():
            run = log.refresh()
            self._paced = run.parallel
            if run.cancelled:
                self.stop("the run was cancelled")
            elif run.pause_holds:
                self.stop("the run was paused")
            if self._stopping.is_set() and self._active:
                for chunk in list(self._active):
                    kill_queries(self._server, self._plan.plan_id, chunk)
            if self._active and time.monotonic() >= alive_until:
                log.append(WorkerHeartbeat(at=utc_now(), by=self.owner, lease_seconds=self._lease))
                alive_until = time.monotonic() + self._lease / 3
                # The attempt itself reports a server that does not answer.
                with suppress(ServerError):
                    self._fenced()
            self._ended.wait(0.05 if self._stopping.is_set() else _WATCH_SECONDS)

    def _fenced(self) -> None:
        """Check the fence, if there is one; raise as :meth:`.Fence.hold` if another run has taken the window."""
        if self._fence is not None:
            self._fence.hold()

    def _append(self, log: RunLog, event: Event) -> None:
        log.append(event)
        self._report(event)

    def _execute(self, log: RunLog, chunk: Chunk) -> None:
        """Attempt a chunk, or its parts after a split, until it is done, failed, released or claimed elsewhere."""
        while not self._is_over():
            self._wait_for_turn(log)
            self._wait_for_room(log)
            if self._is_over():
                return
            started = self._claims.claim(log, chunk)
            if started is None:
                if self._claims.is_full(log.run):
                    continue
                return
            self._report(started)
            claim = log.run.state(chunk.id)
            self._active.add(chunk.id)
            began = time.monotonic()
            try:
                self._step(Step.CLAIM)
                outcome = self._attempt(log, chunk, claim, began)
            finally:
                self._active.discard(chunk.id)
            place, done = self._places.pop(chunk.id, None), isinstance(outcome, ChunkDone)
            # Read the staged table before the outcome is logged, since the run forgets the table of a done chunk.
            staged = log.run.state(chunk.id).staged
            try:
                self._append(log, outcome)
            except TransitionError:
                return
            self._step(Step.RECORDED)
            if place is not None:
                needed = log.run.state(chunk.id).staged
                self._staged.leave(place, staged, needed, done=done, alone=claim.attempt == 1)
            elif done or (isinstance(outcome, ChunkFailed | ChunkReleased) and outcome.refused):
                self._staged.drop_later(chunk)
            if isinstance(outcome, ChunkSplit):
                for part in expand(log.run, chunk):
                    self._execute(log, part)
                return
            self._count_failures(outcome)
            if not isinstance(outcome, ChunkFailed) or outcome.final:
                return
            delay = retry_delay(self._retry_delay_ms, log.run.state(chunk.id).tries)
            # Random delays keep workers that failed together from retrying together.
            self._stopping.wait(delay * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load, keeps no secret

    def _wait_for_turn(self, log: RunLog) -> None:
        """Wait while the run has as many running chunks as the user allows; return at once without such a limit."""
        while not self._is_over() and log.run.parallel and self._claims.is_full(log.refresh()):
            self._stopping.wait(_WATCH_SECONDS)

    def _wait_for_room(self, log: RunLog) -> None:
        """Wait while schedule or gate gives a reason; log the reason now, then at intervals from 30 s up to 1 h."""
        pause = _HOLD_SAID_SECONDS
        while not self._is_over() and (reason := self._schedule.reason_to_wait(utc_now()) or self._gate()):
            if time.monotonic() - self._held_said >= pause:
                pause = min(pause * 2, _HOLD_SAID_MOST_SECONDS) if self._held_said > 0 else pause
                self._held_said = time.monotonic()
                self._append(log, RunThrottled(at=utc_now(), by=self.owner, reason=reason))
            self._stopping.wait(_HOLD_SECONDS)
        # Report a new wait immediately.
        self._held_said = -_HOLD_SAID_SECONDS

    def _is_over(self) -> bool:
        """Return whether no chunk may start any more: the worker was told to stop, or the schedule's end has come."""
        if self._schedule.is_over(utc_now()) and not self._reason:
            self._reason = f"the time to stop had come, {render_instant(self._schedule.stop_at or utc_now())}"
        return self._stopping.is_set() or self._schedule.is_over(utc_now())

    def _count_failures(self, outcome: Event) -> None:
        if isinstance(outcome, ChunkDone):
            self._failures_in_a_row = 0
        elif isinstance(outcome, ChunkFailed) and outcome.final:
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= self._max_failures:
                self.stop(f"{self._failures_in_a_row} chunks in a row failed permanently; the last: {outcome.message}")

    def _attempt(self, log: RunLog, chunk: Chunk, claim: ChunkState, began: float) -> Event:
        """Execute one attempt, and return the event that ends it: the chunk is done, failed, split or released."""
        number, looked = claim.attempt, time.monotonic()

        def owned() -> None:
            state = log.refresh().state(chunk.id)
            if state.attempt != number or state.status is not ChunkStatus.RUNNING:
                raise TransitionError(f"Attempt {number} of chunk {chunk.id} is not the running one any more.")

        def verified(content: ContentSums, staged: Staged | None, reach: Slice | None) -> None:
            event = ChunkVerified(
                at=utc_now(),
                by=self.owner,
                chunk_id=chunk.id,
                attempt=number,
                content=content,
                staged=staged,
                reach=reach,
            )
            self._append(log, event)

        def step(done: Step) -> None:
            self._step(done)
            # Sealed rows are published sooner than staged again; a direct INSERT that has ended must not be repeated.
            if self._stopping.is_set() and done not in (Step.SEALED, Step.MOVED, Step.INSERTED):
                raise StopRequested

        reading, unwritten = [0, 0], [True]

        def fenced(look: Callable[[], None]) -> None:
            nonlocal looked
            self._fenced()
            if time.monotonic() - looked >= self._lease / 2:
                # While the worker slept, another attempt may have sealed rows, or another run filled the window.
                owned()
                look()
                self._fenced()
            looked = time.monotonic()
            unwritten[0] = False

        def read(rows: int, size: int) -> None:
            reading[0] += rows
            reading[1] += size

        # The last chunks of a run have the server's threads for themselves.
        running, waiting = (log.run.count(status) for status in (ChunkStatus.RUNNING, ChunkStatus.PENDING))
        at_once = min(max(self._parallel, running), running + waiting)
        attempt = Attempt(
            self._plan,
            self._target,
            chunk,
            number,
            owned,
            fenced,
            verified,
            step,
            lambda: neighbours(self._plan, log.refresh(), chunk),
            partial(rivals, self._store, self._plan, Window(chunk.start, chunk.end)),
            lambda: log.run.reach.get(chunk.id),
            earlier=dict(claim.verified),
            staged=claim.staged,
            touched=claim.touched,
            clear=claim.clear,
            threads=thread_settings(
                self._plan, at_once, inserting=self._server.insert_threads, free=self._server.free_threads
            ),
            sparse=self._sparse,
            read=read,
            replicated=self._replicated,
        )

        def released(reason: str, *, refused: bool = False) -> Event:
            return self._outcomes.released(chunk, number, reason, unwritten=unwritten[0], refused=refused)

        try:
            if self._staged.on_replicas:
                place = self._places[chunk.id] = self._staged.place(chunk, claim)
                server, attempt = place.server, place.take(attempt)
            else:
                server = one_server(self._server) if self._replicated else self._server
            content = run_attempt(server, attempt)
            # This chunk may complete the run.
            if not log.refresh().count(ChunkStatus.PENDING):
                self._check_target()
        except TransitionError as error:
            return released(error.message)
        except StopRequested:
            return released(self._reason)
        except WindowTakenError as error:
            self.stop(error.message)
            return released(error.message, refused=True)
        except (ServerError, VerificationError, RequestError) as error:
            run = log.refresh()
            if self._stopping.is_set() or run.cancelled:
                # A cancel from another process may kill the query before the watcher reads the cancel in the log.
                return released(self._reason or "the run was cancelled")
            # If rows are divided among shards, a server may refuse a statement because another shard is down.
            passes = ServerUnreachableError if self._plan.dealing is None else ServerError
            if self._plan.shard and isinstance(error, passes) and (why := self._gate()):
                # The chunks of an unreachable shard wait, and the attempt does not count.
                return released(why)
            return self._outcomes.failed(run, chunk, number, error, unwritten=unwritten[0])
        self._sparse = not content.rows
        return self._outcomes.done(chunk, number, content, time.monotonic() - began, reading)
