"""
Two runners, a user and crashes between any two steps, in any order, held against a model.

The model is written from the contract, not from the code. Short by default; the long form is
``BACKFILL_SEQUENCES=2000 pytest tests/unit/test_state_machine.py`` (per backend).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from obstore.store import MemoryStore

from airflow_provider_backfill.core.events import (
    Event,
    RunCancelled,
    RunPaused,
    RunReplayed,
    RunResumed,
    RunStarted,
    WorkerHeartbeat,
)
from airflow_provider_backfill.core.run_state import ChunkStatus, Run
from airflow_provider_backfill.errors import TransitionError
from airflow_provider_backfill.state.object_store import ObjectBackend, ObjectLog
from airflow_provider_backfill.state.posix import FileBackend, FileLog
from airflow_provider_backfill.state.run_log import RunLog
from airflow_provider_backfill.state.store import StateStore
from tests.state import START, chunks_of, done, failed, make_plan, released, started, verified

SEQUENCES = int(os.environ.get("BACKFILL_SEQUENCES", "25"))
PLAN = make_plan(3)
CHUNKS = chunks_of(PLAN)
WORKERS = ("host:1:1:a", "host:2:2:b")

chunk_numbers = st.integers(0, len(CHUNKS) - 1)
worker_numbers = st.integers(0, len(WORKERS) - 1)
crashes = st.sampled_from(["", "", "", "before", "half", "after"])


class CrashError(Exception):
    """The process dies here."""


@dataclass
class Expected:
    """The contract's expectations about one chunk."""

    status: str = "pending"
    attempt: int = 0
    owner: str = ""


@dataclass
class Model:
    """The contract's expectations about the run."""

    chunks: list[Expected] = field(default_factory=lambda: [Expected() for _ in CHUNKS])
    cancelled: bool = False
    claimed: set[tuple[int, int]] = field(default_factory=set)


class Dying:
    """Makes the next append of a log die before, in the middle of, or after its write."""

    def __init__(self) -> None:
        self.at = ""

    def wrap(self, log: FileLog | ObjectLog) -> Callable[[int, bytes], None]:
        """An append for *log* that may die."""
        append = log.append

        def dying(position: int, line: bytes) -> None:
            # The first line of a log is no event; dying there is the business of other tests.
            at, self.at = (self.at, "") if b'"LogOpened"' not in line else ("", self.at)
            if at == "before":
                raise CrashError
            if at == "half":
                # An object is there whole or not at all; a line can be torn.
                if isinstance(log, FileLog):
                    with log._path.open("r+b") as file:
                        file.seek(position)
                        file.write(line[: len(line) // 2])
                raise CrashError
            append(position, line)
            if at == "after":
                raise CrashError

        return dying


class Machine(RuleBasedStateMachine):
    """The state store under two runners and a user; subclasses choose the backend."""

    def __init__(self) -> None:
        super().__init__()
        self.dying = Dying()
        self.model = Model()
        self.store = StateStore(self.new_backend())
        self.store.save_plan(PLAN)
        self.logs = [self.open() for _ in WORKERS]
        self.user = self.open()

    def new_backend(self) -> Any:
        """An empty place."""
        raise NotImplementedError

    def open(self) -> RunLog:
        """A log of a process that has just begun."""
        log = self.store.open_run(PLAN)
        inner: Any = log._log
        inner.append = self.dying.wrap(inner)
        return log

    def commit(self, who: int | None, decide: Callable[[Run], Event | None], crash: str) -> bool:
        """Commit as worker *who* or the user, who may die meanwhile; whether the event is in the log."""
        log = self.user if who is None else self.logs[who]
        self.dying.at = crash
        try:
            event = log.commit(decide)
        except CrashError:
            # A new process replaces the worker and knows only the stored state.
            if who is None:
                self.user = self.open()
            else:
                self.logs[who] = self.open()
            return crash == "after"
        finally:
            self.dying.at = ""
        return event is not None

    # ------------------------------------------------ runners

    @rule(who=worker_numbers, number=chunk_numbers, crash=crashes)
    def claim(self, who: int, number: int, crash: str) -> None:
        """A worker claims a chunk if the store shows it as free."""
        chunk, expected, name = CHUNKS[number], self.model.chunks[number], WORKERS[who]
        attempts = []

        def decide(run: Run) -> Event | None:
            state = run.state(chunk.id)
            attempts.append(state.attempt + 1)
            if run.cancelled or state.status is not ChunkStatus.PENDING:
                return None
            return started(PLAN, chunk, state.attempt + 1, name)

        free = expected.status == "pending" and not self.model.cancelled
        written = self.commit(who, decide, crash)
        assert written == (free and crash in ("", "after"))
        if written:
            assert attempts[-1] == expected.attempt + 1
            assert (number, attempts[-1]) not in self.model.claimed
            self.model.claimed.add((number, attempts[-1]))
            self.model.chunks[number] = Expected("running", attempts[-1], name)

    @rule(who=worker_numbers, number=chunk_numbers, crash=crashes)
    def take_over(self, who: int, number: int, crash: str) -> None:
        """A worker takes over a claim of the other worker, which it believes dead."""
        chunk, expected, name = CHUNKS[number], self.model.chunks[number], WORKERS[who]

        def decide(run: Run) -> Event | None:
            state = run.state(chunk.id)
            if run.cancelled or state.status is not ChunkStatus.RUNNING or state.owner == name:
                return None
            return started(PLAN, chunk, state.attempt + 1, name, takes_over=True)

        fits = expected.status == "running" and expected.owner != name and not self.model.cancelled
        written = self.commit(who, decide, crash)
        assert written == (fits and crash in ("", "after"))
        if written:
            self.model.claimed.add((number, expected.attempt + 1))
            self.model.chunks[number] = Expected("running", expected.attempt + 1, name)

    @rule(
        who=worker_numbers,
        number=chunk_numbers,
        what=st.sampled_from(["verified", "done", "failed", "final", "released"]),
        late=st.integers(0, 1),
        crash=crashes,
    )
    def report(self, who: int, number: int, what: str, late: int, crash: str) -> None:
        """A worker reports on an attempt, perhaps one that is no longer its own: then it must be refused."""
        chunk, expected, name = CHUNKS[number], self.model.chunks[number], WORKERS[who]
        attempt = expected.attempt - late
        events: dict[str, Event] = {
            "verified": verified(chunk, attempt, name),
            "done": done(chunk, attempt, name),
            "failed": failed(chunk, attempt, name),
            "final": failed(chunk, attempt, name, final=True),
            "released": released(chunk, attempt, name),
        }
        event = events[what]
        if expected.status != "running" or late:
            with pytest.raises(TransitionError):
                self.commit(who, lambda _: event, "")
            return
        if self.commit(who, lambda _: event, crash) and what != "verified":
            status = {"done": "done", "failed": "pending", "final": "failed", "released": "pending"}[what]
            self.model.chunks[number] = Expected(status, attempt, "")

    @rule(who=worker_numbers, crash=crashes)
    def heartbeat(self, who: int, crash: str) -> None:
        """A sign of life changes nothing else."""
        event = WorkerHeartbeat(at=START, by=WORKERS[who], lease_seconds=60)
        self.commit(who, lambda _: event, crash)

    @rule(who=worker_numbers)
    def freeze_and_continue(self, who: int) -> None:
        """A worker continues with old knowledge: its writes are judged by the stored state."""
        self.logs[who].refresh()

    @rule(who=worker_numbers)
    def restart(self, who: int) -> None:
        """A worker is killed and another one begins."""
        self.logs[who] = self.open()

    # ------------------------------------------------ the user

    @rule(crash=crashes)
    def start(self, crash: str) -> None:
        """`run`."""
        event = RunStarted(at=START, by="user")
        if self.model.cancelled:
            with pytest.raises(TransitionError):
                self.commit(None, lambda _: event, "")
        else:
            self.commit(None, lambda _: event, crash)

    @rule(crash=crashes)
    def pause(self, crash: str) -> None:
        """Ctrl-C in a runner."""
        event = RunPaused(at=START, by="user", reason="stopped")
        self.commit(None, lambda run: event if run.started else None, crash)

    @rule(crash=crashes)
    def cancel(self, crash: str) -> None:
        """`cancel`."""
        event = RunCancelled(at=START, by="user")
        completed = all(chunk.status == "done" for chunk in self.model.chunks)
        if self.model.cancelled or completed:
            with pytest.raises(TransitionError):
                self.commit(None, lambda _: event, "")
        elif self.commit(None, lambda _: event, crash):
            self.model.cancelled = True

    @rule(crash=crashes)
    def resume(self, crash: str) -> None:
        """`resume`: failed chunks are tried again, and only this ends a cancel."""
        event = RunResumed(at=START, by="user")
        if self.commit(None, lambda _: event, crash):
            self.model.cancelled = False
            for chunk in self.model.chunks:
                chunk.status = "pending" if chunk.status == "failed" else chunk.status

    @precondition(lambda self: any(chunk.status == "done" for chunk in self.model.chunks))
    @rule(crash=crashes)
    def replay(self, crash: str) -> None:
        """`run --replay-done`."""
        event = RunReplayed(at=START, by="user", statuses=(ChunkStatus.DONE,))
        if self.commit(None, lambda _: event, crash):
            for chunk in self.model.chunks:
                chunk.status = "pending" if chunk.status == "done" else chunk.status

    # ------------------------------------------------ files

    @rule(who=worker_numbers)
    def write_run_file(self, who: int) -> None:
        """Any worker may write the run file, however old its knowledge."""
        self.logs[who].checkpoint()

    @rule(who=worker_numbers)
    def write_old_run_file(self, who: int) -> None:
        """A worker that was frozen while writing the run file continues."""
        self.logs[who].write_checkpoint()

    @rule()
    def lose_run_file(self) -> None:
        """It is a checkpoint; the log is the truth."""
        self.store.backend.retire(f"runs/{PLAN.plan_id}.json", "lost")

    # ------------------------------------------------ invariants

    @invariant()
    def the_store_says_what_the_model_says(self) -> None:
        """A new reader sees the same as the model."""
        run = self.store.open_run(PLAN).run
        assert run.cancelled == self.model.cancelled
        for chunk, expected in zip(CHUNKS, self.model.chunks, strict=True):
            state = run.state(chunk.id)
            assert (state.status.value, state.attempt, state.owner) == (
                expected.status,
                expected.attempt,
                expected.owner,
            )

    def teardown(self) -> None:
        """Those who were there all along agree with those who have just come."""
        fresh = self.store.open_run(PLAN).run
        for log in (*self.logs, self.user):
            assert log.refresh() == fresh


class OnFiles(Machine):
    """On a folder, in memory where the system has such a place: fsync is real, and fast."""

    def new_backend(self) -> FileBackend:
        """An empty folder."""
        shared = Path("/dev/shm")  # noqa: S108 - a folder of our own below it
        self.folder = Path(tempfile.mkdtemp(prefix="backfill-state-", dir=shared if shared.is_dir() else None))
        return FileBackend(self.folder)

    def teardown(self) -> None:
        """As above, and the folder goes."""
        try:
            super().teardown()
        finally:
            shutil.rmtree(self.folder)


class OnObjects(Machine):
    """On an object store with conditional puts."""

    def new_backend(self) -> ObjectBackend:
        """An empty bucket."""
        return ObjectBackend(MemoryStore(), "s3://bucket")


@pytest.mark.parametrize("machine", [OnFiles, OnObjects])
def test_no_order_of_steps_and_crashes_breaks_the_run(machine: type[Machine]) -> None:
    """A done chunk is never lost, no attempt is claimed twice, no worker undoes a cancel."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=SEQUENCES,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_machine_finds_a_lost_event() -> None:
    """A test that cannot fail shows nothing: a log that writes another event in place of a cancel is detected."""

    class Forgetful(FileLog):
        def append(self, position: int, line: bytes) -> None:
            heartbeat = WorkerHeartbeat(at=START, by="x" * (len(line) - 110), lease_seconds=60)
            other = heartbeat.model_dump_json(by_alias=True).encode() + b"\n"
            super().append(position, other if b"RunCancelled" in line else line)

        def advance(self, position: int, line: bytes) -> int:
            return self._path.stat().st_size if b"RunCancelled" in line else super().advance(position, line)

    class ForgetfulBackend(FileBackend):
        def log(self, plan_id: str, generation: str) -> FileLog:
            del generation
            return Forgetful(self.root, plan_id)

    class OnForgetful(OnFiles):
        def new_backend(self) -> FileBackend:
            return ForgetfulBackend(super().new_backend().root)

    with pytest.raises(AssertionError):
        run_state_machine_as_test(
            OnForgetful,
            settings=settings(
                max_examples=50, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False
            ),
        )
