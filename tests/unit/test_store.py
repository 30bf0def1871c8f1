"""
The state store: acknowledged events stay, unacknowledged ones never existed, and damage is named.

Runs on a folder and on an object store in memory; tests/system runs the same on an S3 server.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from airflow_provider_backfill.core.events import Event, RunCancelled, RunStarted
from airflow_provider_backfill.core.plan import Chunk, Plan
from airflow_provider_backfill.core.run_state import ChunkStatus, Run, RunStatus
from airflow_provider_backfill.errors import ConfigError, DamagedStateError, RequestError, StateError, TransitionError
from airflow_provider_backfill.state.object_store import ObjectBackend
from airflow_provider_backfill.state.posix import FileBackend
from airflow_provider_backfill.state.run_log import RunLog
from airflow_provider_backfill.state.store import StateStore, open_store
from tests.state import START, chunks_of, done, failed, make_plan, started, verified

PLAN = make_plan(4)
FIRST, SECOND, THIRD, FOURTH = chunks_of(PLAN)


@pytest.fixture(params=["files", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> StateStore:
    """An empty store on each backend."""
    if request.param == "files":
        return StateStore(FileBackend(tmp_path / "state"))
    return StateStore(ObjectBackend(MemoryStore(), "s3://bucket/prefix"))


@pytest.fixture
def files(tmp_path: Path) -> StateStore:
    """An empty store on a folder."""
    return StateStore(FileBackend(tmp_path / "state"))


def _lines(store: StateStore, plan: Plan = PLAN) -> list[dict[str, Any]]:
    """Return the log's lines as a person finds them after the run."""
    data = store.backend.read(f"events/{plan.plan_id}.ndjson")
    return [json.loads(line) for line in (data or b"").splitlines()]


def _claim(plan: Plan, chunk: Chunk, by: str) -> Callable[[Run], Event | None]:
    """Claim the chunk if it is free, as a worker does."""

    def decide(run: Run) -> Event | None:
        state = run.state(chunk.id)
        return started(plan, chunk, state.attempt + 1, by) if state.status is ChunkStatus.PENDING else None

    return decide


def _run_through(log: RunLog, *chunks: Chunk, by: str = "host:1:2:a") -> None:
    for chunk in chunks:
        log.append(started(log.plan, chunk, by=by))
        log.append(verified(chunk, by=by))
        log.append(done(chunk, by=by))


# ---------------------------------------------------------------- plans


def test_a_plan_is_written_once(store: StateStore) -> None:
    """If two users plan the same at the same time, one writes, and the other reads that file."""
    assert store.save_plan(PLAN)
    assert not store.save_plan(PLAN.model_copy(update={"engine": "another"}))
    assert store.load_plan(PLAN.plan_id) == PLAN
    assert store.plan_ids() == [PLAN.plan_id]


def test_an_empty_place_has_no_plans(store: StateStore) -> None:
    """Looking creates nothing."""
    assert store.plan_ids() == []
    assert store.find_plan(PLAN.plan_id) is None
    with pytest.raises(RequestError, match="There is no plan"):
        store.load_plan(PLAN.plan_id)


@pytest.mark.parametrize("text", ["", "abc", "0123456789abcdeg", "../plans/0123456789", "0123456789abcdef0"])
def test_what_is_no_plan_id_is_refused(store: StateStore, text: str) -> None:
    """A plan id becomes a file name."""
    with pytest.raises(RequestError, match="is not a plan id"):
        store.load_plan(text)


def test_files_that_are_no_plans_are_not_listed(store: StateStore) -> None:
    """Temporary files, retired plans and other files in the folder."""
    store.save_plan(PLAN)
    for name in ("notes.json", f"{PLAN.plan_id}.json.20250101", f".{PLAN.plan_id}.json.x.tmp"):
        store.backend.create(f"plans/{name}", b"{}")
    assert store.plan_ids() == [PLAN.plan_id]


# ---------------------------------------------------------------- commits


def test_what_was_committed_is_there_for_everybody(store: StateStore) -> None:
    """A new reader, a reader that folds on, and the writer agree, with or without a run file."""
    store.save_plan(PLAN)
    log, watching = store.open_run(PLAN), store.open_run(PLAN)
    _run_through(log, FIRST)
    log.append(started(PLAN, SECOND))
    assert watching.refresh() == log.run == store.open_run(PLAN).run
    assert log.run.count(ChunkStatus.DONE) == 1
    assert log.run.state(SECOND.id).owner == "host:1:2:a"
    log.checkpoint()
    assert store.open_run(PLAN).run == log.run


def test_a_refused_event_leaves_no_trace(store: StateStore) -> None:
    """Neither in memory nor on disk."""
    store.save_plan(PLAN)
    log = store.open_run(PLAN)
    log.append(started(PLAN, FIRST))
    lines = log.lines
    with pytest.raises(TransitionError):
        log.append(started(PLAN, FIRST))
    assert log.commit(lambda _: None) is None
    assert (log.lines, store.open_run(PLAN).lines) == (lines, lines)
    assert store.open_run(PLAN).run == log.run


def test_a_decision_sees_what_others_did_before(store: StateStore) -> None:
    """Of two workers on one chunk the slower one must see the other's claim and stand back."""
    store.save_plan(PLAN)
    slow, fast = store.open_run(PLAN), store.open_run(PLAN)
    assert fast.commit(_claim(PLAN, FIRST, "fast")) is not None
    assert slow.commit(_claim(PLAN, FIRST, "slow")) is None
    fast.append(failed(FIRST, by="fast"))
    event = slow.commit(_claim(PLAN, FIRST, "slow"))
    assert event is not None
    assert store.open_run(PLAN).run.state(FIRST.id).owner == "slow"


def test_a_cancel_is_seen_by_the_next_commit(store: StateStore) -> None:
    """A worker that did not look meanwhile still cannot claim."""
    store.save_plan(PLAN)
    worker, user = store.open_run(PLAN), store.open_run(PLAN)
    worker.append(RunStarted(at=START, by="user"))
    user.append(RunCancelled(at=START, by="user"))
    with pytest.raises(TransitionError, match="cancelled"):
        worker.append(started(PLAN, FIRST))
    assert worker.run.cancelled


@pytest.mark.parametrize("about_the_run", [False, True])
def test_a_commit_about_one_chunk_folds_what_others_did_to_others(store: StateStore, about_the_run: bool) -> None:
    """In their order, whether that is before the decision or after it."""
    store.save_plan(PLAN)
    mine, theirs = store.open_run(PLAN), store.open_run(PLAN)
    mine.append(started(PLAN, FIRST))
    theirs.append(started(PLAN, SECOND, by="host:2:2:b"))
    if about_the_run:
        theirs.append(RunStarted(at=START, by="ada"))
    theirs.append(done(SECOND, by="host:2:2:b"))
    theirs.append(started(PLAN, THIRD, by="host:2:2:b"))
    mine.append(verified(FIRST))
    assert mine.run == store.open_run(PLAN).run
    assert (mine.run.count(ChunkStatus.DONE), mine.run.count(ChunkStatus.RUNNING)) == (1, 2)


def test_what_others_did_to_the_very_chunk_is_known_before_the_decision(store: StateStore) -> None:
    store.save_plan(PLAN)
    mine, theirs = store.open_run(PLAN), store.open_run(PLAN)
    mine.append(started(PLAN, SECOND))
    theirs.append(started(PLAN, FIRST, by="host:2:2:b"))
    with pytest.raises(TransitionError, match="is at attempt 1, so 1 is not the next"):
        mine.append(started(PLAN, FIRST))
    assert mine.commit(_claim(PLAN, FIRST, "host:1:2:a"), about=FIRST.id) is None
    assert mine.run == theirs.run


@pytest.mark.parametrize(("line", "written"), [('{"type":"ChunkDone"}', 0), ('{"at":"","type":"ChunkDone"}', 1)])
def test_a_damaged_line_about_another_chunk_is_met_again_and_again(files: StateStore, line: str, written: int) -> None:
    """Also for a line that looks valid until it is applied: no second event is written after it."""
    files.save_plan(PLAN)
    mine, path = files.open_run(PLAN), Path(files.event_path(PLAN.plan_id))
    mine.append(started(PLAN, FIRST))
    path.write_text(path.read_text() + line + "\n")
    before = len(path.read_text().splitlines())
    for _ in range(3):
        with pytest.raises(DamagedStateError, match="line 3 is damaged"):
            mine.append(done(FIRST))
    with pytest.raises(DamagedStateError, match="line 3 is damaged"):
        mine.refresh()
    assert len(path.read_text().splitlines()) == before + written


def test_of_many_threads_one_claims_each_chunk(store: StateStore) -> None:
    """The claim is a compare-and-set: each attempt of each chunk has one owner."""
    plan = make_plan(20)
    store.save_plan(plan)
    won: dict[str, list[str]] = {chunk.id: [] for chunk in chunks_of(plan)}

    def work(name: str) -> None:
        log = store.open_run(plan)
        for chunk in chunks_of(plan):
            if log.commit(_claim(plan, chunk, name)):
                won[chunk.id].append(name)

    threads = [threading.Thread(target=work, args=(f"worker-{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run = store.open_run(plan).run
    assert {chunk: [run.state(chunk).owner] for chunk in won} == won
    assert run.attempts == 20


def test_an_error_under_the_lock_releases_it(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused command must not stop the next one for the half minute after which a lock expires."""
    with pytest.raises(RequestError, match="refused"), store.exclusive("target-x"):
        raise RequestError("refused")

    def wait(_: float) -> None:
        raise AssertionError("the lock is held")

    monkeypatch.setattr(time, "sleep", wait)
    with store.exclusive("target-x"):
        pass


def test_the_log_is_there_to_read_in_the_end(store: StateStore) -> None:
    """`events/<planId>.ndjson` has every event of an ended run, on every backend."""
    store.save_plan(PLAN)
    log = store.open_run(PLAN)
    _run_through(log, *chunks_of(PLAN))
    log.checkpoint()
    assert log.run.status is RunStatus.COMPLETED
    kinds = [line["type"] for line in _lines(store)]
    assert kinds == ["LogOpened", *["ChunkStarted", "ChunkVerified", "ChunkDone"] * 4]
    shown = json.loads(store.backend.read(f"runs/{PLAN.plan_id}.json") or b"")
    assert shown["status"] == "completed"
    assert shown["chunkCounts"] == {"total": 4, "pending": 0, "running": 0, "done": 4, "failed": 0, "skipped": 0}
    assert store.open_run(PLAN).run == log.run


# ---------------------------------------------------------------- the run file


def test_a_run_file_that_lags_is_caught_up(store: StateStore) -> None:
    """The run file of a large plan is not written for every chunk; every reader folds the rest."""
    store.save_plan(PLAN)
    log = store.open_run(PLAN)
    _run_through(log, FIRST)
    log.checkpoint()
    before = store.backend.read(f"runs/{PLAN.plan_id}.json")
    _run_through(log, SECOND)
    assert store.backend.read(f"runs/{PLAN.plan_id}.json") == before
    assert store.open_run(PLAN).run == log.run


def test_a_run_file_that_is_gone_is_made_again(store: StateStore) -> None:
    """It is a checkpoint of the log, which is the truth."""
    store.save_plan(PLAN)
    log = store.open_run(PLAN)
    _run_through(log, FIRST, SECOND)
    log.checkpoint()
    store.backend.retire(f"runs/{PLAN.plan_id}.json", "lost")
    again = store.open_run(PLAN)
    assert again.run == log.run
    _run_through(again, THIRD, FOURTH)
    again.checkpoint()
    assert store.backend.read(f"runs/{PLAN.plan_id}.json") is not None


def test_the_run_file_is_written_as_the_log_grows(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a checkpoint would cost more the larger the plan is; and it must be written at all."""
    monkeypatch.setattr("airflow_provider_backfill.state.run_log._CHECKPOINT_SECONDS", 0.0)
    plan = make_plan(600)
    store.save_plan(plan)
    written: list[int] = []
    replace = store.backend.replace

    def counting(name: str, data: bytes) -> None:
        written.append(len(data))
        replace(name, data)

    monkeypatch.setattr(store.backend, "replace", counting)
    log = store.open_run(plan)
    sizes = 0
    for chunk in chunks_of(plan):
        for event in (started(plan, chunk), done(chunk)):
            log.append(event)
            sizes += len(event.model_dump_json(by_alias=True))
    assert len(written) > 10
    assert sum(written) < 5 * sizes
    assert len(written) < 300


def test_many_workers_write_the_run_file_as_often_as_one(files: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sees that another has just written it."""
    monkeypatch.setattr("airflow_provider_backfill.state.run_log._CHECKPOINT_SECONDS", 0.0)
    plan = make_plan(300)
    files.save_plan(plan)
    written: list[int] = []
    replace = files.backend.replace

    def counting(name: str, data: bytes) -> None:
        written.append(len(data))
        replace(name, data)

    monkeypatch.setattr(files.backend, "replace", counting)
    logs = [files.open_run(plan) for _ in range(8)]
    for number, chunk in enumerate(chunks_of(plan)):
        log = logs[number % 8]
        log.append(started(plan, chunk))
        log.append(done(chunk))
    assert 5 < len(written) < 120


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"\0" * 300, "it is empty"),
        (b"{", "EOF while parsing"),
        (b"[]", "is damaged"),
        (b'{"format":2}', "is damaged"),
    ],
)
def test_a_damaged_run_file_is_named_with_the_remedy(store: StateStore, content: bytes, reason: str) -> None:
    """The message says that the log can restore it."""
    store.save_plan(PLAN)
    store.backend.create(f"runs/{PLAN.plan_id}.json", content)
    with pytest.raises(DamagedStateError) as caught:
        store.open_run(PLAN)
    assert store.run_path(PLAN.plan_id) in caught.value.message
    assert reason in caught.value.message
    assert f"clickhouse-backfill repair --plan-id {PLAN.plan_id}" in caught.value.hint


def test_the_run_file_of_another_plan_is_refused(store: StateStore) -> None:
    """A file that was copied to the wrong name must not pass for this plan's."""
    other = make_plan(5)
    for plan in (PLAN, other):
        store.save_plan(plan)
    log = store.open_run(other)
    _run_through(log, chunks_of(other)[0])
    log.checkpoint()
    store.backend.create(f"runs/{PLAN.plan_id}.json", store.backend.read(f"runs/{other.plan_id}.json") or b"")
    with pytest.raises(DamagedStateError, match=f"it belongs to plan {other.plan_id}"):
        store.open_run(PLAN)


# ---------------------------------------------------------------- planned again


def test_a_plan_made_anew_starts_from_nothing(store: StateStore) -> None:
    """The old files are kept under another name; no event of the old run counts for the new plan."""
    store.save_plan(PLAN)
    log = store.open_run(PLAN)
    _run_through(log, FIRST)
    log.checkpoint()
    store.retire_plan(PLAN.plan_id, "20250102")
    anew = PLAN.model_copy(update={"created_at": START + timedelta(days=1)})
    assert store.find_plan(PLAN.plan_id) is None
    assert store.save_plan(anew)
    assert store.open_run(anew).run.status is RunStatus.PLANNED
    assert store.backend.read(f"plans/{PLAN.plan_id}.json.20250102") is not None
    assert store.backend.read(f"runs/{PLAN.plan_id}.json.20250102") is not None


@pytest.mark.parametrize("anew_has_run", [True, False])
def test_a_worker_of_the_old_plan_can_write_nothing(store: StateStore, anew_has_run: bool) -> None:
    """The worker may have been frozen during the planning; its offsets fit the old log only."""
    store.save_plan(PLAN)
    old = store.open_run(PLAN)
    _run_through(old, FIRST)
    old.append(started(PLAN, SECOND))
    store.retire_plan(PLAN.plan_id, "20250102")
    anew = PLAN.model_copy(update={"created_at": START + timedelta(days=1)})
    store.save_plan(anew)
    log = store.open_run(anew)
    if anew_has_run:
        # A name of the same length: the lines of both logs end at the same places.
        _run_through(log, *chunks_of(PLAN), by="host:1:2:b")
    with pytest.raises(StateError, match="planned again"):
        old.append(verified(SECOND))
    with pytest.raises(StateError, match="planned again"):
        old.append(done(SECOND))
    assert store.open_run(anew).run == log.refresh()
    assert log.run.attempts == (4 if anew_has_run else 0)


def test_a_worker_that_had_not_begun_can_write_nothing_either(store: StateStore) -> None:
    """An empty log does not show that the plan is another one."""
    store.save_plan(PLAN)
    old = store.open_run(PLAN)
    store.retire_plan(PLAN.plan_id, "20250102")
    store.save_plan(PLAN.model_copy(update={"created_at": START + timedelta(days=1)}))
    with pytest.raises(StateError, match="planned again"):
        old.append(started(PLAN, FIRST))


@pytest.mark.parametrize("left", ["run", "events", "both"])
def test_planning_anew_survives_a_crash_between_its_steps(files: StateStore, left: str) -> None:
    """The plan's file is renamed first; by its date, the rest belongs to an older plan."""
    files.save_plan(PLAN)
    log = files.open_run(PLAN)
    _run_through(log, FIRST)
    log.checkpoint()
    run, events = f"runs/{PLAN.plan_id}.json", f"events/{PLAN.plan_id}.ndjson"
    files.backend.retire(f"plans/{PLAN.plan_id}.json", "20250102")
    if left == "run":
        files.backend.retire(events, "20250102")
    if left == "events":
        files.backend.retire(run, "20250102")
    anew = PLAN.model_copy(update={"created_at": START + timedelta(days=1)})
    files.save_plan(anew)
    again = files.open_run(anew)
    assert again.run.status is RunStatus.PLANNED
    _run_through(again, *chunks_of(PLAN))
    assert files.open_run(anew).run.status is RunStatus.COMPLETED
    assert _lines(files)[0]["plannedAt"] == "2025-01-02T00:00:00.000Z"
    if left != "run":
        assert len(files.backend.read(f"{events}.2025-01-01T000000.000Z") or b"") > 0


# ---------------------------------------------------------------- versions, foreign files


def test_a_log_of_a_newer_version_is_refused_by_name(files: StateStore) -> None:
    """Not as damage: the remedy is another one."""
    files.save_plan(PLAN)
    header = {"type": "LogOpened", "format": 3, "planId": PLAN.plan_id, "plannedAt": "2025-01-01T00:00:00.000Z", "x": 1}
    files.backend.create(f"events/{PLAN.plan_id}.ndjson", json.dumps(header).encode() + b"\n")
    with pytest.raises(DamagedStateError, match="was written by a newer version: it has format 3") as caught:
        files.open_run(PLAN)
    assert "newer airflow-provider-backfill" in caught.value.hint


@pytest.mark.parametrize("name", ["plans", "runs"])
def test_a_file_of_a_newer_version_is_refused_by_name(store: StateStore, name: str) -> None:
    """Also if the file has content that is unknown to this version."""
    if name == "runs":
        store.save_plan(PLAN)
    store.backend.create(f"{name}/{PLAN.plan_id}.json", b'{"format": 3, "planId": "x", "news": []}')
    with pytest.raises(DamagedStateError, match="was written by a newer version: it has format 3"):
        store.open_run(store.load_plan(PLAN.plan_id))


def test_an_event_of_a_newer_version_is_not_called_damage_by_hand(files: StateStore) -> None:
    """The message names the event's type, and that a newer version may have written it."""
    files.save_plan(PLAN)
    log = files.open_run(PLAN)
    log.append(started(PLAN, FIRST))
    with Path(files.event_path(PLAN.plan_id)).open("ab") as file:
        file.write(b'{"type":"ChunkBlessed","at":"2025-01-01T00:00:00.000Z","by":"x"}\n')
    with pytest.raises(DamagedStateError, match=r"line 3 is damaged: it is a ChunkBlessed.*newer"):
        files.open_run(PLAN)


def test_the_peers_plan_is_recognised(store: StateStore) -> None:
    """The peer keeps its plans in the same layout."""
    peers = {"planId": PLAN.plan_id, "target": "a.b", "from": "…", "to": "…", "chunks": [{"id": "x"}], "options": {}}
    store.backend.create(f"plans/{PLAN.plan_id}.json", json.dumps(peers).encode())
    with pytest.raises(DamagedStateError, match="was written by chkit") as caught:
        store.load_plan(PLAN.plan_id)
    assert "--state-dir" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"\0" * 512, b'{"format": 1, "planId"', b"null", b'{"format": 2}'])
def test_a_damaged_plan_is_named_and_others_work(store: StateStore, content: bytes) -> None:
    """One bad file must not stop the others from being read."""
    other = make_plan(5)
    store.save_plan(other)
    store.backend.create(f"plans/{PLAN.plan_id}.json", content)
    with pytest.raises(DamagedStateError, match="is damaged") as caught:
        store.load_plan(PLAN.plan_id)
    assert store.plan_path(PLAN.plan_id) in caught.value.message
    assert store.load_plan(other.plan_id) == other
    assert sorted(store.plan_ids()) == sorted([PLAN.plan_id, other.plan_id])


def test_a_plan_under_anothers_name_is_refused(store: StateStore) -> None:
    """Chunk ids and query ids are made from the plan's id."""
    other = make_plan(5)
    store.backend.create(f"plans/{PLAN.plan_id}.json", other.model_dump_json(by_alias=True).encode())
    with pytest.raises(DamagedStateError, match=f"it holds plan {other.plan_id}"):
        store.load_plan(PLAN.plan_id)


def test_all_runs_are_read_and_a_damaged_one_is_said_to_be(store: StateStore) -> None:
    """`check` and `list` judge the others; the order is that of the ids."""
    plans = sorted((make_plan(count) for count in range(1, 30)), key=lambda plan: plan.plan_id)
    for plan in plans:
        store.save_plan(plan)
        log = store.open_run(plan)
        log.append(started(plan, chunks_of(plan)[0]))
    broken = plans[7].plan_id
    store.backend.replace(f"plans/{broken}.json", b"{")
    ids = [plan.plan_id for plan in plans]
    found = list(store.runs([*ids, "0123456789abcdef"]))
    assert [name for name, _ in found] == ids
    for (name, one), plan in zip(found, plans, strict=True):
        if name == broken:
            assert isinstance(one, DamagedStateError)
        else:
            assert not isinstance(one, StateError)
            assert (one[0], one[1].attempts) == (plan, 1)


# ---------------------------------------------------------------- where


def test_the_place_is_chosen_by_its_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder, a file URL, or an object store."""
    monkeypatch.chdir(tmp_path)
    for text in ("state", f"{tmp_path}/state", f"file://{tmp_path}/state"):
        store = open_store(text)
        assert isinstance(store.backend, FileBackend)
        assert store.plan_path("x") == f"{tmp_path}/state/plans/x.json"
    remote = open_store("s3://bucket/some/prefix/", config={"region": "us-east-1", "skip_signature": "true"})
    assert isinstance(remote.backend, ObjectBackend)
    assert remote.plan_path("x") == "s3://bucket/some/prefix/plans/x.json"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ftp://host/state", "is not a place to keep state in"),
        ("https://host/state", "is not a place to keep state in"),
        ("s3://key:secret@bucket/state", "has credentials in its URL"),
    ],
)
def test_a_place_that_cannot_be_is_refused(text: str, reason: str) -> None:
    """And a password in it is not repeated."""
    with pytest.raises(ConfigError, match=reason) as caught:
        open_store(text)
    assert "secret" not in str(caught.value)
