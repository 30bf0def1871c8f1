"""Queries of attempts on two servers that know each other; tests/cluster has replicas and Keeper."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_backfill.clickhouse import attempt as attempts
from airflow_provider_backfill.clickhouse import diagnostics
from airflow_provider_backfill.clickhouse.attempt import kill_queries
from airflow_provider_backfill.clickhouse.client import connect
from airflow_provider_backfill.clickhouse.leftovers import live_queries
from airflow_provider_backfill.core.tables import TableName
from airflow_provider_backfill.errors import Advice, ServerError
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
    assert not live_queries(other)
    assert kill_queries(other, PLAN, CHUNK) == 1
    assert not connect(pair[0].url).rows(f"SELECT 1 FROM system.processes WHERE query_id = '{earlier}'")


def test_a_query_that_does_not_end_is_named_with_its_host(
    pair: tuple[ClickHouseServer, ClickHouseServer], earlier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "_PATIENCE_SECONDS", 0.3)
    with pytest.raises(ServerError, match=rf"still running on other servers \(1\): {earlier} on ") as raised:
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
