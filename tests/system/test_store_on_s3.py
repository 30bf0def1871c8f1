"""The same tests of the store as in the unit tier, on a real S3 server; and what only a server can show."""

from __future__ import annotations

import threading
import time
from typing import Any

import obstore
import pytest
from obstore.exceptions import GenericError

from airflow_provider_backfill.commands.session import Session
from airflow_provider_backfill.errors import StateError
from airflow_provider_backfill.option_sources import parse_options
from airflow_provider_backfill.state import object_store
from airflow_provider_backfill.state.object_store import ObjectBackend
from airflow_provider_backfill.state.store import StateStore, open_store
from airflow_provider_backfill.web.views.overview import Overview
from tests.s3 import S3Server
from tests.state import chunks_of, done, make_plan, started, verified
from tests.unit.test_store import *  # noqa: F403 - the same suite; the fixture below decides where it runs

PLAN = make_plan(4)
FIRST, SECOND, *_ = chunks_of(PLAN)


@pytest.fixture  # type: ignore[no-redef]
def store(s3_server: S3Server) -> StateStore:
    """An empty store in a bucket of its own."""
    return open_store(f"s3://{s3_server.new_bucket()}/prefix", config=s3_server.config)


def _backend(store: StateStore) -> ObjectBackend:
    assert isinstance(store.backend, ObjectBackend)
    return store.backend


def test_a_commit_is_one_request(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round trip costs tens of milliseconds; a claim must not take several."""
    store.save_plan(PLAN)
    log = store.open_run(PLAN)
    log.append(started(PLAN, FIRST))
    asked: list[str] = []

    def counted(name: str, original: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            asked.append(name)
            return original(*arguments, **named)

        return call

    for name in ("put", "get", "head", "list"):
        monkeypatch.setattr(obstore, name, counted(name, getattr(obstore, name)))
    for event in (verified(FIRST), done(FIRST), started(PLAN, SECOND)):
        log.append(event)
    assert asked.count("put") <= 4
    assert [name for name in asked if name != "put"] in ([], ["head", "head"])


def test_the_page_follows_a_run(store: StateStore) -> None:
    """What the page asks for: the list, a plan's map and its news, the attempts of a chunk."""
    overview = Overview(Session(store, parse_options({}), None, "test"))
    store.save_plan(PLAN)
    log = store.open_run(PLAN)
    log.append(started(PLAN, FIRST))
    (listed,) = overview.plans()["plans"]
    assert (listed["planId"], listed["status"]) == (PLAN.plan_id, "running")
    seen = overview.plan(PLAN.plan_id)
    assert seen["changed"]
    log.append(verified(FIRST))
    log.append(done(FIRST))
    news = overview.plan(PLAN.plan_id, since=seen["version"], after=seen["lastEvent"])
    assert (news["changed"], news["complete"]) == (True, True)
    assert [event["type"] for event in news["events"]] == ["ChunkDone"]
    assert not overview.plan(PLAN.plan_id, since=news["version"])["changed"]
    (attempt,) = overview.chunk(PLAN.plan_id, FIRST.id)["attempts"]
    assert attempt["outcome"] == "done"


def test_an_answer_that_was_lost_is_no_conflict(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library sends a request again when its answer is lost; the second one finds the first one's object."""
    store.save_plan(PLAN)
    log = store.open_run(PLAN)
    log.append(started(PLAN, FIRST))
    put: Any = obstore.put

    def twice(*arguments: Any, **named: Any) -> Any:
        put(*arguments, **named)
        return put(*arguments, **named)

    monkeypatch.setattr(obstore, "put", twice)
    log.append(done(FIRST))
    monkeypatch.setattr(obstore, "put", put)
    log.append(started(PLAN, SECOND))
    assert store.open_run(PLAN).run == log.run
    assert log.lines == 4


def test_a_request_that_failed_is_an_error_and_the_next_look_tells(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the event is there cannot be known; the log can, and memory must not be ahead of it."""
    store.save_plan(PLAN)
    log = store.open_run(PLAN)
    log.append(started(PLAN, FIRST))
    put: Any = obstore.put

    def lost(*arguments: Any, **named: Any) -> Any:
        put(*arguments, **named)
        raise GenericError("connection closed before message completed: https://host/x?sig=abc123")

    monkeypatch.setattr(obstore, "put", lost)
    with pytest.raises(StateError, match="connection closed") as caught:
        log.append(done(FIRST))
    assert "abc123" not in str(caught.value)
    monkeypatch.setattr(obstore, "put", put)
    assert log.refresh() == store.open_run(PLAN).run
    assert FIRST.id in log.run.done


def test_a_lock_keeps_others_out_and_is_free_afterwards(store: StateStore) -> None:
    """Two runs that begin at once are judged one after the other."""
    inside, overlapped = [0], [False]

    def enter() -> None:
        with store.exclusive("target-x"):
            inside[0] += 1
            overlapped[0] = overlapped[0] or inside[0] > 1
            time.sleep(0.02)
            inside[0] -= 1

    threads = [threading.Thread(target=enter) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not overlapped[0]


def test_a_lock_of_the_dead_is_taken_over_and_the_dead_is_told(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder that was frozen too long must not go on as if it still held the lock."""
    monkeypatch.setattr(object_store, "_LEASE_SECONDS", 0.5)
    entered: list[float] = []
    with pytest.raises(StateError, match="taken over by another process"):
        _hold_until_taken_over(store, entered)
    assert entered[0] >= 0.5


def _hold_until_taken_over(store: StateStore, entered: list[float]) -> None:
    with store.exclusive("target-x"):
        thread = threading.Thread(target=_enter, args=(store, entered))
        thread.start()
        thread.join(30)
        assert entered


def _enter(store: StateStore, entered: list[float]) -> None:
    began = time.monotonic()
    with store.exclusive("target-x"):
        entered.append(time.monotonic() - began)


def test_segments_that_somebody_deleted_are_damage(store: StateStore) -> None:
    """A bucket's lifecycle rule deletes the oldest; a run that began anew would write every row twice."""
    store.save_plan(PLAN)
    log = store.open_run(PLAN)
    for event in (started(PLAN, FIRST), verified(FIRST), done(FIRST)):
        log.append(event)
    backend = _backend(store)
    names = [meta["path"] for batch in obstore.list(backend.store, f"events/{PLAN.plan_id}/") for meta in batch]
    assert len(names) == 4
    obstore.delete(backend.store, f"runs/{PLAN.plan_id}.json")
    obstore.delete(backend.store, min(names))
    with pytest.raises(StateError, match="is gone, although later lines"):
        store.open_run(PLAN)
    obstore.delete(backend.store, names[1:])


def test_a_bucket_that_is_not_there_says_so(s3_server: S3Server) -> None:
    """A typing error in the bucket must not look like a place without plans, or `check` would pass."""
    with pytest.raises(StateError, match="Cannot list s3://no-such-bucket/prefix/plans"):
        open_store("s3://no-such-bucket/prefix", config=s3_server.config).plan_ids()


def test_credentials_come_from_the_environment_too(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """As every tool of that store takes them."""
    bucket = s3_server.new_bucket()
    for name, value in (
        ("AWS_ENDPOINT_URL", s3_server.url),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    store = open_store(f"s3://{bucket}/prefix")
    assert store.save_plan(PLAN)
    # An Airflow connection's extras have names of their own.
    extras = {"endpoint_url": s3_server.url, "region_name": "us-east-1"}
    assert open_store(f"s3://{bucket}/prefix", config=extras).load_plan(PLAN.plan_id) == PLAN
