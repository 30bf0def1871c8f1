"""One Replicated database over all shards: it executes each DDL statement, and most ALTERs, on all of its servers."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from airflow_provider_backfill.clickhouse import fence
from airflow_provider_backfill.clickhouse.client import connect
from airflow_provider_backfill.commands.run import run_plan
from airflow_provider_backfill.commands.session import Session
from airflow_provider_backfill.core import leftovers
from airflow_provider_backfill.options import Options
from airflow_provider_backfill.state.posix import FileBackend
from airflow_provider_backfill.state.store import StateStore
from tests.cluster.balancer import Balancer
from tests.cluster.field import FIRST, LAST, Field, Kind
from tests.cluster.nodes import Cluster
from tests.command_line import Answer, Cli, wait_until

_numbers = itertools.count(1)


@pytest.fixture
def both(square: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Field]:
    """A source with other rows on each shard and an empty target, with a balancer in front of each shard."""
    with ExitStack() as stack:
        balancers = [
            stack.enter_context(Balancer([node for node in square.nodes if node.shard == shard])) for shard in (1, 2)
        ]
        name = f"one_database_{next(_numbers)}"
        made = Field(square, balancers[0], name, tmp_path / "state", capsys, Kind.DATABASE, (balancers[1],))
        made.fill_source(rows=2_000)
        made.create("target")
        yield made
        made.clear()


def assert_filled(both: Field) -> None:
    """Hold that each replica of the target has the rows of its shard's source once, and nothing of ours is left."""
    assert both.contents("target") == both.contents("source")
    both.assert_clean()


def replaced(both: Field, cli: Cli, *flags: str, target: str = "target") -> Answer:
    """Ask for a plan that replaces the partitions of the two months."""
    tables = ("--target", f"{both.database}.{target}", "--source", f"{both.database}.source")
    window = ("--from", FIRST, "--to", LAST, "--chunk-hours", str(24 * 59), "--force-large-window")
    return cli("plan", *tables, *window, "--write-mode", "replace", *flags)


def test_one_plan_fills_all_shards_of_one_replicated_database(both: Field) -> None:
    cli = both.cli()
    # Several chunks of a shard share a staging table.
    plan = both.plan(cli, *both.shard_flags, hours=24 * 7)
    answer = cli("run", "--plan-id", plan)
    assert answer.code == 0, answer.err
    assert_filled(both)
    assert cli.json("verify", "--plan-id", plan)["verdict"] == "equal"
    # A deletion would name parts, and parts of other shards have the same names.
    cleared = cli("run", "--plan-id", plan, "--replay-done", "--clear-window")
    assert (cleared.code, "executes ALTER TABLE … DELETE on all of them" in cleared.err) == (2, True), cleared.err
    assert_filled(both)


def test_what_the_database_would_do_on_other_shards_too_is_refused(both: Field) -> None:
    cli = both.cli()
    # A plan of one shard alone would do the same to the other one.
    for flags in (both.shard_flags, ()):
        refused = replaced(both, cli, *flags)
        assert (refused.code, "executes REPLACE PARTITION on all of them" in refused.err) == (2, True), refused.err
    # What a deletion would do: the parts of both shards have one name.
    first, second = (both.cluster.node(1, shard) for shard in (1, 2))
    for node in (first, second):
        node.query(f"INSERT INTO {both.database}.target SELECT * FROM {both.database}.source")
    first.query(
        f"ALTER TABLE {both.database}.target DELETE WHERE id % 2 = 0 AND _part = '202501_0_0_0'", mutations_sync=2
    )
    lost = f"SELECT count() < (SELECT count() FROM {both.database}.source) FROM {both.database}.target"
    assert first.query(lost) == "1"
    # The statement waits for the shard that it was sent to.
    wait_until(lambda: second.query(lost) == "1")


def test_clean_on_one_shard_keeps_what_a_run_on_the_other_one_needs(
    both: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database shows the tables of that run here, and drops them there; the heartbeats of its fence are there."""
    # As if the run had lasted for longer than an hour: its tables are old, and only its heartbeats are not.
    monkeypatch.setattr(leftovers, "FRESH_SECONDS", -1)
    monkeypatch.setattr(fence, "_SILENT_SECONDS", 4)
    here, there = both.cli(both.cluster.node(1, 1)), both.cli(both.cluster.node(1, 2), state="there")
    plan = both.plan(there, hours=24 * 59)
    fates: list[str] = []

    def step(at: str) -> None:
        if at == "staged":
            time.sleep(6)
            cleaned = here.json("clean", "--yes", "--target", f"{both.database}.target")
            fates.extend(f"{table['kind']} {table['fate']}" for table in cleaned["tables"])

    session = Session(StateStore(FileBackend(there.state)), Options(), lambda: connect(there.url), "test")
    payload = run_plan(session, plan, step=step, lease_seconds=2)
    assert sorted(fates) == ["fence kept", "staging kept"]
    assert (payload["status"], payload["attempts"]) == ("completed", 1)
    both.assert_clean()


@pytest.mark.long
def test_nothing_waits_for_a_dead_replica_of_the_database(both: Field) -> None:
    both.create("sums", engine="SummingMergeTree(amount)")
    dead, began = both.cluster.node(2, 2), time.monotonic()
    dead.kill()
    cli = both.cli()
    # The parts of groups are tried in private tables.
    select = f"SELECT ts, id, sum(amount) AS amount FROM {both.database}.source GROUP BY ts, id"
    window = ("--from", FIRST, "--to", LAST, "--chunk-hours", str(24 * 31), "--force-large-window")
    planned = cli.json("plan", "--target", f"{both.database}.sums", "--select", select, *window, *both.shard_flags)
    assert "agree in" in planned["addsUp"]["trial"], planned
    answer = cli("run", "--plan-id", planned["planId"])
    assert answer.code == 0, answer.err
    # ClickHouse lets one statement wait that long.
    assert time.monotonic() - began < 180
    dead.start()
    # It first executes what the database's log has got meanwhile.
    wait_until(lambda: dead.query(f"EXISTS TABLE {both.database}.sums") == "1")
    assert both.contents("sums") == both.contents("source")
    both.assert_clean()


@pytest.mark.long
def test_shards_with_one_server_each_need_no_replicated_tables(both: Field) -> None:
    """The database does not replicate the rows of an ordinary MergeTree, so each server has its own."""
    cli = both.cli(both.cluster.node(1, 1))
    engine = "ENGINE = MergeTree PARTITION BY toYYYYMM(ts) ORDER BY id"
    both.query(f"CREATE TABLE {both.database}.plain AS {both.database}.target {engine}")
    addresses = (f"{shard}={both.cluster.node(1, shard).url.replace('default@', '')}" for shard in (1, 2))
    flags = ("--cluster", both.cluster.name, *(word for url in addresses for word in ("--shard-url", url)))
    refused = replaced(both, cli, *flags, target="plain")
    assert "executes REPLACE PARTITION on all of them" in refused.err
    plan = both.plan(cli, *flags, target="plain", hours=24 * 31)
    answer = cli("run", "--plan-id", plan)
    assert answer.code == 0, answer.err
    for shard in (1, 2):
        node = both.cluster.node(1, shard)
        assert both.content(node, "plain") == both.content(node, "source")
    both.assert_clean()


@pytest.mark.long
def test_run_and_undo_notice_that_the_database_has_got_a_shard(
    square: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"one_database_{next(_numbers)}"
    create = f"CREATE DATABASE {name} ENGINE = Replicated('/clickhouse/databases/{name}', '{{shard}}', '{{replica}}')"
    first, second = ([node for node in square.nodes if node.shard == shard] for shard in (1, 2))
    for node in first:
        node.query(create)
    with Balancer(first) as balancer:
        field = Field(square, balancer, name, tmp_path / "state", capsys, Kind.DATABASE, _ready=True)
        for table in ("source", "target", "other"):
            field.create(table)
        field.query(f"INSERT INTO {name}.source SELECT toDateTime('2025-01-05'), number, 1 FROM numbers(100)")
        cli = field.cli()
        done, waiting = (
            field.plan(cli, "--write-mode", "replace", "--backup", target=table) for table in ("target", "other")
        )
        assert cli("run", "--plan-id", done).code == 0
        for node in second:
            node.query(create)
        shards = f"SELECT uniqExact(shard_num) FROM system.clusters WHERE cluster = '{name}'"
        wait_until(lambda: all(node.query(shards) == "2" for node in first))
        for command, plan in (("run", waiting), ("undo", done)):
            refused = cli(command, "--plan-id", plan)
            assert (refused.code, "executes REPLACE PARTITION on all of them" in refused.err) == (2, True), refused.err
        field.clear()
