"""
What chunks and proof cost: a backfill of 50,000,000 rows beside the one statement that a user would paste.

Both copy the same window of a table with daily partitions on the same server, in turn. The run is
timed as a user types it, from the start of the program to its end, verification and cleaning up
included. After each run the target must hold the very rows of the source.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from airflow_provider_backfill.clickhouse.client import ClickHouse, connect
from benchmarks.frame import Row, in_turn, ratio_of, timed
from tests.server import ClickHouseServer

ROWS, DAYS = 50_000_000, 31
WINDOW = ("2025-01-01", "2025-02-01")
_BETWEEN = "ts >= toDateTime('2025-01-01', 'UTC') AND ts < toDateTime('2025-02-01', 'UTC')"
_PIECE = "ts >= toDateTime('2025-01-01', 'UTC') + {0} AND ts < toDateTime('2025-01-01', 'UTC') + {0} + 21600"
_SOURCE = (
    "CREATE TABLE b.source (id UInt64, ts DateTime('UTC'), user UInt32, value Float64, name LowCardinality(String),"
    " url String) ENGINE = MergeTree PARTITION BY toYYYYMMDD(ts) ORDER BY (ts, id)"
)
_ROLLUP = (
    "CREATE TABLE b.rollup (hour DateTime('UTC'), user UInt32, hits AggregateFunction(count),"
    " value AggregateFunction(sum, Float64)) ENGINE = AggregatingMergeTree PARTITION BY toYYYYMMDD(hour)"
    " ORDER BY (hour, user)"
)
_HOURLY = (
    "SELECT toStartOfHour(ts) AS hour, user, countState() AS hits, sumState(value) AS value"
    " FROM b.source{} GROUP BY hour, user"
)


def measure(short: bool) -> list[Row]:
    """All figures of copying: staged, replaced, and an aggregate by the query of its view."""
    rows, rounds = (5_000_000, 1) if short else (ROWS, 5)
    with tempfile.TemporaryDirectory(prefix="backfill-bench-", dir=os.environ.get("BACKFILL_BENCH_DIR")) as folder:
        root = Path(folder)
        with ClickHouseServer(root / "server") as running:
            server = connect(running.url)
            _load(server, rows)
            bench = _Bench(server, running.url, root / "state")
            stage = bench.pair("copy", "source", rounds, "--chunk-hours", "6", "--source", "b.source")
            replace = bench.pair(
                "copy", "source", rounds, "--chunk-hours", "24", "--source", "b.source", "--write-mode", "replace"
            )
            rollup = bench.pair("rollup", "rollup", rounds, "--chunk-hours", "6")
            larger = bench.pair("rollup", "rollup", rounds, "--chunk-hours", "auto")
            floor = bench.in_pieces(rounds)
    against = "one INSERT … SELECT"
    return [
        Row(f"{rows:,} rows staged in {DAYS * 4} chunks, 2 at once", stage[0], "s", stage[1], against, bar=1.15),
        Row(f"{rows:,} rows replaced in {DAYS} chunks, 2 at once", replace[0], "s", replace[1], against, bar=1.10),
        Row(f"a view's aggregate of {rows:,} rows in {DAYS * 4} chunks", rollup[0], "s", rollup[1], against, bar=1.15),
        Row("the same, in chunks as plan proposes them", larger[0], "s", larger[1], against),
        Row(f"the same by {DAYS * 4} bare INSERT … SELECTs, 2 at once, no program", floor[0], "s", floor[1], against),
    ]


def _load(server: ClickHouse, rows: int) -> None:
    server.command("CREATE DATABASE b")
    server.command(_SOURCE)
    server.command(
        f"INSERT INTO b.source SELECT number, toDateTime('2025-01-01', 'UTC') + intDiv(number * 2678400, {rows}),"
        " cityHash64(number) % 1000, number / 7, toString(number % 50),"
        f" concat('/p/', toString(cityHash64(number) % 10000)) FROM numbers({rows})",
        {"max_insert_threads": 2, "max_partitions_per_insert_block": 0},
    )
    # At rest, as a table with history is: its own merges must not be in the figures.
    server.command("OPTIMIZE TABLE b.source FINAL")
    server.command(_ROLLUP)
    server.command(f"CREATE MATERIALIZED VIEW b.rollup_view TO b.rollup AS {_HOURLY.format('')}")


class _Bench:
    def __init__(self, server: ClickHouse, url: str, state: Path) -> None:
        self._server = server
        self._common = ("--clickhouse-url", url, "--state-dir", str(state), "--json")

    def pair(self, target: str, like: str, rounds: int, *flags: str) -> tuple[float, float]:
        """Seconds of a run into an empty target, and of the bare statement."""
        bare = _HOURLY.format(f" WHERE {_BETWEEN}") if like == "rollup" else f"SELECT * FROM b.source WHERE {_BETWEEN}"

        def once() -> float:
            self._empty("bare", like)
            return timed(lambda: self._insert(bare))

        def ours() -> float:
            self._empty(target, like)
            window = ("--from", WINDOW[0], "--to", WINDOW[1], "--force-large-window", "--force")
            plan = self._call("plan", "--target", f"b.{target}", *window, *flags)["planId"]
            return timed(lambda: self._call("run", "--plan-id", plan, "--max-parallel-chunks", "2"))

        seconds = in_turn(rounds, once, ours)
        self._compare(target)
        return ratio_of(seconds[1], seconds[0])

    def in_pieces(self, rounds: int) -> tuple[float, float]:
        """Seconds of as many bare statements as a run has chunks, and of one: what cutting alone costs."""
        pieces = [_HOURLY.format(" WHERE " + _PIECE.format(21600 * piece)) for piece in range(4 * DAYS)]

        def work(selects: list[str]) -> float:
            self._empty("bare", "rollup")
            with ThreadPoolExecutor(2) as pool:
                return timed(lambda: list(pool.map(self._insert, selects)))

        one, many = in_turn(rounds, lambda: work([_HOURLY.format(f" WHERE {_BETWEEN}")]), lambda: work(pieces))
        self._compare("rollup")
        return ratio_of(many, one)

    def _insert(self, select: str) -> None:
        self._server.command(f"INSERT INTO b.bare {select}", {"max_partitions_per_insert_block": 0})

    def _empty(self, table: str, like: str) -> None:
        if table == like:
            self._server.command(f"TRUNCATE TABLE b.{table}")
        else:
            self._server.command(f"DROP TABLE IF EXISTS b.{table} SYNC")
            self._server.command(f"CREATE TABLE b.{table} AS b.{like}")
        # The merges of what was written before must be over.
        while self._server.rows("SELECT count() FROM system.merges")[0][0]:
            time.sleep(0.1)

    def _compare(self, target: str) -> None:
        """Both ways must have written the same."""
        values = "hour, user, countMerge(hits), round(sumMerge(value), 3)" if target == "rollup" else "*"
        group = " GROUP BY hour, user" if target == "rollup" else ""
        ours, bare = (
            self._server.rows(f"SELECT count(), sum(cityHash64(tuple(*))) FROM (SELECT {values} FROM b.{table}{group})")
            for table in (target, "bare")
        )
        if ours != bare:
            raise AssertionError(f"b.{target} holds {ours}, and one INSERT … SELECT gives {bare}")

    def _call(self, *arguments: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "airflow_provider_backfill.cli", *arguments, *self._common]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        payload: dict[str, Any] = json.loads(answer.stdout)
        return payload
