"""Waivers, and repair: readable facts are kept, and a person decides about rows that may be doubled."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_backfill.cli.text import show_list
from airflow_provider_backfill.commands.lease import utc_now
from airflow_provider_backfill.commands.list import list_plans, refuse_damaged
from airflow_provider_backfill.commands.repair import repair_plan
from airflow_provider_backfill.commands.report import report_plan
from airflow_provider_backfill.commands.session import Session
from airflow_provider_backfill.commands.waive import waive_plan
from airflow_provider_backfill.core.events import RunResumed, RunStarted, RunThrottled
from airflow_provider_backfill.core.plan import Chunk
from airflow_provider_backfill.core.run_state import ChunkStatus, Run, RunStatus
from airflow_provider_backfill.core.tables import TableName
from airflow_provider_backfill.errors import DamagedStateError, RequestError, ServerError
from airflow_provider_backfill.options import Options
from airflow_provider_backfill.state.posix import FileBackend
from airflow_provider_backfill.state.store import StateStore
from tests.state import START, chunks_of, done, failed, make_plan, started, verified

PLAN = make_plan(6)
FIRST, SECOND, THIRD, FOURTH, *_ = chunks_of(PLAN)
GONE = "elsewhere:1:2:a"


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """A session without a ClickHouse, with the plan in it."""
    store = StateStore(FileBackend(tmp_path / "state"))
    store.save_plan(PLAN)
    return Session(store, Options(), None, "someone")


def _write(store: StateStore) -> None:
    """Two chunks done, one failed, one claimed long ago: eleven lines with the header."""
    log = store.open_run(PLAN)
    for chunk in (FIRST, SECOND):
        for event in (started(PLAN, chunk, by=GONE), verified(chunk, by=GONE), done(chunk, by=GONE)):
            log.append(event)
    log.append(started(PLAN, THIRD, by=GONE))
    log.append(failed(THIRD, by=GONE, final=True))
    log.append(started(PLAN, FOURTH, by=GONE))
    log.append(verified(FOURTH, by=GONE))


def _paths(store: StateStore) -> tuple[Path, Path]:
    return Path(store.run_path(PLAN.plan_id)), Path(store.event_path(PLAN.plan_id))


def _damage_line(path: Path, number: int, text: bytes = b"garbage\n") -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number - 1] = text
    path.write_bytes(b"".join(lines))


# ---------------------------------------------------------------- waive


def test_a_waiver_is_recorded_with_who_why_and_until(session: Session) -> None:
    """It needs no ClickHouse, and is a fact in the log like any other."""
    until = utc_now() + timedelta(days=30)
    payload = waive_plan(session, PLAN.plan_id, reason=" the source moves ", until=until)
    assert payload["ok"]
    assert payload["reason"] == "the source moves"
    waiver = session.store.open_run(PLAN).run.waiver
    assert waiver is not None
    assert (waiver.by, waiver.reason) == ("someone", "the source moves")
    assert waiver.holds(utc_now())
    assert not waiver.holds(until)


def test_the_report_names_users_and_no_workers(session: Session) -> None:
    """A worker that waits writes an event, too."""
    log = session.store.open_run(PLAN)
    for event in (RunStarted(at=START, by="ada"), RunThrottled(at=START, by=GONE, reason="the disk is full")):
        log.append(event)
    assert report_plan(session, PLAN.plan_id)["people"] == ["ada"]


@pytest.mark.parametrize("cluster", ["", "all"])
def test_the_report_says_that_a_log_was_not_flushed(session: Session, cluster: str) -> None:
    """A user without the right CLUSTER may still flush the server itself; the rows of the log are reported anyway."""
    sent: list[str] = []

    def command(text: str, *_: object) -> None:
        sent.append(text)
        if ("ON CLUSTER" in text) is bool(cluster):
            raise ServerError("Not enough privileges.")

    server: Any = SimpleNamespace(
        embedded=False, cluster=cluster, command=command, rows=lambda *_: [[7, *[0] * 8]], close=lambda: None
    )
    payload = report_plan(replace(session, server=lambda: server), PLAN.plan_id)
    assert payload["cost"]["queries"] == 7
    assert payload["notLookedAt"] == ["the last seconds of system.query_log: Not enough privileges."]
    local = "SYSTEM FLUSH LOGS query_log"
    assert sent == (["SYSTEM FLUSH LOGS ON CLUSTER `all` query_log", local] if cluster else [local])


def test_the_list_says_which_plans_are_waived(session: Session) -> None:
    """Only as long as the waiver holds; the status of the plan stays in the JSON."""
    assert show_list(list_plans(session), StringIO()).split().count("planned") == 1
    waive_plan(session, PLAN.plan_id, reason="a trial")
    payload = list_plans(session)
    assert (payload["plans"][0]["status"], payload["plans"][0]["waived"]) == ("planned", True)
    shown = show_list(payload, StringIO())
    assert ("waived" in shown, "planned" in shown) == (True, False)
    session.store.open_run(PLAN).append(RunResumed(at=utc_now(), by="someone"))
    assert not list_plans(session)["plans"][0]["waived"]


def test_a_plan_can_give_way_to_another_on_the_same_target(session: Session) -> None:
    """And to none that does other work."""
    better, other = make_plan(12), make_plan(6, target="shop.returns")
    for plan in (better, other):
        session.store.save_plan(plan)
    for plan in (other, PLAN):
        with pytest.raises(RequestError, match="cannot do the work"):
            waive_plan(session, PLAN.plan_id, reason="cut anew", superseded_by=plan.plan_id)
    payload = waive_plan(session, PLAN.plan_id, reason="cut anew", superseded_by=better.plan_id)
    assert payload["supersededBy"] == better.plan_id


def test_a_waiver_that_says_nothing_is_refused(session: Session) -> None:
    """No reason, an end that is past, a plan that is unknown or completed."""
    with pytest.raises(RequestError, match="needs a reason"):
        waive_plan(session, PLAN.plan_id, reason=" ")
    with pytest.raises(RequestError, match="is past"):
        waive_plan(session, PLAN.plan_id, reason="x", until=START)
    with pytest.raises(RequestError, match="There is no plan"):
        waive_plan(session, "0123456789abcdef", reason="x")
    log = session.store.open_run(PLAN)
    for chunk in chunks_of(PLAN):
        log.append(started(PLAN, chunk))
        log.append(done(chunk))
    with pytest.raises(RequestError, match="completed"):
        waive_plan(session, PLAN.plan_id, reason="x")


# ---------------------------------------------------------------- repair


def test_what_is_whole_needs_no_repair(session: Session) -> None:
    """Nothing is touched."""
    _write(session.store)
    before = {path: path.read_bytes() for path in _paths(session.store)}
    payload = repair_plan(session, PLAN.plan_id)
    assert (payload["ok"], payload["noop"], payload["actions"]) == (True, True, [])
    assert before == {path: path.read_bytes() for path in _paths(session.store)}


@pytest.mark.parametrize("content", [b"", b"\0" * 200, b'{"format":1', b"{}"])
def test_a_run_file_is_written_anew_from_the_log(session: Session, content: bytes) -> None:
    """Nothing is lost: the log is the truth."""
    _write(session.store)
    expected = session.store.open_run(PLAN).run
    run, events = _paths(session.store)
    log = events.read_bytes()
    run.write_bytes(content)
    payload = repair_plan(session, PLAN.plan_id)
    assert payload["ok"]
    assert payload["uncertainChunkIds"] == []
    assert "written again from the 11 lines" in payload["actions"][1]
    assert session.store.open_run(PLAN).run == expected
    assert events.read_bytes() == log
    (kept,) = run.parent.glob(f"{PLAN.plan_id}.json.damaged-*")
    assert kept.read_bytes() == content


def test_a_damaged_line_that_the_run_file_had_seen_costs_nothing(session: Session) -> None:
    """The checkpoint knows the content of the line."""
    _write(session.store)
    log = session.store.open_run(PLAN)
    log.write_checkpoint()
    run, events = _paths(session.store)
    _damage_line(events, 4)
    # The run file still vouches for all of it; a reader without it would stop here.
    run.write_bytes(run.read_bytes().replace(b'"position":', b'"position":1'))
    payload = repair_plan(session, PLAN.plan_id)
    assert payload["uncertainChunkIds"] == []
    assert payload["status"] is RunStatus.RUNNING
    after = session.store.open_run(PLAN).run
    after.updated_at = log.run.updated_at
    assert after == log.run


@pytest.mark.parametrize(
    ("line", "uncertain"),
    [
        (2, {FOURTH}),  # the claim of a chunk that later lines show to be done
        (4, {FIRST, FOURTH}),  # a chunk's end: it looks claimed, as does the one that is
        (8, {THIRD, FOURTH}),  # the claim of a chunk that failed
        (10, {FOURTH}),  # the claim of a chunk of which only the verification is left
        (11, {FOURTH}),  # the verification of a chunk that may be about to be written
    ],
)
def test_a_damaged_line_leaves_in_doubt_what_it_may_have_been_about(
    session: Session, line: int, uncertain: set[Chunk]
) -> None:
    """Done chunks stay done; a chunk whose end may be lost is named; nothing runs before a person has checked."""
    _write(session.store)
    run, events = _paths(session.store)
    run.unlink()
    original = events.read_bytes()
    _damage_line(events, line)
    with pytest.raises(DamagedStateError):
        session.store.open_run(PLAN)
    payload = repair_plan(session, PLAN.plan_id)
    assert not payload["ok"]
    assert payload["status"] is RunStatus.CANCELLED
    assert set(payload["uncertainChunkIds"]) == {chunk.id for chunk in uncertain}
    after = session.store.open_run(PLAN).run
    for chunk in {FIRST, SECOND} - uncertain:
        assert after.state(chunk.id).status is ChunkStatus.DONE
    (kept,) = events.parent.glob(f"{PLAN.plan_id}.ndjson.damaged-*")
    assert len(kept.read_bytes().splitlines()) == len(original.splitlines())
    assert repair_plan(session, PLAN.plan_id)["noop"]


def test_a_log_that_was_cut_leaves_all_in_doubt_that_is_not_done(session: Session) -> None:
    """Any chunk may have been claimed and written in the lines that are gone."""
    _write(session.store)
    session.store.open_run(PLAN).write_checkpoint()
    _, events = _paths(session.store)
    lines = events.read_bytes().splitlines(keepends=True)
    events.write_bytes(b"".join(lines[:3]))
    payload = repair_plan(session, PLAN.plan_id)
    assert payload["status"] is RunStatus.CANCELLED
    run = session.store.open_run(PLAN).run
    # The run file had seen both chunks done.
    assert set(run.done) == {FIRST.id, SECOND.id}
    assert set(payload["uncertainChunkIds"]) == {chunk.id for chunk in chunks_of(PLAN)} - set(run.done)
    assert "8 at its end are gone" in payload["actions"][1]


def test_a_repaired_run_goes_on_when_somebody_resumes_it(session: Session) -> None:
    """A claim continues from its state, including the verified rows."""
    _write(session.store)
    run, events = _paths(session.store)
    run.unlink()
    _damage_line(events, 3)
    repair_plan(session, PLAN.plan_id)
    log = session.store.open_run(PLAN)
    log.append(RunResumed(at=utc_now(), by="someone"))
    log.append(started(PLAN, FOURTH, 2, takes_over=True))
    assert log.run.state(FOURTH.id).verified.keys() == {1}
    log.append(done(FOURTH, 2))
    assert session.store.open_run(PLAN).run == log.run


def test_a_log_is_not_exchanged_under_a_live_worker(session: Session) -> None:
    """It may be about to record a chunk."""
    _write(session.store)
    log = session.store.open_run(PLAN)
    log.append(
        started(PLAN, THIRD, 2, at=utc_now())
        if log.run.state(THIRD.id).status is ChunkStatus.PENDING
        else started(PLAN, chunks_of(PLAN)[4], by="elsewhere:5:6:b", at=utc_now())
    )
    run, events = _paths(session.store)
    run.unlink()
    _damage_line(events, 3)
    with pytest.raises(RequestError, match="Workers are on plan"):
        repair_plan(session, PLAN.plan_id)


def test_a_damaged_plan_cannot_be_made_out(session: Session) -> None:
    """Its statements stand nowhere else."""
    Path(session.store.plan_path(PLAN.plan_id)).write_bytes(b"{")
    with pytest.raises(DamagedStateError, match="is damaged"):
        repair_plan(session, PLAN.plan_id)


def test_a_newer_versions_files_are_not_repaired(session: Session) -> None:
    """They are whole; it is this program that is too old."""
    _write(session.store)
    run, _ = _paths(session.store)
    content = run.read_bytes().replace(b'"format":2', b'"format":3')
    run.write_bytes(content)
    with pytest.raises(DamagedStateError, match="newer version"):
        repair_plan(session, PLAN.plan_id)
    assert run.read_bytes() == content


def test_damage_is_found_by_each_name_of_the_target(session: Session) -> None:
    """On a cluster, a table has the name of the shard's table and those of the Distributed tables over it."""
    local = TableName("shop", "orders_local")
    plan = make_plan(2, known_as=(PLAN.target, local))
    session.store.save_plan(plan)
    log = session.store.open_run(plan)
    log.append(RunStarted(at=START, by="ada"))
    log.write_checkpoint()
    Path(session.store.run_path(plan.plan_id)).write_text("")
    refuse_damaged(session, TableName("shop", "another"))
    with pytest.raises(DamagedStateError):
        refuse_damaged(session, local)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_damage_makes_a_written_chunk_look_untouched(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever happens to the log, a chunk that was done is known to be done, or named as in doubt."""
    store = StateStore(FileBackend(tmp_path_factory.mktemp("state")))
    store.save_plan(PLAN)
    session = Session(store, Options(), None, "someone")
    log = store.open_run(PLAN)
    finished = data.draw(st.integers(1, 5))
    for chunk in chunks_of(PLAN)[:finished]:
        for event in (started(PLAN, chunk, by=GONE), verified(chunk, by=GONE), done(chunk, by=GONE)):
            log.append(event)
    run, events = _paths(store)
    if data.draw(st.booleans()):
        log.write_checkpoint()
    else:
        run.unlink()
    lines = events.read_bytes().splitlines(keepends=True)
    # Three lines of one chunk that are cut out cleanly, or the last ones, would leave no trace at all.
    for kind in data.draw(st.lists(st.sampled_from(["zeros", "garbage", "gone"]), min_size=1, max_size=2)):
        place = data.draw(st.integers(0, len(lines) - 1 - (kind == "gone")))
        lines[place : place + 1] = {"zeros": [b"\0" * 40 + b"\n"], "garbage": [b"{}\n"], "gone": []}[kind]
    events.write_bytes(b"".join(lines))
    try:
        after: Run = store.open_run(PLAN).run
    except DamagedStateError:
        payload = repair_plan(session, PLAN.plan_id)
        after = store.open_run(PLAN).run
        in_doubt = set(payload["uncertainChunkIds"])
    else:
        in_doubt = set()
    for chunk in chunks_of(PLAN)[:finished]:
        state = after.state(chunk.id)
        assert state.status in (ChunkStatus.DONE, ChunkStatus.RUNNING) or chunk.id in in_doubt
