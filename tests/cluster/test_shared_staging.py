"""What the sharing of staging tables must not bring: a table serves several chunks of a worker in mode ``stage``."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable

import pytest

from airflow_provider_backfill.clickhouse import cluster
from airflow_provider_backfill.clickhouse.client import connect
from airflow_provider_backfill.commands.lease import utc_now
from airflow_provider_backfill.commands.run import run_plan
from airflow_provider_backfill.commands.session import Session
from airflow_provider_backfill.core.events import ChunkReleased
from airflow_provider_backfill.core.replay import select_chunks
from airflow_provider_backfill.core.run_state import ChunkStatus
from airflow_provider_backfill.options import Options
from airflow_provider_backfill.state.posix import FileBackend
from airflow_provider_backfill.state.store import StateStore
from tests.cluster.balancer import Balancer
from tests.cluster.field import Field
from tests.cluster.nodes import Node
from tests.command_line import Cli, finish

ATTACH = "ATTACH PARTITION ID '202501' FROM"
FILL = "`amount`) SELECT"
PROOF = "uncompressed_hash_of_compressed_files"
EMPTY = "DROP PARTITION ID"
ONE_AT_A_TIME = ("--max-parallel-chunks", "1")


def held_at(field: Field, cli: Cli, plan: str, words: str, when: Callable[[], bool] = lambda: True) -> threading.Event:
    """Kill a worker whose first statement with *words* is held on its way; the event lets the statement go on."""
    go, arrived = threading.Event(), threading.Event()

    def hold(sql: str) -> None:
        if words in sql and not arrived.is_set() and when():
            arrived.set()
            go.wait(60)

    field.balancer.before = hold
    worker = cli.start("run", "--plan-id", plan, "--force-environment", *ONE_AT_A_TIME)
    assert arrived.wait(60)
    worker.kill()
    finish(worker)
    return go


def test_a_late_statement_of_a_dead_worker_copies_nothing_into_a_backup(simple: Field) -> None:
    """The next attempt does not know the first one's table from the log, and drops the table by its name."""
    simple.query(f"INSERT INTO {simple.database}.target SELECT ts, id, amount + 1 FROM {simple.database}.source")
    before = simple.contents("target")
    cli, copy = simple.cli(), "REPLACE PARTITION ID '202501'"
    plan = simple.plan(cli, "--write-mode", "replace", "--backup", hours=24 * 31)
    go, answered = held_at(simple, cli, plan, copy), threading.Event()

    def after(sql: str) -> None:
        # The first chunk is published, and the run goes on.
        if copy in sql and "backup" not in sql:
            simple.balancer.after = lambda sql: answered.set() if copy in sql else None
            go.set()
            assert answered.wait(30)

    simple.balancer.after = after
    answer = cli("run", "--plan-id", plan, *ONE_AT_A_TIME)
    assert answer.code == 0, answer.err
    assert answered.is_set()
    assert simple.contents("target") == simple.contents("source")
    assert cli("undo", "--plan-id", plan).code == 0
    assert simple.contents("target") == before


@pytest.mark.parametrize(
    "change", ["ADD COLUMN more UInt8", pytest.param("ADD INDEX i id TYPE minmax", marks=pytest.mark.long)]
)
def test_a_target_may_be_altered_between_two_chunks(simple: Field, change: str) -> None:
    """The table of the chunks before has the old definition, and a target takes no rows from such a table."""
    cli, altered = simple.cli(), threading.Event()
    plan = simple.plan(cli, hours=24 * 7)

    def after(sql: str) -> None:
        if EMPTY in sql and not altered.is_set():
            altered.set()
            simple.query(f"ALTER TABLE {simple.database}.target {change}")
            simple.catch_up("target")

    simple.balancer.after = after
    answer = cli("run", "--plan-id", plan, *ONE_AT_A_TIME)
    assert answer.code == 0, answer.err
    assert altered.is_set()
    status = cli.json("status", "--plan-id", plan)
    assert status["attempts"] == status["chunkCounts"]["total"] + 1
    assert simple.contents("target", "ts, id, amount") == simple.contents("source")
    simple.assert_clean()


def test_rows_that_a_dead_worker_staged_before_the_target_was_altered_are_staged_again(simple: Field) -> None:
    cli = simple.cli()
    plan = simple.plan(cli, hours=24 * 31)
    go = held_at(simple, cli, plan, ATTACH)
    simple.query(f"ALTER TABLE {simple.database}.target ADD COLUMN more UInt8")
    simple.catch_up("target")
    assert "has other columns" in cli("run", "--plan-id", plan).err
    answer = cli("run", "--plan-id", plan, "--force-compatibility")
    assert answer.code == 0, answer.err
    go.set()
    assert simple.contents("target", "ts, id, amount") == simple.contents("source")
    simple.assert_clean()


@pytest.mark.long
def test_rows_of_an_earlier_chunk_that_may_still_arrive_are_not_published(
    simple: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica has all rows of the chunk, and has still to fetch a part of an earlier chunk, and to drop the part."""
    monkeypatch.setattr(cluster, "SYNC_SECONDS", 2)
    cli, first, second = simple.cli(), *simple.cluster.nodes
    plan = simple.plan(cli, hours=24 * 7)
    go = held_at(simple, cli, plan, ATTACH)
    of_ours = f"database = '{simple.database}' AND table LIKE 'backfill%staged%'"
    staged = f"{simple.database}." + first.query(f"SELECT DISTINCT table FROM system.parts WHERE {of_ours}")
    node: Node
    for node in simple.cluster.nodes:
        node.query(f"SYSTEM SYNC REPLICA {staged}")
    second.stop_fetches(staged)
    first.query(f"INSERT INTO {staged} SELECT ts, id + 1000000, amount FROM {simple.database}.source WHERE id < 3")
    name = first.query(f"SELECT name FROM system.parts WHERE {of_ours} AND active AND rows = 3")

    once = threading.Lock()

    def arrive(sql: str) -> None:
        if ATTACH in sql and once.acquire(blocking=False):
            second.start_fetches(staged)
            second.query(f"SYSTEM SYNC REPLICA {staged}")

    with Balancer([second]) as only:
        only.before = arrive
        through = dataclasses.replace(cli, url=only.url)
        answer = through("run", "--plan-id", plan, "--force-environment", *ONE_AT_A_TIME)
    assert answer.code == 1, simple.contents("target")
    assert "or may fetch such parts" in answer.err
    second.start_fetches(staged)
    first.query(f"ALTER TABLE {staged} DROP PART '{name}'")
    answer = cli("run", "--plan-id", plan, "--replay-failed", "--force-environment")
    assert answer.code == 0, answer.err
    go.set()
    simple.assert_filled()


@pytest.mark.long
@pytest.mark.parametrize("words", [FILL, PROOF, ATTACH])
def test_a_worker_loses_a_chunk_and_keeps_its_session(simple: Field, words: str) -> None:
    """Another one publishes the chunk, begins the next one and dies; then the first one's statement goes on."""
    cli = simple.cli()
    plan = simple.plan(cli, hours=24 * 7)
    store = StateStore(FileBackend(cli.state))
    done, once = threading.Event(), threading.Lock()

    def lose(sql: str) -> None:
        log = store.open_run(store.load_plan(plan))
        # By then, the worker uses a table again.
        if words not in sql or log.run.count(ChunkStatus.DONE) < 2 or not once.acquire(blocking=False):
            return
        (chunk,) = select_chunks(log.plan, log.run, ChunkStatus.RUNNING)
        state = log.run.state(chunk.id)
        reason = "it looks dead"
        log.append(ChunkReleased(at=utc_now(), by=state.owner, chunk_id=chunk.id, attempt=state.attempt, reason=reason))
        with Balancer(simple.cluster.nodes, seed=1) as other:
            field = dataclasses.replace(simple, balancer=other)
            held_at(field, field.cli(), plan, FILL, when=lambda: chunk.id in log.refresh().done).set()
        done.set()

    simple.balancer.before = lose
    first = Session(store, Options(), lambda: connect(cli.url), "first")
    run_plan(first, plan)
    assert done.is_set()
    answer = cli("run", "--plan-id", plan)
    assert answer.code == 0, answer.err
    simple.assert_filled()


def test_a_quorum_holds_for_each_chunk(simple: Field) -> None:
    cli = simple.cli(user="quorum")
    plan = simple.plan(cli, hours=24 * 7)
    answer = cli("run", "--plan-id", plan)
    assert answer.code == 0, answer.err
    status = cli.json("status", "--plan-id", plan)
    assert status["attempts"] == status["chunkCounts"]["total"]
    simple.assert_filled()
