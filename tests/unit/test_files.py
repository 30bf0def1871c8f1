"""The log on a file system: torn tails, damage, full disks, and files that change underfoot."""

from __future__ import annotations

import contextlib
import errno
import itertools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_backfill.core.events import Event, RunCancelled
from airflow_provider_backfill.core.plan import Chunk
from airflow_provider_backfill.core.replay import apply_event, new_run
from airflow_provider_backfill.core.run_state import ChunkStatus, Run, RunStatus
from airflow_provider_backfill.errors import DamagedStateError, StateError
from airflow_provider_backfill.state.posix import FileBackend
from airflow_provider_backfill.state.run_log import RunLog
from airflow_provider_backfill.state.store import StateStore
from tests.state import START, chunks_of, done, make_plan, released, started, verified

PLAN = make_plan(6)
CHUNKS = chunks_of(PLAN)
FIRST, SECOND, THIRD, *_ = CHUNKS


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    """A store with the plan in it."""
    plan = StateStore(FileBackend(tmp_path / "state"))
    plan.save_plan(PLAN)
    return plan


@pytest.fixture
def events(store: StateStore) -> Path:
    """Where the log is, with one chunk done and one claimed: five lines."""
    log = store.open_run(PLAN)
    for event in (started(PLAN, FIRST), verified(FIRST), done(FIRST), started(PLAN, SECOND)):
        log.append(event)
    return Path(store.event_path(PLAN.plan_id))


def _forget_run_file(store: StateStore) -> None:
    Path(store.run_path(PLAN.plan_id)).unlink(missing_ok=True)


# ---------------------------------------------------------------- torn tails


def test_a_log_cut_at_any_byte_holds_the_events_before(store: StateStore, events: Path) -> None:
    """Whenever a writer dies, readers see the acknowledged events, and the next writer continues after them."""
    _forget_run_file(store)
    data = events.read_bytes()
    lines = data.splitlines(keepends=True)
    history = (started(PLAN, FIRST), verified(FIRST), done(FIRST), started(PLAN, SECOND))
    for size in range(len(data) + 1):
        events.write_bytes(data[:size])
        whole = data[:size].count(b"\n")
        expected = new_run(PLAN)
        for event in history[: max(whole - 1, 0)]:
            apply_event(expected, event)
        assert store.open_run(PLAN).run == expected
        if size % 50 == 0:
            store.open_run(PLAN).append(started(PLAN, THIRD))
            assert store.open_run(PLAN).run.state(THIRD.id).status is ChunkStatus.RUNNING
            assert events.read_bytes().startswith(b"".join(lines[:whole]))
            _forget_run_file(store)


def test_a_reader_skips_a_torn_tail_and_sees_what_replaces_it(store: StateStore, events: Path) -> None:
    """A reader must not take the torn bytes for the beginning of the next line."""
    reader = store.open_run(PLAN)
    with events.open("ab") as file:
        file.write(b'{"type":"ChunkDone","at":"2025')
    assert reader.refresh().count(ChunkStatus.DONE) == 1
    store.open_run(PLAN).append(done(SECOND))
    assert reader.refresh().count(ChunkStatus.DONE) == 2
    assert b"2025{" not in events.read_bytes()


def test_zeros_at_the_end_are_a_torn_tail(store: StateStore, events: Path) -> None:
    """Some file systems leave them after a power loss, where a write was not yet on disk."""
    with events.open("ab") as file:
        file.write(b"\0" * 4096)
    log = store.open_run(PLAN)
    log.append(done(SECOND))
    assert b"\0" not in events.read_bytes()
    assert store.open_run(PLAN).run == log.run


def test_an_empty_log_is_a_run_that_never_began(store: StateStore, events: Path) -> None:
    """The file is made before its first line is on disk."""
    _forget_run_file(store)
    events.write_bytes(b"")
    log = store.open_run(PLAN)
    assert log.run == new_run(PLAN)
    log.append(started(PLAN, FIRST))
    assert store.open_run(PLAN).lines == 2


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda lines: [lines[0], b"x" * 20 + b"\n", *lines[2:]], 2),
        (lambda lines: [lines[0], lines[1][:40] + b"\n", *lines[2:]], 2),
        (lambda lines: [*lines[:2], b"\0" * 64 + b"\n", *lines[3:]], 3),
        (lambda lines: [*lines[:2], b"\n", *lines[2:]], 3),
        (lambda lines: [*lines[:2], *lines[3:]], None),
        (lambda lines: [lines[0], *lines[2:]], 2),
        (lambda lines: lines[1:], 1),
        (lambda lines: [*lines, lines[-1]], 6),
        (lambda lines: [*lines[:3], lines[3].replace(b"2025-01-01", b"2025-13-01"), *lines[4:]], 4),
        (lambda lines: [lines[0].replace(PLAN.plan_id.encode(), b"0123456789abcdef"), *lines[1:]], 1),
        (lambda _: [b"\0" * 300], 1),
        (lambda _: [b"\xff\xfe binary\n"], 1),
    ],
)
def test_damage_is_named_by_file_and_line(
    store: StateStore, events: Path, damage: Callable[[list[bytes]], list[bytes]], line: int | None
) -> None:
    """A log with impossible events must not be replayed."""
    _forget_run_file(store)
    events.write_bytes(b"".join(damage(events.read_bytes().splitlines(keepends=True))))
    if line is None:
        # A missing verification cannot be seen, and decides nothing once the chunk is done.
        assert store.open_run(PLAN).run.count(ChunkStatus.DONE) == 1
        return
    with pytest.raises(DamagedStateError) as caught:
        store.open_run(PLAN)
    assert f"{events}, line {line} " in caught.value.message
    assert "repair" in caught.value.hint


@pytest.mark.parametrize("left", [0, 1, 3])
def test_a_log_shorter_than_its_checkpoint_is_damage(store: StateStore, events: Path, left: int) -> None:
    """Acknowledged events are gone, so going on could write rows twice."""
    store.open_run(PLAN).append(released(SECOND))
    log = store.open_run(PLAN)
    log.append(RunCancelled(at=START, by="user"))
    log.checkpoint()
    lines = events.read_bytes().splitlines(keepends=True)
    events.write_bytes(b"".join(lines[:left]))
    with pytest.raises(DamagedStateError, match=f"line {left + 1} is damaged: 7 lines were there"):
        store.open_run(PLAN)
    if not left:
        events.unlink()
        with pytest.raises(DamagedStateError, match="line 1 is damaged: 7 lines were there"):
            store.open_run(PLAN)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_garbage_makes_it_crash(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever is in the files, the answer is a run or an error of ours."""
    store = StateStore(FileBackend(tmp_path_factory.mktemp("garbage")))
    store.save_plan(PLAN)
    log = store.open_run(PLAN)
    for event in (started(PLAN, FIRST), verified(FIRST), done(FIRST)):
        log.append(event)
    for path in (Path(store.event_path(PLAN.plan_id)), Path(store.run_path(PLAN.plan_id))):
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(0, 3))):
            place = data.draw(st.integers(0, len(content) - 1))
            content[place : place + data.draw(st.integers(0, 30))] = data.draw(st.binary(max_size=30))
        path.write_bytes(content)
    try:
        run = store.open_run(PLAN).run
    except DamagedStateError:
        return
    assert run.total >= 6


# ---------------------------------------------------------------- writes that fail


class FailingDisk:
    """Makes one of the calls that write fail, as a full or broken disk does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.fail_at = -1
        self.half = False
        self._pwrite, self._fsync = os.pwrite, os.fsync
        monkeypatch.setattr(os, "pwrite", self.pwrite)
        monkeypatch.setattr(os, "fsync", self.fsync)

    def _due(self) -> bool:
        self.calls += 1
        return self.calls == self.fail_at

    def pwrite(self, handle: int, data: bytes, offset: int) -> int:
        """Write all, half or nothing."""
        if self._due():
            if self.half:
                return self._pwrite(handle, data[: len(data) // 2], offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._pwrite(handle, data, offset)

    def fsync(self, handle: int) -> None:
        """Make it durable, or find that there is no room for it."""
        if self._due():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._fsync(handle)


def _all_chunks(store: StateStore) -> RunLog:
    """Complete the run from its current state, as a worker does."""
    log = store.open_run(PLAN)
    for chunk in CHUNKS:
        state = log.run.state(chunk.id)
        attempt = state.attempt
        if state.status is ChunkStatus.PENDING:
            attempt += 1
            log.append(started(PLAN, chunk, attempt))
        if state.status is not ChunkStatus.DONE:
            if attempt not in log.run.state(chunk.id).verified:
                log.append(verified(chunk, attempt))
            log.append(done(chunk, attempt))
    log.checkpoint()
    return log


@pytest.mark.parametrize("half", [False, True])
def test_a_disk_that_fails_at_any_write_loses_and_repeats_nothing(
    store: StateStore, monkeypatch: pytest.MonkeyPatch, half: bool
) -> None:
    """An unacknowledged event leaves no partial line; once there is space, the run continues."""
    disk = FailingDisk(monkeypatch)
    disk.half = half
    events = Path(store.event_path(PLAN.plan_id))
    for number in itertools.count(1):
        events.unlink(missing_ok=True)
        _forget_run_file(store)
        disk.calls, disk.fail_at = 0, number
        with contextlib.suppress(StateError):
            _all_chunks(store)
            break
        assert not events.exists() or events.read_bytes()[-1:] in (b"", b"\n")
        disk.fail_at = -1
        log = _all_chunks(store)
        assert log.run == store.open_run(PLAN).run
        assert log.run.status is RunStatus.COMPLETED
        lines = events.read_bytes().splitlines()
        assert len(lines) == len(set(lines)) == 1 + 3 * len(CHUNKS)
    # Two calls for each of 19 lines, and those of folders and of the run file.
    assert number > 40


def test_a_failed_append_leaves_the_log_usable_by_the_same_worker(
    store: StateStore, events: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory equals disk afterwards, so that the worker can go on once there is space."""
    log = store.open_run(PLAN)
    before = events.read_bytes()
    disk = FailingDisk(monkeypatch)
    for number in (1, 2):
        disk.calls, disk.fail_at = 0, number
        with pytest.raises(StateError, match="No space left"):
            log.append(done(SECOND))
        assert events.read_bytes() == before
        assert log.run == store.open_run(PLAN).run
    disk.fail_at = -1
    log.append(done(SECOND))
    assert log.run == store.open_run(PLAN).run
    assert log.run.count(ChunkStatus.DONE) == 2


def test_what_was_read_and_then_taken_back_is_forgotten(
    store: StateStore, events: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A reader can see a line before its fsync. When that fails, the writer cuts the line off, and
    another line of the same length may stand there: a reader that went on would corrupt the log.
    """
    reader, writer, other = store.open_run(PLAN), store.open_run(PLAN), store.open_run(PLAN)
    fsync = os.fsync

    def read_then_fail(handle: int) -> None:
        assert reader.refresh().state(THIRD.id).owner == "host:1:2:a"
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", read_then_fail)
    with pytest.raises(StateError):
        writer.append(started(PLAN, THIRD, by="host:1:2:a"))
    monkeypatch.setattr(os, "fsync", fsync)
    other.append(started(PLAN, THIRD, by="host:1:2:b"))
    assert reader.refresh() == store.open_run(PLAN).run
    reader.append(done(THIRD, by="host:1:2:b"))
    _forget_run_file(store)
    assert store.open_run(PLAN).run == reader.run
    assert reader.run.count(ChunkStatus.DONE) == 2


def test_a_folder_that_may_not_be_written_says_so(
    store: StateStore, events: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the path and the system's reason."""

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    log = store.open_run(PLAN)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StateError, match="Permission denied") as caught:
        log.append(done(SECOND))
    assert str(store.backend.where("")) in caught.value.message
    assert "--state-dir" in caught.value.hint


def test_a_file_is_there_whole_or_not_at_all(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that was cut short by a full disk would block its own id."""
    plan = make_plan(9)
    disk = FailingDisk(monkeypatch)
    disk.fail_at = 1
    with pytest.raises(StateError, match="No space left"):
        store.save_plan(plan)
    assert store.plan_ids() == [PLAN.plan_id]
    folder = Path(store.plan_path(plan.plan_id)).parent
    assert [path.name for path in folder.iterdir()] == [f"{PLAN.plan_id}.json"]
    assert store.save_plan(plan)


# ---------------------------------------------------------------- files that change underfoot


def test_a_lock_whose_file_was_deleted_is_no_lock(store: StateStore) -> None:
    """Deleting the lock file must not let two writers in."""
    first, second = store.open_run(PLAN), store.open_run(PLAN)
    first.append(started(PLAN, FIRST))
    second.append(started(PLAN, SECOND))
    lock = store.backend.where(f"locks/{PLAN.plan_id}.lock")
    Path(lock).unlink()
    entered = threading.Event()

    def claim(log: RunLog) -> None:
        log.commit(lambda _: entered.set())

    def decide(_: object) -> None:
        thread = threading.Thread(target=claim, args=(second,))
        thread.start()
        assert not entered.wait(0.3)
        threads.append(thread)

    threads: list[threading.Thread] = []
    first.commit(decide)
    threads[0].join(10)
    assert entered.is_set()


def test_a_log_that_was_deleted_is_not_begun_anew(store: StateStore, events: Path) -> None:
    """A worker and the run file still know the deleted events."""
    log = store.open_run(PLAN)
    log.checkpoint()
    events.unlink()
    with pytest.raises(DamagedStateError, match="line 1 is damaged"):
        log.append(done(SECOND))
    assert not events.exists()


def _claim_all(root: Path, name: str, log: RunLog | None, result: Path) -> None:
    log = log or StateStore(FileBackend(root)).open_run(PLAN)
    won = []
    for chunk in CHUNKS:

        def decide(run: Run, chunk: Chunk = chunk) -> Event | None:
            free = run.state(chunk.id).status is ChunkStatus.PENDING
            # Long enough for another process to come in, if the lock let it.
            time.sleep(0.01)
            return started(PLAN, chunk, 1, name) if free else None

        if log.commit(decide):
            won.append(chunk.id)
    result.write_text("\n".join(won))


@pytest.mark.parametrize("inherited", [True, False])
def test_forked_processes_claim_each_chunk_once(store: StateStore, tmp_path: Path, inherited: bool) -> None:
    """Airflow forks its tasks: with an inherited open lock file, parent and child would both hold the lock."""
    log = store.open_run(PLAN)
    # The parent has used the lock and the log, so it holds both open.
    log.append(started(PLAN, FIRST, 1, "parent"))
    plan_log = log if inherited else None
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(
            target=_claim_all, args=(Path(store.backend.where("")), f"child-{n}", plan_log, tmp_path / f"won-{n}")
        )
        for n in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    won = [line for n in range(4) for line in (tmp_path / f"won-{n}").read_text().split()]
    assert sorted(won) == sorted(chunk.id for chunk in CHUNKS if chunk is not FIRST)
    assert log.refresh().count(ChunkStatus.RUNNING) == len(CHUNKS)
