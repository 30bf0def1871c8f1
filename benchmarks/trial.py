"""
Measure the trial of a few chunks in ``plan``, as processor time of the server.

Each plan is made with and without a trial, and the difference is compared with one bare INSERT … SELECT of all rows.
All figures come from the server's query log, because other work on the machine adds little to processor time.
"""

import os
import tempfile
from pathlib import Path

from airflow_provider_backfill.clickhouse.client import ClickHouse, connect
from airflow_provider_backfill.commands.plan import create_plan
from airflow_provider_backfill.commands.session import Session
from airflow_provider_backfill.core.chunking import Chunking
from airflow_provider_backfill.core.instants import parse_instant
from airflow_provider_backfill.core.request import PlanRequest
from airflow_provider_backfill.core.tables import TableName
from airflow_provider_backfill.option_sources import parse_options
from airflow_provider_backfill.state.posix import FileBackend
from airflow_provider_backfill.state.store import StateStore
from benchmarks.frame import Row
from tests.server import ClickHouseServer

ROWS = 50_000_000
_SUMS = "SELECT toStartOfHour(ts) AS hour, user % 100000 AS user, count() AS n FROM b.source{} GROUP BY hour, user"
_BOUNDS = " WHERE ts >= {chunk_from:DateTime('UTC')} AND ts < {chunk_to:DateTime('UTC')}"
_COLUMNS = "hour DateTime('UTC'), user UInt64, n UInt64"
# The plans, by the reason for their trial: the target's columns, and the SELECT.
_PLANS = {
    "the rules prove the plan": (_COLUMNS, _SUMS.format("")),
    "the rules do not prove the plan": (f"{_COLUMNS}, twice UInt64 DEFAULT n * 2", _SUMS.format("")),
    "the SELECT places the window by itself": (_COLUMNS, _SUMS.format(_BOUNDS)),
}


def measure(short: bool) -> list[Row]:
    """Return all figures of trials, over 31 days in chunks of six hours."""
    rows = ROWS // 25 if short else ROWS
    with tempfile.TemporaryDirectory(prefix="backfill-bench-", dir=os.environ.get("BACKFILL_BENCH_DIR")) as folder:
        root = Path(folder)
        with ClickHouseServer(root / "server") as running:
            server = connect(running.url)
            server.command("CREATE DATABASE b")
            server.command("CREATE TABLE b.source (ts DateTime('UTC'), user UInt64) ENGINE = MergeTree ORDER BY ts")
            values = f"toDateTime('2025-01-01', 'UTC') + intDiv(number * 2678400, {rows}), cityHash64(number)"
            server.command(f"INSERT INTO b.source SELECT {values} FROM numbers({rows})")
            session = Session(
                StateStore(FileBackend(root / "state")), parse_options({}), lambda: connect(running.url), "bench"
            )
            server.command(f"CREATE TABLE b.bare ({_COLUMNS}) ENGINE = SummingMergeTree ORDER BY (hour, user)")
            mark = _now(server)
            server.command(f"INSERT INTO b.bare {_SUMS.format('')}")
            bare, _ = _used_since(server, mark)
            return [_figure(session, server, number, why, bare, rows) for number, why in enumerate(_PLANS)]


def _figure(session: Session, server: ClickHouse, number: int, why: str, bare: float, rows: int) -> Row:
    columns, select = _PLANS[why]
    used = []
    for trial in (True, False):
        target = TableName("b", f"target_{number}_{int(trial)}")
        server.command(f"CREATE TABLE b.{target.table} ({columns}) ENGINE = SummingMergeTree ORDER BY (hour, user)")
        request = PlanRequest(
            target=target,
            start=parse_instant("2025-01-01"),
            end=parse_instant("2025-02-01"),
            chunking=Chunking(hours=6),
            select=select,
            trial=trial,
            force_large_window=True,
        )
        mark = _now(server)
        create_plan(session, request)
        used.append(_used_since(server, mark))
    (with_trial, read), (without, read_without) = used
    note = f"{read - read_without:,} rows read for it; planning without a trial takes {without:.2f} s"
    against = f"one bare INSERT … SELECT of {rows:,} rows"
    return Row(f"trial, where {why}", with_trial - without, "s of processor", bare, against, note=note)


def _now(server: ClickHouse) -> str:
    return str(server.value("SELECT toString(now64(6))"))


def _used_since(server: ClickHouse, mark: str) -> tuple[float, int]:
    """Return the seconds of processor time that statements have used since *mark*, and the rows that they read."""
    server.command("SYSTEM FLUSH LOGS query_log")
    used, read = server.row(
        "SELECT sum(ProfileEvents['UserTimeMicroseconds'] + ProfileEvents['SystemTimeMicroseconds']) / 1e6,"
        " sum(read_rows) FROM system.query_log WHERE type = 'QueryFinish' AND NOT has(databases, 'system')"
        f" AND query_start_time_microseconds >= '{mark}'"
    )
    return float(used), int(read)
