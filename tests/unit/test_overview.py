"""What the page asks for: the list, the map, the tail, and that being asked again costs little and changes nothing."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_backfill.commands.coverage import read_coverage
from airflow_provider_backfill.commands.reopen import reopen_plan
from airflow_provider_backfill.commands.session import Session
from airflow_provider_backfill.core.events import (
    ChunkDone,
    ChunkFailed,
    ChunkPart,
    ChunkSplit,
    ChunkStarted,
    Event,
    RunCancelled,
    RunReplayed,
    RunResumed,
    RunStarted,
)
from airflow_provider_backfill.core.ids import chunk_id
from airflow_provider_backfill.core.instants import render_instant, to_ms
from airflow_provider_backfill.core.plan import Chunk, Plan, Shard, Statement
from airflow_provider_backfill.core.replay import select_chunks
from airflow_provider_backfill.core.run_state import ChunkStatus, ContentSums
from airflow_provider_backfill.core.sql import query_id
from airflow_provider_backfill.core.tables import TableName, TimeKind
from airflow_provider_backfill.errors import DamagedStateError, PlanNotFoundError, RequestError, StateError
from airflow_provider_backfill.options import Options
from airflow_provider_backfill.state.run_log import RunLog
from airflow_provider_backfill.state.store import StateStore, open_store
from airflow_provider_backfill.web.views import followed_plan
from airflow_provider_backfill.web.views import overview as overview_view
from airflow_provider_backfill.web.views.log_tail import RateHistogram
from airflow_provider_backfill.web.views.overview import Overview
from tests import state

START = state.START
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    return open_store(str(tmp_path / "state"))


@pytest.fixture
def session(store: StateStore) -> Session:
    return Session(store, Options(), None, "ada@workstation")


ENVIRONMENT = "http://127.0.0.1:8123"


def make_plan(store: StateStore, target: str = "db.target", chunks: int = 12, hours: float = 6, **fields: Any) -> Plan:
    statement = Statement(
        name="db.source",
        select="SELECT ts FROM db.source",
        source=TableName("db", "source"),
        time_kind=TimeKind.DATETIME,
        columns=("ts",),
        row_wise=True,
    )
    plan = state.make_plan(
        chunks,
        hours=hours,
        statements=(statement,),
        target=target,
        environment=ENVIRONMENT,
        planned_at=fields.pop("planned_at", datetime.now(UTC)),
        **fields,
    )
    assert store.save_plan(plan)
    return plan


class Book:
    """Writes a plan's events as a worker would, one second apart."""

    def __init__(self, store: StateStore, plan: Plan) -> None:
        self.plan = plan
        self.log: RunLog = store.open_run(plan)
        self.on_behalf_of = "ada@workstation"
        self._clock = NOW

    def at(self) -> datetime:
        """The next second."""
        self._clock += timedelta(seconds=1)
        return self._clock

    def append(self, make: Callable[..., Event], **fields: Any) -> None:
        """Append one event."""
        self.log.append(make(at=self.at(), by="host:1:2:abc", **fields))

    def start(self, chunk: Chunk) -> int:
        """Claim a chunk; the attempt's number."""
        attempt = self.log.run.state(chunk.id).attempt + 1
        self.append(
            ChunkStarted,
            chunk_id=chunk.id,
            attempt=attempt,
            start=chunk.start,
            end=chunk.end,
            query_id=query_id(self.plan.plan_id, chunk.id, attempt),
            lease_seconds=3600,
            on_behalf_of=self.on_behalf_of,
        )
        return attempt

    def done(self, chunk: Chunk, rows: int = 100) -> None:
        """Claim a chunk and finish it."""
        attempt = self.start(chunk)
        self.append(ChunkDone, chunk_id=chunk.id, attempt=attempt, content=ContentSums(rows, 7), seconds=0.5)

    def fail(self, chunk: Chunk, message: str = "no such table", final: bool = True) -> None:
        """Claim a chunk and fail."""
        attempt = self.start(chunk)
        self.append(ChunkFailed, chunk_id=chunk.id, attempt=attempt, code=60, name="X", message=message, final=final)

    def split(self, chunk: Chunk) -> list[Chunk]:
        """Claim a chunk and split it; its parts."""
        attempt = self.start(chunk)
        middle = chunk.start + (chunk.end - chunk.start) / 2
        bounds = ((chunk.start, middle), (middle, chunk.end))
        parts = [Chunk(chunk_id(self.plan.plan_id, a, b), a, b) for a, b in bounds]
        plan = tuple(ChunkPart(id=part.id, start=part.start, end=part.end) for part in parts)
        self.append(ChunkSplit, chunk_id=chunk.id, attempt=attempt, parts=plan, message="too much memory")
        return parts

    def chunks(self, *statuses: ChunkStatus) -> list[Chunk]:
        """The chunks at a status, or all."""
        return list(select_chunks(self.plan, self.log.run, *statuses))


def complete(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Ask until the answer is complete."""
    for _ in range(1000):
        found = ask()
        if found["complete"]:
            return found
    raise AssertionError("it never was complete")


# ---------------------------------------------------------------- list


def test_the_list_shows_each_plan_those_that_need_somebody_first(session: Session, store: StateStore) -> None:
    """Running before failed before planned before completed: plans without problems come last."""
    finished, planned, broken = (make_plan(store, f"db.t{number}", chunks=2) for number in range(3))
    running = make_plan(store, "db.live")
    for plan in (finished, broken, running):
        Book(store, plan).append(RunStarted)
    for chunk in finished.chunks():
        Book(store, finished).done(chunk)
    for chunk in broken.chunks():
        Book(store, broken).fail(chunk)
    found = Overview(session).plans()
    assert [plan["planId"] for plan in found["plans"]] == [p.plan_id for p in (running, broken, planned, finished)]
    assert [plan["status"] for plan in found["plans"]] == ["running", "failed", "planned", "completed"]
    assert found["verdict"]["ok"] is False
    assert found["verdict"]["signals"] == {"healthy": 1, "waiting": 2, "broken": 1}
    last = found["plans"][-1]
    assert (last["rowsWritten"], last["chunkCounts"]["done"]) == (200, 2)
    assert found["plans"][1]["lastError"] == "no such table"


def test_the_verdict_is_that_of_check(session: Session, store: StateStore) -> None:
    plan = make_plan(store, chunks=1)
    overview = Overview(session)
    assert overview.plans()["verdict"]["ok"] is False
    for chunk in plan.chunks():
        Book(store, plan).done(chunk)
    verdict = overview.plans()["verdict"]
    assert verdict["ok"] is True
    assert verdict["pending"] == 0


def test_the_list_is_searched_and_filtered(session: Session, store: StateStore) -> None:
    first, second = make_plan(store, "shop.orders"), make_plan(store, "web.Views")
    overview = Overview(session)
    assert [plan["target"] for plan in overview.plans(search="views")["plans"]] == ["web.Views"]
    assert [plan["planId"] for plan in overview.plans(search=first.plan_id[:9])["plans"]] == [first.plan_id]
    assert overview.plans(status="running")["plans"] == []
    assert overview.plans(status="planned")["matching"] == 2
    page = overview.plans(offset=1, limit=1)
    assert len(page["plans"]) == 1
    assert page["matching"] == 2
    assert second.plan_id in {plan["planId"] for plan in overview.plans()["plans"]}


def test_an_unchanged_list_is_not_sent_again(session: Session, store: StateStore) -> None:
    """Polling must cost the API server next to nothing."""
    plan = make_plan(store)
    overview = Overview(session)
    version = overview.plans()["version"]
    assert overview.plans(since=version) == {"changed": False, "version": version}
    assert overview.plans(since=version, status="planned")["changed"], "another question has another answer"
    book = Book(store, plan)
    book.done(book.chunks()[0])
    assert overview.plans(since=version)["changed"]


def test_a_damaged_plan_does_not_hide_the_others(session: Session, store: StateStore, tmp_path: Path) -> None:
    good, bad = make_plan(store, "db.good"), make_plan(store, "db.bad")
    (tmp_path / "state" / "plans" / f"{bad.plan_id}.json").write_text("{")
    found = Overview(session).plans()
    assert [plan["planId"] for plan in found["plans"]] == [good.plan_id]
    assert found["damaged"][0]["planId"] == bad.plan_id
    assert "damaged" in found["damaged"][0]["message"]
    assert found["verdict"]["ok"] is False
    with pytest.raises(DamagedStateError):
        Overview(session).plan(bad.plan_id)


def test_a_state_folder_that_cannot_be_read_is_an_error(session: Session, store: StateStore, tmp_path: Path) -> None:
    """An empty list would say that all is well."""
    (tmp_path / "state").write_text("a file where a folder should be")
    with pytest.raises(StateError, match="Not a directory"):
        Overview(session).plans()


def test_a_plan_that_is_planned_anew_is_looked_at_anew(session: Session, store: StateStore) -> None:
    plan = make_plan(store)
    book = Book(store, plan)
    book.done(book.chunks()[0])
    overview = Overview(session)
    assert complete(lambda: overview.plan(plan.plan_id))["plan"]["chunkCounts"]["done"] == 1
    store.retire_plan(plan.plan_id, "old")
    make_plan(store)
    found = complete(lambda: overview.plan(plan.plan_id))
    assert found["plan"]["chunkCounts"]["done"] == 0
    assert found["map"]["cells"][0][3] == 0
    store.retire_plan(plan.plan_id, "gone")
    assert overview.plans()["plans"] == []
    with pytest.raises(RequestError, match="There is no plan"):
        overview.plan(plan.plan_id)


def test_a_first_look_at_many_plans_comes_in_parts(
    session: Session, store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request may take long, however much there is to look at."""
    for number in range(5):
        make_plan(store, f"db.t{number}")
    monkeypatch.setattr(overview_view, "_LIST_SECONDS", 0.0)
    overview = Overview(session)
    first = overview.plans()
    assert first["complete"] is False
    assert len(first["plans"]) < 5
    assert len(complete(overview.plans)["plans"]) == 5


# ---------------------------------------------------------------- map


def test_every_chunk_has_a_cell_while_there_is_room(session: Session, store: StateStore) -> None:
    plan = make_plan(store, chunks=8)
    book = Book(store, plan)
    book.append(RunStarted)
    chunks = book.chunks()
    book.done(chunks[0], rows=42)
    book.fail(chunks[1])
    book.start(chunks[2])
    found = complete(lambda: Overview(session).plan(plan.plan_id))["map"]
    assert found["cellLength"] == 0
    assert found["whole"]
    assert [cell[9] for cell in found["cells"]] == [chunk.id for chunk in chunks]
    assert found["cells"][0][:9] == [to_ms(START), to_ms(chunks[0].end), 1, 1, 0, 0, 42, 0.5, 0]
    assert found["cells"][1][2:6] == [1, 0, 0, 1]
    assert found["cells"][2][2:6] == [1, 0, 1, 0]
    assert found["cells"][3][2:6] == [1, 0, 0, 0]


def test_cells_are_as_fine_as_fits(session: Session, store: StateStore) -> None:
    """Two days in 25 cells, of which the first and the last may be cut: two hours each."""
    plan = make_plan(store, chunks=48, hours=1)
    found = [complete(lambda n=n: Overview(session).plan(plan.plan_id, cells=n))["map"] for n in (24, 25)]  # type: ignore[misc]
    assert [part["cellLength"] // 3_600_000 for part in found] == [3, 2]


@settings(max_examples=60, deadline=None)
@given(
    hours=st.sampled_from([0.25, 0.3333333333333333, 1, 5, 6, 7, 24, 168]),
    chunks=st.integers(1, 700),
    cells=st.integers(1, 400),
    data=st.data(),
)
def test_cells_cover_the_window_whatever_its_size(
    tmp_path_factory: pytest.TempPathFactory, hours: float, chunks: int, cells: int, data: st.DataObject
) -> None:
    """At most as many cells as asked for, touching, none empty, and no chunk in two of them or in none."""
    store = open_store(str(tmp_path_factory.mktemp("state")))
    plan = make_plan(store, chunks=chunks, hours=hours)
    overview = Overview(Session(store, Options(), None, "ada"))
    low = data.draw(st.integers(0, chunks - 1))
    high = data.draw(st.integers(low, chunks - 1))
    made = list(plan.chunks())
    for start, end in ((None, None), (to_ms(made[low].start), to_ms(made[high].end))):
        found = complete(lambda a=start, b=end: overview.plan(plan.plan_id, start=a, end=b, cells=cells))["map"]  # type: ignore[misc]
        shown = found["cells"]
        assert len(shown) <= max(cells, 2)
        assert sum(cell[2] for cell in shown) == found["chunks"]
        assert all(cell[2] > 0 for cell in shown)
        assert [cell[1] for cell in shown[:-1]] == [cell[0] for cell in shown[1:]]
        assert (shown[0][0], shown[-1][1]) == (found["from"], found["to"])
        if start is not None:
            assert found["chunks"] == high - low + 1


@pytest.mark.parametrize("seed", range(6))
def test_a_map_that_follows_equals_one_that_is_made_anew(session: Session, store: StateStore, seed: int) -> None:
    """What is kept between requests must never drift from the log."""
    chance = random.Random(seed)  # noqa: S311 - a test that can be repeated
    plan = make_plan(store, chunks=20)
    book, overview = Book(store, plan), Overview(session)
    book.append(RunStarted)
    for _ in range(60):
        pending = book.chunks(ChunkStatus.PENDING)
        what = chance.random()
        if what < 0.1 and book.log.run.done:
            book.append(RunReplayed, statuses=(ChunkStatus.DONE,))
        elif what < 0.15:
            book.append(RunResumed)
        elif pending and what < 0.3:
            book.split(chance.choice(pending))
        elif pending and what < 0.5:
            book.fail(chance.choice(pending), final=chance.random() < 0.5)
        elif pending:
            book.done(chance.choice(pending), rows=chance.randrange(1000))
        if chance.random() < 0.4:
            followed = complete(lambda: overview.plan(plan.plan_id))
            anew = complete(lambda: Overview(session).plan(plan.plan_id))
            assert followed["map"] == anew["map"]
            assert followed["series"] == anew["series"]
            assert followed["plan"]["chunkCounts"] == anew["plan"]["chunkCounts"]


def test_a_split_chunk_shows_its_parts(session: Session, store: StateStore) -> None:
    plan = make_plan(store, chunks=3)
    book = Book(store, plan)
    first = book.chunks()[0]
    parts = book.split(first)
    book.done(parts[0], rows=10)
    overview = Overview(session)
    cell = complete(lambda: overview.plan(plan.plan_id))["map"]["cells"][0]
    assert cell[8] == 1
    assert [part[3] for part in cell[10]] == ["done", "pending"]
    assert cell[3] == 0, "it is done when all its parts are"
    book.done(parts[1], rows=5)
    cell = complete(lambda: overview.plan(plan.plan_id))["map"]["cells"][0]
    assert (cell[3], cell[6]) == (1, 15)
    whole = overview.chunk(plan.plan_id, first.id)
    assert whole["status"] == "split"
    assert [part["chunkId"] for part in whole["parts"]] == [part.id for part in parts]
    assert overview.chunk(plan.plan_id, parts[0].id)["partOf"] == first.id


def test_a_slice_that_several_shards_fill_is_one_cell(session: Session, store: StateStore) -> None:
    """A slice is done when it is done on each shard, and a map is drawn over time."""
    shards = tuple(Shard(number=number, table=f"/t/{number}", urls=(f"http://s{number}:8123",)) for number in (1, 2))
    plan = make_plan(store, chunks=3, cluster="main", shards=shards)
    book = Book(store, plan)
    first, second, *_ = book.chunks()
    assert (first.start, first.shard, second.start, second.shard) == (second.start, 1, first.start, 2)
    book.done(first, rows=10)
    overview = Overview(session)
    cells = complete(lambda: overview.plan(plan.plan_id))["map"]["cells"]
    assert [(cell[0], cell[1]) for cell in cells] == [(to_ms(a), to_ms(b)) for a, b in plan.slices()]
    assert (cells[0][3], cells[0][6]) == (0, 10)
    assert [part[3] for part in cells[0][10]] == ["done", "pending"]
    book.done(second, rows=5)
    cells = complete(lambda: overview.plan(plan.plan_id))["map"]["cells"]
    assert (cells[0][3], cells[0][6], cells[1][3]) == (1, 15, 0)


def test_a_large_log_is_read_in_slices(session: Session, store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The map appears when all chunks of the plan are derived; until then, an answer says that it is incomplete."""
    plan = make_plan(store, chunks=3000, hours=0.25)
    book = Book(store, plan)
    book.done(book.chunks()[0])
    monkeypatch.setattr(followed_plan, "_TAIL_SECONDS", 0.0)
    overview = Overview(session)
    first = overview.plan(plan.plan_id)
    assert first["complete"] is False
    assert first["map"] is None
    assert first["plan"]["chunkCounts"]["done"] == 1, "what the checkpoint knows is there at once"
    found = complete(lambda: overview.plan(plan.plan_id))
    assert found["map"]["cells"]
    assert [event["type"] for event in found["events"]] == ["ChunkStarted", "ChunkDone"]


# ---------------------------------------------------------------- events, chunks, pace


def test_events_come_once_and_know_their_window(session: Session, store: StateStore) -> None:
    plan = make_plan(store)
    book, overview = Book(store, plan), Overview(session)
    book.append(RunStarted)
    book.done(book.chunks()[1], rows=9)
    found = complete(lambda: overview.plan(plan.plan_id))
    assert [event["type"] for event in found["events"]] == ["RunStarted", "ChunkStarted", "ChunkDone"]
    done = found["events"][-1]
    assert (done["from"], done["rows"]) == (to_ms(book.chunks()[1].start), 9)
    book.append(RunCancelled, reason="enough")
    later = overview.plan(plan.plan_id, after=found["lastEvent"])
    assert [event.get("reason") for event in later["events"]] == ["enough"]
    assert overview.plan(plan.plan_id, since=later["version"])["changed"] is False


def test_a_chunk_tells_its_attempts(session: Session, store: StateStore) -> None:
    plan = make_plan(store)
    book = Book(store, plan)
    chunk = book.chunks()[0]
    book.fail(chunk, "timeout", final=False)
    book.done(chunk, rows=77)
    overview = Overview(session)
    complete(lambda: overview.plan(plan.plan_id))
    found = overview.chunk(plan.plan_id, chunk.id)
    assert [attempt["outcome"] for attempt in found["attempts"]] == ["failed", "done"]
    assert found["attempts"][0]["message"] == "timeout"
    assert found["attempts"][1]["rows"] == 77
    assert found["attempts"][1]["queryId"] == query_id(plan.plan_id, chunk.id, 2)
    assert found["attempts"][1]["onBehalfOf"] == "ada@workstation"
    assert "INSERT INTO" in found["statements"][0]["insert"]
    assert "additional_table_filters" in found["statements"][0]["filter"]
    assert "2025-01-01 00:00:00" in found["statements"][0]["filter"]
    with pytest.raises(RequestError, match="has no chunk"):
        overview.chunk(plan.plan_id, "nonsense")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 10_000_000), st.floats(0.001, 5000), st.integers(0, 10**9)), min_size=1, max_size=60
    )
)
def test_no_row_is_lost_in_the_line_of_rows_a_second(ended: list[tuple[int, float, int]]) -> None:
    """However long a run lasts, the line has few points and the area below it is the rows."""
    meter = RateHistogram()
    for at, seconds, rows in ended:
        meter.add(1_700_000_000_000 + at, seconds, rows)
    assert sum(meter.rows) == pytest.approx(sum(rows for _, _, rows in ended), rel=1e-6, abs=1e-3)
    assert len(meter.rows) <= 161
    assert all(value >= 0 for value in meter.payload()["perSecond"])


def test_a_payload_is_plain_json(session: Session, store: StateStore) -> None:
    plan = make_plan(store)
    book = Book(store, plan)
    book.fail(book.chunks()[0])
    overview = Overview(session)
    for payload in (overview.plans(), complete(lambda: overview.plan(plan.plan_id))):
        assert json.loads(json.dumps(payload)) == payload


# ---------------------------------------------------------------- reopen


def test_failed_chunks_lead_to_the_tasks_to_clear(session: Session, store: StateStore) -> None:
    """
    By the last attempt of each chunk; chunks of the command line count separately, and the last DAG
    run comes first.
    """
    book = Book(store, make_plan(store, chunks=6))
    first, second, third, fourth, fifth, sixth = book.chunks()

    def fail(chunk: Chunk, by: str, final: bool = True) -> None:
        book.on_behalf_of = by
        book.fail(chunk, final=final)

    fail(first, "airflow:load/run 1/backfill.chunks[0]#1")
    fail(second, "airflow:load/run 1/backfill.chunks[0]#1")
    fail(third, 'airflow:load/run "2"/backfill.chunks[2]#1')
    fail(fourth, "airflow:load/run 1/backfill.chunks[3]#1", final=False)
    # Retried by another user since.
    fail(fourth, "ada@workstation")
    book.on_behalf_of = "airflow:load/run 3/other#2"
    book.done(fifth)
    found = complete(lambda: Overview(session).plan(book.plan.plan_id))["airflow"]
    assert found["failedElsewhere"] == 1
    assert [(run["runId"], run["taskIds"]) for run in found["runs"]] == [
        ("run 3", ["other"]),
        ("run 1", ["backfill.chunks"]),
        ('run "2"', ["backfill.chunks"]),
    ]
    assert [run["failedTasks"] for run in found["runs"]] == [
        [],
        [{"taskId": "backfill.chunks", "mapIndex": 0, "chunks": 2}],
        [{"taskId": "backfill.chunks", "mapIndex": 2, "chunks": 1}],
    ]
    assert sixth.id not in json.dumps(found)


def test_a_cancelled_run_is_taken_up_again_by_name(session: Session, store: StateStore) -> None:
    plan = make_plan(store)
    with pytest.raises(RequestError, match="was never run"):
        reopen_plan(session, plan.plan_id)
    book = Book(store, plan)
    book.append(RunStarted)
    book.fail(book.chunks()[0])
    book.append(RunCancelled, reason="")
    payload = reopen_plan(session, plan.plan_id)
    assert payload["status"] == "running"
    assert payload["chunkCounts"]["failed"] == 0
    overview = Overview(session)
    assert complete(lambda: overview.plan(plan.plan_id))["events"][-1]["by"] == "ada@workstation"


# ---------------------------------------------------------------- one table


def test_a_table_shows_all_of_its_plans_on_one_calendar(session: Session, store: StateStore) -> None:
    """Filled windows, windows filled twice and gaps, with their plans, as ``coverage`` shows for the same folder."""
    table = TableName("db", "t")
    first, second = make_plan(store, "db.t", chunks=2, hours=12), make_plan(store, "db.t", chunks=4)
    make_plan(store, "db.other")
    for chunk in first.chunks():
        Book(store, first).done(chunk)
    Book(store, second).done(next(iter(second.chunks())))
    view = Overview(session)
    found = complete(lambda: view.table(table))
    assert {plan["planId"] for plan in found["plans"]} == {first.plan_id, second.plan_id}
    assert found["coverage"] == read_coverage(session, table)
    (twice,) = found["coverage"]["filledTwice"]
    assert twice["to"] == render_instant(START + timedelta(hours=6))
    assert set(twice["planIds"]) == {first.plan_id, second.plan_id}
    assert view.table(table, since=found["version"]) == {"changed": False, "version": found["version"]}
    Book(store, second).done(second_chunk := list(second.chunks())[3])
    assert second_chunk.end == first.end
    assert view.table(table, since=found["version"])["changed"]


def test_a_table_shows_only_plans_of_dags_that_the_viewer_may_read(session: Session, store: StateStore) -> None:
    mine, theirs = make_plan(store, "db.t", chunks=2), make_plan(store, "db.t", chunks=3)
    for plan, dag in ((mine, "mine"), (theirs, "theirs")):
        book = Book(store, plan)
        book.on_behalf_of = f"airflow:{dag}/run/fill#1"
        book.log.append(RunStarted(at=book.at(), by=book.on_behalf_of))
    found = Overview(session).table(TableName("db", "t"), may_see=lambda dags: "mine" in dags)
    assert [plan["planId"] for plan in found["plans"]] == [mine.plan_id]
    with pytest.raises(PlanNotFoundError):
        Overview(session).table(TableName("db", "t"), may_see=lambda _: False)


@pytest.mark.parametrize(
    ("sort", "order"),
    [("target", "abc"), ("rows", "cab"), ("read", "cba"), ("started", "cab"), ("author", "cba"), ("dag", "cba")],
)
def test_the_list_is_sorted_by_what_is_asked(session: Session, store: StateStore, sort: str, order: str) -> None:
    """A plan that never ran has no start, no author who ran it and no DAG."""
    plans = {
        name: make_plan(store, f"db.{name}", chunks=2, planned_at=NOW + timedelta(seconds=number))
        for number, name in enumerate("abc")
    }
    for name, dag, rows in (("b", "alpha", 50), ("a", "zulu", 10)):
        book = Book(store, plans[name])
        book._clock += timedelta(hours=len(dag))
        book.log.append(RunStarted(at=book.at(), by=f"airflow:{dag}/run/fill#1"))
        book.done(next(iter(plans[name].chunks())), rows=rows)
    view = Overview(session)
    rising = [plan["target"][-1] for plan in view.plans(sort=sort)["plans"]]
    falling = [plan["target"][-1] for plan in view.plans(sort=sort, falling=True)["plans"]]
    assert "".join(rising) == order
    # Equal ones stay newest first.
    assert "".join(falling) == ("cba" if sort == "read" else order[::-1])


def test_a_failed_chunk_names_its_task(session: Session, store: StateStore) -> None:
    """By which cells of the map are retried."""
    plan = make_plan(store, chunks=2)
    book = Book(store, plan)
    book.on_behalf_of = "airflow:orders/run 1/fill[7]#2"
    for chunk in plan.chunks():
        book.fail(chunk)
        book.on_behalf_of = "ada@workstation"
    first, second = complete(lambda: Overview(session).plan(plan.plan_id))["failed"]
    assert first["task"] == {"dagId": "orders", "runId": "run 1", "taskId": "fill", "mapIndex": 7}
    assert second["task"] is None
