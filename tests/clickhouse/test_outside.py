"""Rows that lie outside of the server: in S3 by the day, in PostgreSQL, in Iceberg, on another ClickHouse."""

from __future__ import annotations

import functools
import json
import os
import signal
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from clickhouse_connect import get_client
from clickhouse_connect.driver.client import Client
from pyiceberg.catalog.sql import SqlCatalog

from airflow_provider_backfill.commands.doctor import diagnose
from airflow_provider_backfill.commands.verify import verify_plan
from airflow_provider_backfill.core.sql import literal
from airflow_provider_backfill.errors import RequestError
from tests.clickhouse.lab import Lab
from tests.command_line import Cli, wait_until
from tests.mariadb import MariaDb
from tests.s3 import S3Server
from tests.server import SECURED_PASSWORD, ClickHouseServer
from tests.system.airflow.stack import Postgres

# Of this file alone: other tests of secrets write theirs into the log of the same server.
MARKER = "m4rk3rOfAnOutsider"
COLUMNS = "(ts DateTime('UTC'), id UInt64)"
DELTA = (("ts", "timestamp"), ("id", "long"))


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    server = Postgres().start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def mysql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDb]:
    """A MariaDB with four days of events, which two users may read: ``reader`` with a password, ``guest`` without."""
    with MariaDb(tmp_path_factory.mktemp("mariadb")) as server:
        server.query(
            "CREATE DATABASE shop",
            "CREATE TABLE shop.events (ts DATETIME(6) NOT NULL, id BIGINT NOT NULL, KEY (ts))",
            "INSERT INTO shop.events WITH RECURSIVE s AS (SELECT 0 AS n UNION ALL SELECT n + 1 FROM s WHERE n < 575)"
            " SELECT '2025-01-01' + INTERVAL n * 10 MINUTE, n FROM s",
            f"CREATE USER reader IDENTIFIED BY '{MARKER}'",
            "CREATE USER guest",
            "GRANT SELECT ON shop.* TO reader, guest",
        )
        yield server


@pytest.fixture
def collection(http_lab: Lab) -> Iterator[str]:
    """The name of a named collection that the test makes."""
    name = f"c_{http_lab.engine.database}"
    yield name
    http_lab.sql(f"DROP NAMED COLLECTION IF EXISTS {name}")


def test_s3_with_a_folder_a_day(
    http_lab: Lab, s3: S3Server, collection: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each chunk reads only the files of its day, and a killed run continues."""
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
    plan = _killed_in_the_middle(cli, lab, select, "--param", "day=%Y-%m-%d")
    assert plan["warnings"] == []
    everything = where.format("days/*/*.parquet")
    content = "SELECT count(), uniqExact(id), sum(toUnixTimestamp(ts) * id) FROM"
    assert lab.rows(f"{content} dst") == lab.rows(f"{content} {everything}")
    assert lab.value("SELECT count() FROM dst") == 31 * 144
    assert cli.json("verify", "--plan-id", plan["planId"])["ok"]
    assert _read_by_chunks(lab, plan) == [(1, 144, 2)]
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
        " WHERE ts >= {chunk_from:DateTime64(6)} AND ts < {chunk_to:DateTime64(6)}"
    )
    plan = lab.plan("dst", "2025-01-02", "2025-01-04", 6, select=select)
    assert lab.run(plan)["status"] == "completed"
    assert lab.rows("SELECT count(), min(id), max(id), uniqExact(id), min(ts) = '2025-01-02' FROM dst") == [
        (288, 144, 431, 288, 1)
    ]
    assert verify_plan(lab.session, plan["planId"])["ok"]
    # PostgreSQL would get such a bound as the text of another hour. One chunk has no trial that could show it.
    berlin = select.replace("DateTime64(6)", "DateTime64(6, 'Europe/Berlin')")
    with pytest.raises(RequestError, match="rows at an end of the window would be lost"):
        lab.plan("dst", "2025-01-02", "2025-01-04", 48, select=berlin)
    assert _leaks(lab.engine.client, MARKER) == []
    assert MARKER not in _texts(lab.folder)


@pytest.mark.long
@pytest.mark.parametrize("bounds", ["of the user", "ours"])
@pytest.mark.parametrize("form", ["collection", "address", "table"])
def test_mysql(http_lab: Lab, mysql: MariaDb, collection: str, form: str, bounds: str) -> None:
    """Bounds of the user reach MySQL, which reads a chunk's rows alone; the filter that we add is ClickHouse's own."""
    lab, address = http_lab, f"127.0.0.1:{mysql.port}"
    lab.sql(
        f"CREATE NAMED COLLECTION {collection} AS host = '127.0.0.1', port = {mysql.port}, user = 'reader',"
        f" password = '{MARKER}', database = 'shop'",
        f"CREATE TABLE dst {COLUMNS} ENGINE = MergeTree ORDER BY ts",
        f"CREATE TABLE far (ts DateTime64(6), id Int64) ENGINE = MySQL('{address}', 'shop', 'events', 'guest', '')",
    )
    where = {
        "collection": f"mysql({collection}, table = 'events')",
        "address": f"mysql('{address}', 'shop', 'events', 'guest', '')",
        "table": f"{lab.engine.database}.far",
    }[form]
    select = f"SELECT ts, id FROM {where}"
    if bounds == "of the user":
        select += " WHERE ts >= {chunk_from:DateTime64(6)} AND ts < {chunk_to:DateTime64(6)}"
    plan = lab.plan("dst", "2025-01-02", "2025-01-04", 6, select=select)
    warned = [one["message"] for one in plan["warnings"] if "each of the 8 chunks reads all of" in one["message"]]
    assert len(warned) == (bounds == "ours")
    advice = {one["code"]: one for one in diagnose(lab.session, plan["planId"])["findings"]}.get("backfill_not_pruned")
    assert advice is None or (bounds == "ours" and "ADD INDEX" not in advice["hint"])
    before = len(mysql.statements.read_text())
    assert lab.run(plan)["status"] == "completed"
    assert lab.rows("SELECT count(), min(id), max(id), uniqExact(id), min(ts) = '2025-01-02' FROM dst") == [
        (288, 144, 431, 288, 1)
    ]
    asked = [
        line
        for line in mysql.statements.read_text()[before:].splitlines()
        if "SELECT `ts`, `id` FROM `shop`.`events`" in line
    ]
    assert len(asked) >= 8
    assert [line for line in asked if ("`ts` >= '2025-01-0" in line) != (bounds == "of the user")] == []
    assert verify_plan(lab.session, plan["planId"])["ok"]
    assert _leaks(lab.engine.client, MARKER) == []
    assert MARKER not in _texts(lab.folder)


@pytest.mark.long
@pytest.mark.parametrize(
    ("bound", "column", "lost"),
    [
        ("{{{}:DateTime64(6, 'Europe/Berlin')}}", "DateTime64(6)", True),
        ("{{{}:DateTime64(6, 'America/New_York')}}", "DateTime64(6)", True),
        ("toTimeZone({{{}:DateTime}}, 'Europe/Berlin')", "DateTime64(6)", True),
        ("{{{}:DateTime}}", "DateTime64(6, 'Europe/Berlin')", True),
        ("{{{}:DateTime64(6, 'Etc/UTC')}}", "DateTime64(6)", False),
        ("{{{}:DateTime64(6, 'Europe/Berlin')}}", "DateTime64(6, 'Europe/Berlin')", False),
        ("{{{}:DateTime('Europe/London')}}", "DateTime64(6)", False),
    ],
)
def test_mysql_with_bounds_of_another_zone(http_lab: Lab, mysql: MariaDb, bound: str, column: str, lost: bool) -> None:
    """ClickHouse sends a bound as text in the bound's zone, so MySQL leaves out what lies between the zones."""
    lab = http_lab
    lab.sql(
        f"CREATE TABLE dst {COLUMNS} ENGINE = MergeTree ORDER BY ts",
        f"CREATE TABLE far (ts {column}, id Int64)"
        f" ENGINE = MySQL('127.0.0.1:{mysql.port}', 'shop', 'events', 'guest', '')",
        "CREATE TABLE near (at DateTime('UTC')) ENGINE = MergeTree ORDER BY at",
    )
    # ClickHouse compares the times of its own tables as instants.
    own = "(SELECT count() FROM near WHERE at < toDateTime('2030-01-01', 'Europe/Berlin')) = 0"
    select = (
        f"SELECT ts, id FROM far WHERE {own} AND ts >= {bound.format('chunk_from')} AND ts < {bound.format('chunk_to')}"
    )
    if not lost:
        lab.fill("dst", "2025-01-02", "2025-01-04", 48, select=select)
        assert lab.rows("SELECT count(), uniqExact(id) FROM dst") == [(288, 288)]
        return
    # One chunk has no trial that could show the loss, and verify reads the same rows.
    for hours in (48, 6):
        with pytest.raises(RequestError, match="rows at an end of the window would be lost"):
            lab.plan("dst", "2025-01-02", "2025-01-04", hours, select=select)


@pytest.mark.long
def test_iceberg_in_s3(http_lab: Lab, s3: S3Server, collection: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a table that pyiceberg wrote, a file a day, each chunk reads its own day's file: 31 days, with a kill."""
    lab, bucket = http_lab, s3.new_bucket()
    server = {"endpoint": s3.url, "access-key-id": "test", "secret-access-key": "test", "region": "us-east-1"}
    catalog = SqlCatalog(
        "lake",
        uri="sqlite:///:memory:",
        warehouse=f"s3://{bucket}",
        **{f"s3.{name}": value for name, value in server.items()},
    )
    catalog.create_namespace("shop")
    columns = pyarrow.schema([("ts", pyarrow.timestamp("us")), ("id", pyarrow.int64())])
    table = catalog.create_table("shop.events", columns)
    first = datetime(2024, 12, 30)
    for day in range(34):
        numbers = range(day * 144, (day + 1) * 144)
        times = [first + timedelta(minutes=10 * number) for number in numbers]
        table.append(pyarrow.table([times, numbers], schema=columns))
    lab.sql(
        f"CREATE NAMED COLLECTION {collection} AS url = '{s3.url}/{bucket}/', access_key_id = 'test',"
        f" secret_access_key = '{MARKER}'",
        "CREATE TABLE dst (ts DateTime64(6, 'UTC'), id Int64) ENGINE = MergeTree ORDER BY ts",
    )
    cli = Cli(lab.folder, lab.engine.url, capsys)
    path = table.location().removeprefix(f"s3://{bucket}/")
    plan = _killed_in_the_middle(cli, lab, f"SELECT ts, id FROM iceberg({collection}, filename = '{path}')")
    assert lab.rows("SELECT count(), min(id), max(id), uniqExact(id) FROM dst") == [(4464, 288, 4751, 4464)]
    assert cli.json("verify", "--plan-id", plan["planId"])["ok"]
    assert _read_by_chunks(lab, plan) == [(1, 144, 1)]
    assert _leaks(lab.engine.client, MARKER) == []
    assert MARKER not in _texts(lab.folder)


def test_iceberg(http_lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """A table of files with snapshots takes the time filter like a table: 31 days, with a kill in the middle."""
    lab, path = http_lab, f"ice/{http_lab.engine.database}/events"
    writes = {"allow_experimental_insert_into_iceberg": 1}
    lab.engine.client.command(f"CREATE TABLE ice (ts DateTime64(6), id Int64) ENGINE = IcebergLocal('{path}')")
    for first in range(0, 34 * 144, 720):
        rows = f"SELECT toDateTime64('2024-12-31', 6, 'UTC') + number * 600, number FROM numbers({first}, 720)"
        lab.engine.client.command(f"INSERT INTO ice {rows}", settings=writes)
    lab.sql("CREATE TABLE dst (ts DateTime64(6, 'UTC'), id Int64) ENGINE = MergeTree ORDER BY ts")
    cli = Cli(lab.folder, lab.engine.url, capsys)
    plan = _killed_in_the_middle(cli, lab, f"SELECT ts, id FROM icebergLocal('{path}')")
    assert lab.rows("SELECT count(), min(id), max(id), uniqExact(id) FROM dst") == [(4464, 144, 4607, 4464)]
    assert cli.json("verify", "--plan-id", plan["planId"])["ok"]


def test_delta_lake(http_lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """The log of a Delta table names its files; a file that is there and not in the log is no part of the table."""
    lab, folder = http_lab, f"delta_{http_lab.engine.database}"
    fields = [{"name": name, "type": kind, "nullable": True, "metadata": {}} for name, kind in DELTA]
    table = {
        "id": folder,
        "format": {"provider": "parquet", "options": {}},
        "schemaString": json.dumps({"type": "struct", "fields": fields}),
        "partitionColumns": [],
        "configuration": {},
        "createdTime": 0,
    }
    log: list[dict[str, object]] = [{"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}, {"metaData": table}]
    for number, first in enumerate(range(0, 34 * 144, 720)):
        file = f"file('{folder}/{number}.parquet')"
        rows = "SELECT toDateTime64('2024-12-31', 6, 'UTC') + number * 600 AS ts, toInt64(number) AS id"
        lab.sql(f"INSERT INTO FUNCTION {file} {rows} FROM numbers({first}, 720)")
        size = int(lab.value(f"SELECT any(_size) FROM {file}"))
        added = {"path": f"{number}.parquet", "partitionValues": {}, "size": size, "modificationTime": 0}
        log.append({"add": {**added, "dataChange": True}})
    lab.sql(f"INSERT INTO FUNCTION file('{folder}/left.parquet') SELECT now64(6) AS ts, toInt64(1) AS id")
    lines = ", ".join(literal(json.dumps(line)) for line in log)
    lab.sql(
        f"INSERT INTO FUNCTION file('{folder}/_delta_log/{'0' * 20}.json', LineAsString) SELECT arrayJoin([{lines}])",
        "CREATE TABLE dst (ts DateTime64(6, 'UTC'), id Int64) ENGINE = MergeTree ORDER BY ts",
    )
    cli = Cli(lab.folder, lab.engine.url, capsys)
    place = Path(lab.value(f"SELECT any(_path) FROM file('{folder}/0.parquet')")).parent
    plan = _killed_in_the_middle(cli, lab, f"SELECT ts, id FROM deltaLakeLocal('{place}')")
    assert lab.rows("SELECT count(), min(id), max(id), uniqExact(id) FROM dst") == [(4464, 144, 4607, 4464)]
    assert cli.json("verify", "--plan-id", plan["planId"])["ok"]


def test_url_with_a_file_a_day(http_lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A day whose file is not there fails its own chunk alone, and is filled once the file has come."""
    lab = http_lab
    lab.sql(f"CREATE TABLE dst {COLUMNS} ENGINE = MergeTree ORDER BY ts")
    files = [tmp_path / f"2025-01-0{day}.csv" for day in (1, 2, 3)]
    for day, file in enumerate(files, 1):
        file.write_text("".join(f"2025-01-0{day} {hour:02}:00:00,{day * 100 + hour}\n" for hour in range(24)))
    late = files[1].rename(tmp_path / "late")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{web.server_port}/"
        select = f"SELECT ts, id FROM url(concat('{address}', {{day:String}}, '.csv'), CSV, 'ts DateTime, id UInt64')"
        plan = lab.plan("dst", "2025-01-01", "2025-01-04", 24, select=select, formats=(("day", "%Y-%m-%d"),))
        assert lab.run(plan)["chunkCounts"]["failed"] == 1
        late.rename(files[1])
        assert lab.run(plan, resume=True)["status"] == "completed"
        assert lab.rows("SELECT count(), uniqExact(id), min(id), max(id) FROM dst") == [(72, 72, 100, 323)]
        assert verify_plan(lab.session, plan["planId"])["ok"]
        web.shutdown()


def _killed_in_the_middle(cli: Cli, lab: Lab, select: str, *flags: str) -> Any:
    """Plan a January in chunks of a day, kill the run after a few of them, and run again; return the plan."""
    window = ("--from", "2025-01-01", "--to", "2025-02-01", "--chunk-by", "day", "--force-large-window")
    plan = cli.json("plan", "--target", f"{lab.engine.database}.dst", *window, "--select", select, *flags)
    assert plan.get("chunkCount") == 31, plan
    running = cli.start("run", "--plan-id", plan["planId"])
    wait_until(lambda: sum(e["type"] == "ChunkDone" for e in cli.events(plan["planId"])) > 3)
    os.kill(running.pid, signal.SIGKILL)
    running.communicate()
    assert sum(e["type"] == "ChunkDone" for e in cli.events(plan["planId"])) < 31
    assert cli.json("run", "--plan-id", plan["planId"])["status"] == "completed"
    return plan


def _read_by_chunks(lab: Lab, plan: Any) -> list[tuple[Any, ...]]:
    """Whether each of 31 chunks was filled, and the most rows and files that the filling of a chunk has read."""
    lab.sql("SYSTEM FLUSH LOGS query_log")
    return lab.rows(
        "SELECT count() >= 31, max(read_rows), max(ProfileEvents['EngineFileLikeReadFiles']) FROM system.query_log"
        f" WHERE type = 'QueryFinish' AND match(query_id, '^backfill-{plan['planId']}-[0-9a-f]+-[0-9]+$')"
    )


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
