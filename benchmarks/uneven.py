"""
Measure a source in which one hour, and one value in that hour, has half of all rows.

The baseline is one bare INSERT … SELECT with one insert thread per core. The figures are the total time with planning,
and the rows read and the memory of the heaviest statement, for chunks of six hours and with `--max-chunk-rows`, two in
parallel. Reads and memory come from the server's query log.
"""

import os
import tempfile
import time
from pathlib import Path

from airflow_provider_backfill.clickhouse.client import ClickHouse, connect
from airflow_provider_backfill.commands.plan import create_plan
from airflow_provider_backfill.commands.run import run_plan
from airflow_provider_backfill.commands.session import Session
from airflow_provider_backfill.core.chunking import Chunking
from airflow_provider_backfill.core.instants import parse_instant
from airflow_provider_backfill.core.request import PlanRequest
from airflow_provider_backfill.core.tables import TableName
from airflow_provider_backfill.option_sources import parse_options
from airflow_provider_backfill.state.posix import FileBackend
from airflow_provider_backfill.state.store import StateStore
from benchmarks.frame import Row, timed
from tests.server import ClickHouseServer

ROWS, LIMIT = 50_000_000, 2_000_000
_SELECT = """
    SELECT tenant, toStartOfHour(ts) AS hour, user, count() AS events FROM b.source GROUP BY tenant, hour, user
"""
_TARGET = """
    (tenant UInt16, hour DateTime('UTC'), user UInt64, events UInt64)
    ENGINE = SummingMergeTree ORDER BY (tenant, hour, user)
"""


def measure(short: bool) -> list[Row]:
    """Return all figures of an uneven source."""
    return figures(ROWS // 25 if short else ROWS)


def figures(rows: int) -> list[Row]:
    """Return the figures of a source of *rows* rows; the limit and the granules of the index are in proportion."""
    limit = LIMIT * rows // ROWS
    with tempfile.TemporaryDirectory(prefix="backfill-bench-", dir=os.environ.get("BACKFILL_BENCH_DIR")) as folder:
        root = Path(folder)
        with ClickHouseServer(root / "server") as running:
            server = connect(running.url)
            _load(server, rows)
            session = Session(
                StateStore(FileBackend(root / "state")), parse_options({}), lambda: connect(running.url), "bench"
            )
            settings = {"query_id": "bare", "max_insert_threads": os.cpu_count() or 1}
            bare = timed(lambda: server.command(f"INSERT INTO b.bare {_SELECT}", settings))
            _settle(server)
            long, long_planning, long_seconds = _run(session, "long", Chunking(hours=6))
            _settle(server)
            even, even_planning, even_seconds = _run(session, "even", Chunking(hours=6, rows=limit))
            server.command("SYSTEM FLUSH LOGS")
            expected = _content(server, "bare")
            assert _content(server, "long") == _content(server, "even") == expected
            long_read, long_memory = _heaviest(server, long)
            even_read, even_memory = _heaviest(server, even)
            bare_read, bare_memory = _heaviest(server, "bare")
    note = f"{long_read:,} in chunks of 6 h, {bare_read:,} in one statement"
    against = "one bare INSERT … SELECT, an insert thread a core"
    name = f"--max-chunk-rows {limit:,}"
    return [
        Row(f"rows read by the heaviest INSERT, {name}", even_read / limit, "times the limit", bar=1.25, note=note),
        Row(f"memory of the heaviest INSERT, {name}", even_memory, "MB", bare_memory, against),
        Row("the same, chunks of 6 h", long_memory, "MB", bare_memory, against),
        Row(
            f"{rows:,} rows, {name}, 2 at once",
            even_planning + even_seconds,
            "s",
            bare,
            against,
            1.3,
            _planning(even_planning),
        ),
        Row("the same, chunks of 6 h", long_planning + long_seconds, "s", bare, against, note=_planning(long_planning)),
    ]


def _settle(server: ClickHouse) -> None:
    """Wait until earlier parts are merged, since the baseline also ran without merges."""
    give_up = time.monotonic() + 60
    while server.numbers("SELECT count() FROM system.merges")[0] and time.monotonic() < give_up:
        time.sleep(0.1)


def _planning(seconds: float) -> str:
    """Describe the planning's part of the time."""
    return f"{seconds:.1f} s of it planning, counts and trial included"


def _load(server: ClickHouse, rows: int) -> None:
    server.command("CREATE DATABASE b")
    server.command(
        "CREATE TABLE b.source (ts DateTime('UTC'), tenant UInt16, user UInt64)"
        f" ENGINE = MergeTree ORDER BY (tenant, ts) SETTINGS index_granularity = {8192 * rows // ROWS}"
    )
    for table in ("bare", "long", "even"):
        server.command(f"CREATE TABLE b.{table} {_TARGET}")
    start = "toDateTime('2025-01-01', 'UTC')"
    quiet = f"{start} + intDiv(number * 172800, {rows // 2}), number % 20, cityHash64(number) % {rows // 6}"
    loud = f"{start} + 36000 + number % 3600, 7, cityHash64(number, 1) % {rows // 6}"
    for values in (quiet, loud):
        server.command(f"INSERT INTO b.source SELECT {values} FROM numbers({rows // 2})")
    server.command("OPTIMIZE TABLE b.source FINAL")


def _run(session: Session, target: str, chunking: Chunking) -> tuple[str, float, float]:
    """Return the prefix of the query ids of a backfill, and the seconds of its planning and of its run."""
    request = PlanRequest(
        target=TableName("b", target),
        start=parse_instant("2025-01-01"),
        end=parse_instant("2025-01-03"),
        chunking=chunking,
        select=_SELECT,
    )
    plans: list[str] = []
    planned = timed(lambda: plans.append(str(create_plan(session, request)["planId"])))

    def run() -> None:
        assert run_plan(session, plans[0], parallel=2)["status"] == "completed"

    return f"backfill-{plans[0]}-", planned, timed(run)


def _heaviest(server: ClickHouse, prefix: str) -> tuple[int, float]:
    """Return the maximum of rows read, and of megabytes of memory, by an INSERT with this prefix of its id."""
    read, memory = server.numbers(
        "SELECT max(read_rows), max(memory_usage) FROM system.query_log"
        f" WHERE type = 'QueryFinish' AND query_kind = 'Insert' AND startsWith(query_id, '{prefix}')"
    )
    return read, memory / 1e6


def _content(server: ClickHouse, table: str) -> tuple[int, ...]:
    sums = f"SELECT tenant, hour, user % 1000 AS share, sum(events) AS n FROM b.{table} GROUP BY tenant, hour, share"
    return server.numbers(f"SELECT count(), sum(cityHash64(tenant, hour, share, n)) FROM ({sums})")
