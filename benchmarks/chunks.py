"""
Measure the fixed cost of a chunk, and the delay of a cancel.

The chunks have no rows, so that only the product's own work remains. The index of the source excludes 2,000 windows;
another 2,000 must be staged to be known as empty. The baseline is the same number of bare inserts without rows over one
connection.
"""

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow_provider_backfill.clickhouse.client import ClickHouse, connect
from airflow_provider_backfill.commands.plan import create_plan
from airflow_provider_backfill.commands.run import run_plan
from airflow_provider_backfill.commands.session import Session
from airflow_provider_backfill.commands.status import read_status
from airflow_provider_backfill.core.chunking import Chunking
from airflow_provider_backfill.core.instants import parse_instant
from airflow_provider_backfill.core.request import PlanRequest
from airflow_provider_backfill.core.tables import TableName
from airflow_provider_backfill.errors import ServerError
from airflow_provider_backfill.option_sources import parse_options
from airflow_provider_backfill.state.posix import FileBackend
from airflow_provider_backfill.state.store import StateStore
from benchmarks.frame import Row, in_turn, timed
from tests.server import ClickHouseServer

CHUNKS = 2_000
_COLUMNS = "(id UInt64, ts DateTime('UTC'))"
_OPTIONS = {"limits": {"maxWindowHours": 100_000}}
# 2 s per part, 80 s in total; a block may not sleep longer than 3 s.
_SLEEPS = "SELECT id, ts + sleepEachRow(0.002) AS ts FROM b.slow"


def measure(short: bool) -> list[Row]:
    """Return all figures of single chunks."""
    chunks, rounds, cancels = (200, 1, 3) if short else (CHUNKS, 3, 20)
    with tempfile.TemporaryDirectory(prefix="backfill-bench-", dir=os.environ.get("BACKFILL_BENCH_DIR")) as folder:
        root = Path(folder)
        with ClickHouseServer(root / "server") as running:
            server = connect(running.url)
            _load(server)
            session = Session(
                StateStore(FileBackend(root / "state")), parse_options(_OPTIONS), lambda: connect(running.url), "bench"
            )
            bare, empty, staged = in_turn(
                rounds,
                lambda: timed(lambda: _insert_nothing(server, chunks)) / chunks,
                lambda: _run(session, chunks, source=TableName("b", "source")) / chunks,
                lambda: _run(session, chunks, select="SELECT max(id) AS id, ts FROM b.source GROUP BY ts") / chunks,
            )
            kill = [_kill(server) for _ in range(cancels)]
            cancel = [_cancel(session, server, running.url, root / "state") for _ in range(cancels)]
    note = f"{statistics.median(bare) * 1000:.1f} ms a bare insert of no row, one at a time"
    beyond = [[(o - b) * 1000 for o, b in zip(ours, bare, strict=True)] for ours in (empty, staged)]
    return [
        Row(
            "an empty chunk beyond a bare empty INSERT, no rows at the source",
            statistics.median(beyond[0]),
            "ms",
            bar=3,
            note=note,
        ),
        Row("an empty chunk beyond a bare empty INSERT, staged", statistics.median(beyond[1]), "ms", bar=25, note=note),
        Row(
            "from cancel to no query of ours on the server, 95th percentile",
            _p95(cancel),
            "s",
            bar=2,
            note=f"KILL QUERY SYNC by hand {_p95(kill):.2f} s; the start of the command is in the figure",
        ),
    ]


def _load(server: ClickHouse) -> None:
    server.command("CREATE DATABASE b")
    for table in ("source", "target", "bare", "slow", "slow_target"):
        server.command(f"CREATE TABLE b.{table} {_COLUMNS} ENGINE = MergeTree ORDER BY ts")
    server.command("INSERT INTO b.source SELECT number, toDateTime('2024-12-31', 'UTC') FROM numbers(1000)")
    server.command("SYSTEM STOP MERGES b.slow")
    for _ in range(40):
        server.command("INSERT INTO b.slow SELECT number, toDateTime('2025-01-01', 'UTC') + number FROM numbers(1000)")


def _insert_nothing(server: ClickHouse, times: int) -> None:
    for number in range(times):
        server.command(f"INSERT INTO b.bare SELECT id, ts FROM b.source WHERE ts = toDateTime({1735689600 + number})")


def _run(session: Session, chunks: int, **what: Any) -> float:
    plan = _plan(session, "target", chunks, **what)
    seconds = timed(lambda: run_plan(session, plan))
    assert read_status(session, plan)["status"] == "completed"
    return seconds


def _plan(session: Session, target: str, hours: int, **what: Any) -> str:
    start = parse_instant("2025-01-01")
    end = start + timedelta(hours=hours)
    request = PlanRequest(
        target=TableName("b", target),
        start=start,
        end=end,
        chunking=Chunking(hours=1),
        force=True,
        time_column="ts",
        **what,
    )
    return str(create_plan(session, request)["planId"])


def _kill(server: ClickHouse) -> float:
    """Return the seconds of a KILL QUERY SYNC of the same insert."""
    name = f"bench-{time.monotonic_ns()}"
    other = threading.Thread(target=_ignored, args=(server, f"INSERT INTO b.bare {_SLEEPS}", name))
    other.start()
    _until(server, name, there=True)
    seconds = timed(lambda: server.command(f"KILL QUERY WHERE query_id = '{name}' SYNC"))
    other.join()
    return seconds


def _ignored(server: ClickHouse, sql: str, name: str) -> None:
    # The statement is killed on purpose.
    with contextlib.suppress(ServerError):
        server.command(sql, {"query_id": name})


def _cancel(session: Session, server: ClickHouse, url: str, state: Path) -> float:
    """Return the seconds from ``cancel`` until no query of the plan is on the server."""
    plan = _plan(session, "slow_target", 1, select=_SLEEPS)
    flags = ["--plan-id", plan, "--clickhouse-url", url, "--state-dir", str(state), "--json"]
    program = [sys.executable, "-m", "airflow_provider_backfill.cli"]
    run = subprocess.Popen([*program, "run", *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _until(server, f"backfill-{plan}", there=True)
    began = time.perf_counter()
    cancel = subprocess.Popen([*program, "cancel", *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _until(server, f"backfill-{plan}", there=False)
    seconds = time.perf_counter() - began
    assert cancel.wait() == 0
    run.wait()
    return seconds


def _until(server: ClickHouse, prefix: str, *, there: bool) -> None:
    query = f"SELECT count() FROM system.processes WHERE startsWith(query_id, '{prefix}')"
    while bool(server.rows(query)[0][0]) is not there:
        time.sleep(0.01)


def _p95(seconds: list[float]) -> float:
    return sorted(seconds)[max(0, -(-len(seconds) * 95 // 100) - 1)]
