"""
Measure the state: a checkpoint against two appends to a file, for plans of several sizes.

A checkpoint is a claim and a done event, both durable.
"""

import fcntl
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import islice
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import obstore

from airflow_provider_backfill.core.instants import render_instant
from airflow_provider_backfill.core.plan import Chunk, Plan
from airflow_provider_backfill.core.replay import apply_event, select_chunks
from airflow_provider_backfill.core.run_state import ChunkStatus
from airflow_provider_backfill.state.object_store import ObjectBackend
from airflow_provider_backfill.state.posix import FileBackend
from airflow_provider_backfill.state.run_log import RunLog
from airflow_provider_backfill.state.store import StateStore, open_store
from benchmarks.frame import Row, in_turn, ratio_of, timed, use_of
from tests.s3 import S3Server
from tests.state import START, done, make_plan, started

SIZES = (120, 2_880, 100_000, 1_000_000)
OWNER = "worker-host:12345:67890123:abcdef12"
LINE = b"x" * 299 + b"\n"


def measure(short: bool) -> list[Row]:
    """Return all figures of the state."""
    with tempfile.TemporaryDirectory(prefix="backfill-bench-", dir=os.environ.get("BACKFILL_BENCH_DIR")) as folder:
        root = Path(folder)
        return [
            *_checkpoints(root, short),
            *_sizes(root, short),
            *_many_workers(root, short),
            *_object_store(short),
        ]


def _prepared(root: Path, size: int, left: int) -> StateStore:
    """Return a store with a plan of *size* chunks, of which *left* are not done."""
    plan = _plan(size)
    store = StateStore(FileBackend(root / f"chunks-{size}"))
    store.save_plan(plan)
    log = store.open_run(plan)
    chunks = plan.chunks()
    _finish(log, next(chunks))
    # Write the rest in one write, with the text of one chunk's events as template; the measurement comes later.
    with Path(store.event_path(plan.plan_id)).open("ab") as file:
        text = ""
        for chunk in islice(chunks, max(size - left - 1, 0)):
            words = (chunk.id, render_instant(chunk.start), render_instant(chunk.end))
            if not text:
                events = (started(plan, chunk, by=OWNER), done(chunk, by=OWNER))
                text = "".join(event.model_dump_json(by_alias=True, exclude_none=True) + "\n" for event in events)
                model = words
            line = text
            for old, new in zip(model, words, strict=True):
                line = line.replace(old, new)
            file.write(line.encode())
    log.refresh()
    log.write_checkpoint()
    return store


def _plan(size: int) -> Plan:
    return make_plan(size, hours=0.25)


def _finish(log: RunLog, chunk: Chunk) -> None:
    log.append(started(log.plan, chunk, by=OWNER))
    log.append(done(chunk, by=OWNER))


def _finish_all(log: RunLog, chunks: list[Chunk]) -> None:
    for chunk in chunks:
        _finish(log, chunk)


def _appends(path: Path, count: int) -> float:
    """Return the seconds of one append with fsync."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        began = time.perf_counter()
        for _ in range(count):
            os.write(handle, LINE)
            os.fsync(handle)
        return (time.perf_counter() - began) / count
    finally:
        os.close(handle)


def _checkpoints(root: Path, short: bool) -> list[Row]:
    rounds, each = (5, 12) if short else (11, 100)
    sizes = SIZES[:2] if short else SIZES
    written: dict[int, int] = dict.fromkeys(sizes, 0)

    def work(size: int) -> Callable[[], float]:
        store = _prepared(root, max(size, rounds * each + 1), rounds * each)
        plan = _plan(max(size, rounds * each + 1))
        log = store.open_run(plan)
        chunks = iter(list(select_chunks(plan, log.run, ChunkStatus.PENDING)))
        events = Path(store.event_path(plan.plan_id))
        replace = store.backend.replace

        def counted(name: str, data: bytes) -> None:
            written[size] += len(data)
            replace(name, data)

        store.backend.replace = counted  # type: ignore[method-assign]

        def once() -> float:
            mine = list(islice(chunks, each))
            before = events.stat().st_size
            seconds = timed(lambda: _finish_all(log, mine)) / each
            written[size] += events.stat().st_size - before
            return seconds

        return once

    raw, *ours = in_turn(rounds, lambda: 2 * _appends(root / "raw", each), *map(work, sizes))
    rows = []
    for size, seconds in zip(sizes, ours, strict=True):
        value, baseline = ratio_of(seconds, raw)
        name = f"checkpoint of a chunk, {size:,} chunks"
        rows.append(Row(name, value * 1000, "ms", baseline * 1000, "two appends with fsync", 2.0))
    value, baseline = ratio_of(ours[-1], ours[-2])
    rows.append(
        Row(f"the same, {sizes[-1]:,} chunks", value * 1000, "ms", baseline * 1000, f"{sizes[-2]:,} chunks", 1.2)
    )
    rows += [
        Row(
            f"bytes written per checkpoint, {size:,} chunks",
            written[size] / (rounds * each),
            "bytes",
            written[sizes[0]] / (rounds * each),
            f"{sizes[0]} chunks",
        )
        for size in sizes
    ]
    return rows


def _sizes(root: Path, short: bool) -> list[Row]:
    """Measure the reading of plans and runs of each size, which must be linear."""
    rows, before = [], 0.0
    for size in (120, 100_000) if short else (120, 100_000, 1_000_000):
        plan, store = _plan(size), _prepared(root / "read", size, 10)
        opened = statistics.median(timed(lambda s=store, p=plan: s.open_run(p)) for _ in range(5))  # type: ignore[misc]
        tenfold = (before * 10_000, "ten times 100,000 chunks", 1.2) if size == 1_000_000 else ()
        rows.append(Row(f"a run of {size:,} chunks read from its files", opened * 1000, "ms", *tenfold))
        before = opened
        cut = statistics.median(timed(lambda p=plan: sum(1 for _ in p.chunks())) for _ in range(5))  # type: ignore[misc]
        rows.append(
            Row(f"the ids and bounds of {size:,} chunks", cut * 1000, "ms", bar=500 if size == 100_000 else None)
        )
        rows.append(Row(f"the plan file, {size:,} chunks", Path(store.plan_path(plan.plan_id)).stat().st_size, "bytes"))
        rows.append(Row(f"memory of a process that reads the run, {size:,} chunks", _memory(store, plan), "MB"))
    return rows


def _memory(store: StateStore, plan: Plan) -> float:
    """Return the highest memory, in MB, of a process that opens the run."""
    code = (
        "import sys\n"
        "from airflow_provider_backfill.state.store import open_store\n"
        "store = open_store(sys.argv[1])\n"
        "sys.exit(not store.open_run(store.load_plan(sys.argv[2])).run.total)\n"
    )
    return use_of(sys.executable, "-c", code, str(store.backend.where("")), plan.plan_id).memory


# ---------------------------------------------------------------- many workers


def _commit_share(place: str, size: int, which: int, of: int, barrier: Barrier, ended: "SimpleQueue[float]") -> None:
    plan = _plan(size)
    log = open_store(place).open_run(plan)
    first, *mine = islice(plan.chunks(), which, None, of)
    # A commit does not include objects that are built one time per process.
    _finish(log, first)
    barrier.wait()
    _finish_all(log, mine)
    ended.put(time.perf_counter())


def _append_share(place: str, count: int, which: int, of: int, barrier: Barrier, ended: "SimpleQueue[float]") -> None:
    """Append with fsync, one process at a time: the minimum work of a log."""
    Path(place).mkdir(exist_ok=True)
    lock = os.open(f"{place}/lock", os.O_RDWR | os.O_CREAT)
    file = os.open(f"{place}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    barrier.wait()
    for _ in range(which, count, of):
        for _ in range(2):
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.write(file, LINE)
            os.fsync(file)
            fcntl.flock(lock, fcntl.LOCK_UN)
    ended.put(time.perf_counter())


def _rate(share: Callable[..., None], place: Path, size: int, workers: int) -> float:
    """
    Return the seconds per commit of *workers* processes that each do *share* of *size* chunks, from the first to the
    last commit.
    """
    context = multiprocessing.get_context("spawn")
    barrier, ended = context.Barrier(workers + 1), context.SimpleQueue()
    processes = [
        context.Process(target=share, args=(str(place), size, which, workers, barrier, ended))
        for which in range(workers)
    ]
    for process in processes:
        process.start()
    barrier.wait(120)
    began = time.perf_counter()
    last = max(ended.get() for _ in processes)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return float(last - began) / (2 * size)


def _numbers() -> Iterator[int]:
    yield from range(10**6)


def _many_workers(root: Path, short: bool) -> list[Row]:
    rounds, size = (1, 200) if short else (5, 2000)
    numbers = _numbers()

    def commits(workers: int) -> float:
        place = root / f"run-{next(numbers)}"
        open_store(str(place)).save_plan(_plan(size))
        return _rate(_commit_share, place, size, workers)

    def appends(workers: int) -> float:
        return _rate(_append_share, root / f"appends-{next(numbers)}", size, workers)

    one, many, bare_one, bare_many = in_turn(
        rounds, lambda: commits(1), lambda: commits(16), lambda: appends(1), lambda: appends(16)
    )
    rows = []
    for name, values, bases, against, bar in (
        ("a commit, 16 processes on one run", many, bare_many, "an append with fsync under a lock, 16 processes", 1.5),
        ("the same beside one process", many, one, "one process", None),
        ("an append with fsync under a lock, 16 processes", bare_many, bare_one, "one process", None),
    ):
        value, baseline = ratio_of(values, bases)
        rows.append(Row(name, value * 1000, "ms", baseline * 1000, against, bar))
    return rows


# ---------------------------------------------------------------- object store


def _object_store(short: bool) -> list[Row]:
    rounds, each, size = (3, 10, 500) if short else (9, 50, 20_000)
    with S3Server() as server:
        store = open_store(f"s3://{server.new_bucket()}/state", config=server.config)
        backend = store.backend
        assert isinstance(backend, ObjectBackend)
        plan = _plan(max(size, rounds * each))
        store.save_plan(plan)
        log = store.open_run(plan)
        chunks = plan.chunks()
        numbers = _numbers()

        def put() -> float:
            names = [f"raw/{next(numbers):08d}" for _ in range(2 * each)]
            return timed(lambda: [obstore.put(backend.store, name, LINE, mode="create") for name in names]) / each / 2

        def commit() -> float:
            mine = list(islice(chunks, each))
            return timed(lambda: _finish_all(log, mine)) / each / 2

        puts, commits = in_turn(rounds, put, commit)
        value, baseline = ratio_of(commits, puts)
        rows = [Row("a commit to S3", value * 1000, "ms", baseline * 1000, "one conditional put", 2.0)]

        # Build a run of that size in memory; only its checkpoint is read back.
        for chunk in islice(chunks, size - rounds * each):
            event = started(plan, chunk, by=OWNER, at=START + timedelta(days=1))
            apply_event(log.run, event)
            apply_event(log.run, done(chunk, by=OWNER))
        log.write_checkpoint()
        seconds = statistics.median(timed(lambda: store.open_run(store.load_plan(plan.plan_id))) for _ in range(5))
        rows.append(Row(f"status of {size:,} chunks on S3", seconds, "s", bar=1.0))
        return rows
