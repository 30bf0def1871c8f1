"""
Attempts on a cluster of several servers.

Two real servers that know each other, and what a look from one at the other gives. A replica that can be
written to cannot be had here, so what needs one is held by its statements: see docs/explanation/replicas-and-upgrades.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from airflow_provider_backfill.clickhouse import attempt as attempts
from airflow_provider_backfill.clickhouse import diagnostics, publish
from airflow_provider_backfill.clickhouse.attempt import Attempt, kill_queries
from airflow_provider_backfill.clickhouse.catalog import table_facts
from airflow_provider_backfill.clickhouse.client import ClickHouse, connect
from airflow_provider_backfill.clickhouse.execute import run_attempt
from airflow_provider_backfill.core.facts import TableName
from airflow_provider_backfill.core.run_state import ContentSums
from airflow_provider_backfill.core.sql import sealed_table
from airflow_provider_backfill.errors import Advice, RequestError, ServerError
from tests.clickhouse.lab import Lab
from tests.server import ClickHouseServer, free_port

PLAN, CHUNK = "0123456789abcdef", "fedcba9876543210"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ClickHouseServer, ClickHouseServer]]:
    """Two servers in one cluster."""
    one, two = free_port(), free_port()
    folder = tmp_path_factory.mktemp("pair")
    with (
        ClickHouseServer(folder / "one", tcp_port=one, peers=[two]) as first,
        ClickHouseServer(folder / "two", tcp_port=two, peers=[one]) as second,
    ):
        yield first, second


@pytest.fixture
def earlier(pair: tuple[ClickHouseServer, ClickHouseServer]) -> Iterator[str]:
    """A query of an earlier attempt that runs on the first server for three seconds."""
    name = f"backfill-{PLAN}-{CHUNK}-1"
    server = connect(pair[0].url)
    sleep = "SELECT sleepEachRow(0.5) FROM numbers(6) SETTINGS max_block_size = 1"

    def run() -> None:
        # Killed when a test kills it.
        try:
            server.rows(sleep, {"query_id": name})
        except ServerError:
            return

    thread = threading.Thread(target=run)
    thread.start()
    look = connect(pair[0].url)
    while not look.rows(f"SELECT 1 FROM system.processes WHERE query_id = '{name}'"):
        time.sleep(0.02)
    yield name
    look.command(f"KILL QUERY WHERE query_id = '{name}' SYNC")
    thread.join()


def test_a_query_on_another_server_is_waited_for(pair: tuple[ClickHouseServer, ClickHouseServer], earlier: str) -> None:
    other = connect(pair[1].url)
    assert other.cluster == "replicas"
    assert not diagnostics.live_queries(other)
    assert kill_queries(other, PLAN, CHUNK) == 1
    assert not connect(pair[0].url).rows(f"SELECT 1 FROM system.processes WHERE query_id = '{earlier}'")


def test_a_query_that_does_not_end_is_named_with_its_host(
    pair: tuple[ClickHouseServer, ClickHouseServer], earlier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "_ELSEWHERE_SECONDS", 0.3)
    with pytest.raises(
        ServerError, match=f"1 queries of earlier attempts go on on other servers: {earlier} on "
    ) as raised:
        kill_queries(connect(pair[1].url), PLAN, CHUNK)
    assert isinstance(raised.value.remedy, Advice)
    (statement,) = raised.value.remedy.parts
    connect(pair[0].url).command(str(statement))
    assert kill_queries(connect(pair[1].url), PLAN, CHUNK) == 0


def test_doctor_sees_it_and_says_where_to_kill_it(
    pair: tuple[ClickHouseServer, ClickHouseServer], earlier: str
) -> None:
    facts = diagnostics.server_facts(connect(pair[1].url), TableName("default", "absent"), None, ())
    assert [(query.query_id, query.cluster) for query in facts.queries] == [(earlier, "replicas")]
    here = diagnostics.server_facts(connect(pair[0].url), TableName("default", "absent"), None, ())
    assert [(query.query_id, query.cluster) for query in here.queries] == [(earlier, "")]


def test_a_server_that_is_down_is_not_waited_for(tmp_path: Path) -> None:
    with ClickHouseServer(tmp_path, peers=[free_port()]) as alone:
        server = connect(alone.url)
        assert server.cluster == "replicas"
        began = time.monotonic()
        assert kill_queries(server, PLAN, CHUNK) == 0
        assert time.monotonic() - began < 20


def made(lab: Lab, *, number: int = 2, replica: str = "", clear: bool = False) -> Attempt:
    """A second attempt of the first chunk, on replica ``two`` of the target."""
    lab.sql(
        "CREATE TABLE source (ts DateTime, n UInt32) ENGINE = MergeTree ORDER BY ts",
        "CREATE TABLE filled AS source",
        "INSERT INTO source SELECT toDateTime('2025-01-01', 'UTC') + number * 3600, number FROM numbers(24)",
    )
    plan = lab.session.store.load_plan(lab.plan("filled", "2025-01-01", "2025-01-02", 24, source="source")["planId"])
    target = table_facts(lab.server(), lab.table("filled"))
    assert target is not None
    return Attempt(
        plan,
        replace(target, replica="two"),
        next(iter(plan.chunks())),
        number,
        lambda: None,
        lambda _: None,
        lambda _: None,
        earlier={1: ContentSums(24, 0)},
        replica=replica,
        clear=clear,
    )


def test_what_another_replica_verified_and_may_have_published_is_not_written_again(http_lab: Lab) -> None:
    attempt = made(http_lab, replica="one")
    with pytest.raises(RequestError, match=r"verified on replica one of .* from this replica, two") as raised:
        run_attempt(http_lab.server(), attempt)
    assert f"--plan-id {attempt.plan.plan_id} --replay-failed --clear-window" in raised.value.hint
    assert http_lab.content("filled")[0] == 0
    assert not http_lab.leftovers()


@pytest.mark.parametrize(("replica", "clear"), [("two", False), ("", False), ("one", True)])
def test_an_attempt_goes_on_where_the_earlier_one_was_or_after_its_window_is_cleared(
    http_lab: Lab, replica: str, clear: bool
) -> None:
    assert run_attempt(http_lab.server(), made(http_lab, replica=replica, clear=clear)).rows == 24
    assert http_lab.content("filled") == http_lab.content("source")


class Recorder:
    """Stands for a writable replica, which cannot be had here: answers with *partitions* and keeps the commands."""

    embedded = False

    def __init__(self, *partitions: str) -> None:
        self.partitions = partitions
        self.commands: list[str] = []

    def rows(self, sql: str, *_: object) -> list[tuple[Any, ...]]:
        """The partitions wherever they are asked for; no part, and no row."""
        if "count()" in sql:
            return [(0,)]
        if "sum(rows)" in sql:
            return [(name, 24) for name in self.partitions]
        return [] if "hash_of_all_files" in sql else [(name,) for name in self.partitions]

    def command(self, sql: str, *_: object) -> None:
        """Keep it."""
        self.commands.append(sql)


@pytest.mark.parametrize(("how", "synchronised"), [("moved", False), ("moved again", True), ("replaced", True)])
def test_a_replica_catches_up_before_partitions_are_taken_from_it(http_lab: Lab, how: str, synchronised: bool) -> None:
    attempt = made(http_lab)
    target = replace(attempt.target, engine="ReplicatedMergeTree")
    attempt, recorder = attempt._replace(target=target), Recorder("202501")
    sealed = sealed_table(attempt.plan, target.storage, attempt.chunk.id)
    server = cast("ClickHouse", recorder)
    if how == "replaced":
        publish.replace_partitions(server, attempt, sealed)
    else:
        publish.move_partitions(server, attempt, sealed, ContentSums(24, 0), resumed=how == "moved again")
    words = [command.split("`")[0].strip() for command in recorder.commands]
    assert words == ["SYSTEM SYNC REPLICA"] * 2 * synchronised + ["ALTER TABLE"]
    assert "_sealed`" in recorder.commands[0]
