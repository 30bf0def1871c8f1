"""Rows that lie outside of the server: in S3 by the day, in PostgreSQL, in Iceberg, on another ClickHouse."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from clickhouse_connect import get_client
from clickhouse_connect.driver.client import Client

from airflow_provider_backfill.commands.verify import verify_plan
from tests.clickhouse.lab import Lab
from tests.command_line import Cli, wait_until
from tests.s3 import S3Server
from tests.server import SECURED_PASSWORD, ClickHouseServer
from tests.system.airflow.stack import Postgres

# Of this file alone: other tests of secrets write theirs into the log of the same server.
MARKER = "m4rk3rOfAnOutsider"
COLUMNS = "(ts DateTime('UTC'), id UInt64)"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    server = Postgres().start()
    yield server
    server.stop()


@pytest.fixture
def collection(http_lab: Lab) -> Iterator[str]:
    """The name of a named collection that the test makes."""
    name = f"c_{http_lab.engine.database}"
    yield name
    http_lab.sql(f"DROP NAMED COLLECTION IF EXISTS {name}")


def test_s3_with_a_folder_a_day(
    http_lab: Lab, s3: S3Server, collection: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each chunk reads its own day's files alone, and a run that was killed goes on where it was."""
    lab, where = http_lab, f"s3({collection}, filename = '{{}}', format = 'Parquet')"
    lab.sql(
        f"CREATE NAMED COLLECTION {collection} AS url = '{s3.url}/{s3.new_bucket()}/', access_key_id = 'test',"
        f" secret_access_key = '{MARKER}'",
        f"CREATE TABLE dst {COLUMNS} ENGINE = MergeTree PARTITION BY toYYYYMM(ts) ORDER BY ts",
    )
    for day in range(1, 32):
        date = f"2025-01-{day:02}"
        rows = f"SELECT toDateTime('{date}', 'UTC') + number * 600 AS ts, {day * 1000} + number AS id"
        for part, condition in enumerate(("number < 100", "number >= 100")):
            file = where.format(f"days/{date}/{part}.parquet")
            lab.sql(f"INSERT INTO FUNCTION {file} {rows} FROM numbers(144) WHERE {condition}")
    select = f"SELECT ts, id FROM s3({collection}, filename = concat('days/', {{day:String}}, '/*.parquet'))"
    cli = Cli(lab.folder, lab.engine.url, capsys)
    plan = cli.json(
        *("plan", "--target", f"{lab.engine.database}.dst", "--from", "2025-01-01", "--to", "2025-02-01"),
        *("--chunk-by", "day", "--select", select, "--param", "day=%Y-%m-%d", "--force-large-window"),
    )
    assert (plan["chunkCount"], plan["warnings"]) == (31, [])
    running = cli.start("run", "--plan-id", plan["planId"])
    wait_until(lambda: sum(e["type"] == "ChunkDone" for e in cli.events(plan["planId"])) > 3)
    os.kill(running.pid, signal.SIGKILL)
    running.communicate()
    assert cli.json("run", "--plan-id", plan["planId"])["status"] == "completed"
    everything = where.format("days/*/*.parquet")
    content = "SELECT count(), uniqExact(id), sum(toUnixTimestamp(ts) * id) FROM"
    assert lab.rows(f"{content} dst") == lab.rows(f"{content} {everything}")
    assert lab.value("SELECT count() FROM dst") == 31 * 144
    assert cli.json("verify", "--plan-id", plan["planId"])["ok"]
    lab.sql("SYSTEM FLUSH LOGS query_log")
    read = lab.rows(
        "SELECT count() >= 31, max(read_rows), max(ProfileEvents['EngineFileLikeReadFiles']) FROM system.query_log"
        f" WHERE type = 'QueryFinish' AND match(query_id, '^backfill-{plan['planId']}-[0-9a-f]+-[0-9]+$')"
    )
    assert read == [(1, 144, 2)]
    assert _leaks(lab.engine.client, MARKER) == []
    assert MARKER not in _texts(lab.folder)


def test_postgresql_by_bounds(http_lab: Lab, postgres: Postgres, collection: str) -> None:
    """The bounds reach PostgreSQL, whose password stays in the named collection."""
    lab = http_lab
    postgres.query("CREATE TABLE events (ts timestamptz, id bigint)")
    postgres.query(
        "INSERT INTO events SELECT timestamptz '2025-01-01 00:00Z' + n * interval '10 minutes', n"
        " FROM generate_series(0, 575) AS n"
    )
    lab.sql(
        f"CREATE NAMED COLLECTION {collection} AS host = '127.0.0.1', port = {postgres.port}, user = 'airflow',"
        f" password = '{MARKER}', database = 'postgres'",
        f"CREATE TABLE dst {COLUMNS} ENGINE = MergeTree ORDER BY ts",
    )
    select = (
        f"SELECT ts, id FROM postgresql({collection}, table = 'events')"
        " WHERE ts >= {chunk_from:DateTime64(6, 'UTC')} AND ts < {chunk_to:DateTime64(6, 'UTC')}"
    )
    plan = lab.plan("dst", "2025-01-02", "2025-01-04", 6, select=select)
    assert lab.run(plan)["status"] == "completed"
    assert lab.rows("SELECT count(), min(id), max(id), uniqExact(id), min(ts) = '2025-01-02' FROM dst") == [
        (288, 144, 431, 288, 1)
    ]
    assert verify_plan(lab.session, plan["planId"])["ok"]
    assert _leaks(lab.engine.client, MARKER) == []
    assert MARKER not in _texts(lab.folder)


def test_iceberg(http_lab: Lab) -> None:
    """A table of files with snapshots takes the time filter as a table does."""
    lab, path = http_lab, f"ice/{http_lab.engine.database}/events"
    writes = {"allow_experimental_insert_into_iceberg": 1}
    lab.engine.client.command(f"CREATE TABLE ice (ts DateTime64(6), id Int64) ENGINE = IcebergLocal('{path}')")
    for day in range(1, 5):
        rows = (
            f"SELECT toDateTime64('2025-01-0{day}', 6, 'UTC') + number * 600, {day * 1000} + number FROM numbers(144)"
        )
        lab.engine.client.command(f"INSERT INTO ice {rows}", settings=writes)
    lab.sql("CREATE TABLE dst (ts DateTime64(6, 'UTC'), id Int64) ENGINE = MergeTree ORDER BY ts")
    plan = lab.plan("dst", "2025-01-02", "2025-01-04", 24, select=f"SELECT ts, id FROM icebergLocal('{path}')")
    assert lab.run(plan)["status"] == "completed"
    assert lab.rows("SELECT count(), min(id), max(id), uniqExact(id) FROM dst") == [(288, 2000, 3143, 288)]
    assert verify_plan(lab.session, plan["planId"])["ok"]


def test_rows_of_another_server_behind_a_password(http_lab: Lab, collection: str, tmp_path: Path) -> None:
    """The password is in no state file, no log and no query_log of either server."""
    lab = http_lab
    with ClickHouseServer(tmp_path / "far") as far:
        there = get_client(dsn=far.url, autogenerate_session_id=False)
        there.command("CREATE DATABASE shop")
        there.command(f"CREATE TABLE shop.events {COLUMNS} ENGINE = MergeTree ORDER BY ts")
        there.command(
            "INSERT INTO shop.events SELECT toDateTime('2025-01-01', 'UTC') + number * 600, number FROM numbers(576)"
        )
        lab.sql(
            f"CREATE NAMED COLLECTION {collection} AS addresses_expr = '127.0.0.1:{far.tcp_port}',"
            f" user = 'secured', password = '{SECURED_PASSWORD}'",
            f"CREATE TABLE dst {COLUMNS} ENGINE = MergeTree ORDER BY ts",
        )
        select = f"SELECT ts, id FROM remote({collection}, database = 'shop', table = 'events')"
        plan = lab.plan("dst", "2025-01-02", "2025-01-04", 6, select=select)
        assert lab.run(plan)["status"] == "completed"
        inside = "WHERE ts >= toDateTime('2025-01-02', 'UTC') AND ts < toDateTime('2025-01-04', 'UTC')"
        (wanted,) = there.query(f"SELECT count(), sum(cityHash64(tuple(ts, id))) FROM shop.events {inside}").result_rows
        assert lab.content("dst", "ts, id") == tuple(wanted)
        assert verify_plan(lab.session, plan["planId"])["ok"]
        for client in (lab.engine.client, there):
            assert _leaks(client, SECURED_PASSWORD) == []
        assert SECURED_PASSWORD not in _texts(lab.folder)
        assert SECURED_PASSWORD not in "".join(path.read_text() for path in far.directory.glob("*.log"))


def _texts(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.rglob("*") if path.is_file())


def _leaks(client: Client, secret: str) -> list[str]:
    """The statements of the server's log that hold a secret."""
    client.command("SYSTEM FLUSH LOGS query_log")
    found = client.query(
        "SELECT query FROM system.query_log"
        " WHERE position(concat(query, exception, toString(Settings)), {secret:String}) > 0",
        parameters={"secret": secret},
        settings={"log_queries": 0},
    )
    return [str(query) for (query,) in found.result_rows]
