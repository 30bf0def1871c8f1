"""
Measure the cost of chunks and proofs, against the statement that a good engineer would type.

The baseline is one ``INSERT … SELECT`` with one insert thread per core. Both write the same window of a table with
daily partitions on the same server, alternately. The time of a run covers the whole program, including verification and
cleanup. After each run, the target must have exactly the source's rows. Processor time comes from the server's query
log (all statements of a run) and from the operating system (the program).
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from airflow_provider_backfill.clickhouse.client import ClickHouse, connect
from benchmarks.frame import Row, in_turn, ratio_of, timed, use_of
from tests.server import ClickHouseServer

DAYS = 31
SMALLER, LARGER = 30_000_000, 50_000_000
AGAINST = "one INSERT … SELECT, an insert thread a core"
REPLACE = ("--write-mode", "replace")
WINDOW = ("2025-01-01", "2025-02-01")
_BETWEEN = "ts >= toDateTime64('2025-01-01', 3, 'UTC') AND ts < toDateTime64('2025-02-01', 3, 'UTC')"
_PIECE = (
    "ts >= toDateTime64('2025-01-01', 3, 'UTC') + toIntervalSecond({0})"
    " AND ts < toDateTime64('2025-01-01', 3, 'UTC') + toIntervalSecond({0} + 21600)"
)
_SOURCE = (
    "CREATE TABLE b.source (ts DateTime64(3, 'UTC'), id UInt64, value Float64, url String) ENGINE = MergeTree"
    " PARTITION BY toYYYYMMDD(ts) ORDER BY (ts, id)"
)
_ROLLUP = (
    "CREATE TABLE b.rollup (hour DateTime('UTC'), user UInt32, hits AggregateFunction(count),"
    " ids AggregateFunction(sum, UInt64)) ENGINE = AggregatingMergeTree PARTITION BY toYYYYMMDD(hour)"
    " ORDER BY (hour, user)"
)
_HOURLY = (
    "SELECT toStartOfHour(ts) AS hour, toUInt32(id % 1000) AS user, countState() AS hits, sumState(id) AS ids"
    " FROM b.source{} GROUP BY hour, user"
)
_CPU = "ProfileEvents['UserTimeMicroseconds'] + ProfileEvents['SystemTimeMicroseconds']"
# By the purpose of a statement. Checks are queries on parts and on rows of others.
_KIND = (
    "multiIf(query_kind = 'Insert' AND position(query, '_fence_') = 0, 'fill', query_id LIKE '%.source.%',"
    " 'source asked again', query_id LIKE '%.staged', 'look at what is staged', query LIKE '%MOVE PARTITION%'"
    " OR query LIKE '%REPLACE PARTITION%', 'move or replace', query_kind IN ('Create', 'Drop', 'Rename'),"
    " lower(query_kind), 'other looks')"
)


class Cost(NamedTuple):
    """
    The cost of a backfill or a statement: seconds of wall time, and of processor time of the server
    and of the program.
    """

    wall: float
    server: float
    program: float = 0.0


def measure(short: bool) -> list[Row]:
    """Return all figures of copying: staged, replaced, an aggregate through its view's query, and the planning."""
    rounds = 1 if short else 3
    smaller, larger = (2_000_000, 5_000_000) if short else (SMALLER, LARGER)
    with tempfile.TemporaryDirectory(prefix="backfill-bench-", dir=os.environ.get("BACKFILL_BENCH_DIR")) as folder:
        root = Path(folder)
        with ClickHouseServer(root / "server") as running:
            bench = _Bench(connect(running.url), running.url, root / "state")
            bench.load(smaller)
            rows = [
                *bench.copies(f"{smaller:,} rows staged in {DAYS} chunks", rounds, 24, 1.25),
                *bench.copies(
                    f"{smaller:,} rows replaced in {DAYS} chunks", rounds, 24, 1.25, "--write-mode", "replace"
                ),
            ]
            bench.load(larger)
            name = f"{larger:,} rows staged in {DAYS * 4} chunks"
            rows += [*bench.copies(name, rounds, 6, 1.5), *bench.profile(), *bench.rollups(larger, rounds)]
            return [*rows, *bench.planning(larger, rounds)]


class _Bench:
    def __init__(self, server: ClickHouse, url: str, state: Path) -> None:
        self._server = server
        self._common = ("--clickhouse-url", url, "--state-dir", str(state), "--json")
        self._program = (sys.executable, "-m", "airflow_provider_backfill.cli")
        self._during = ""

    def load(self, rows: int) -> None:
        """Create the source and the targets again."""
        self._server.command("DROP DATABASE IF EXISTS b SYNC")
        self._server.command("CREATE DATABASE b")
        self._server.command(_SOURCE)
        self._server.command(
            "INSERT INTO b.source SELECT toDateTime64('2025-01-01', 3, 'UTC') + toIntervalMillisecond(intDiv(number *"
            f" 2678400000, {rows})), number, cityHash64(number) / 7,"
            " concat('/p/', toString(cityHash64(number) % 10000))"
            f" FROM numbers({rows})",
            {"max_insert_threads": 2, "max_partitions_per_insert_block": 0},
        )
        # Merge first: the figures must not include the source's own merges.
        self._server.command("OPTIMIZE TABLE b.source FINAL")
        self._server.command(_ROLLUP)
        self._server.command(f"CREATE MATERIALIZED VIEW b.rollup_view TO b.rollup AS {_HOURLY.format('')}")

    def copies(self, name: str, rounds: int, hours: int, bar: float, *flags: str) -> list[Row]:
        """Measure a copy of the source, with its processor time."""
        given = ("--source", "b.source", "--chunk-hours", str(hours), *flags)
        bare, ours = self._pair("copy", "source", rounds, *given)
        chunks = DAYS * 24 // hours
        single = statistics.median(self._of_one_chunk(hours, *flags) for _ in range(3))
        program = (statistics.median(cost.program for cost in ours) - single) / (chunks - 1)
        return [
            _compared(f"{name}, 2 at once", ours, bare, lambda cost: cost.wall, bar),
            _compared("the same, processor time of the server", ours, bare, lambda cost: cost.server, 1.25),
            Row("the same, of the program, for each chunk but the first", program * 1000, "ms", bar=5),
        ]

    def _of_one_chunk(self, hours: int, *flags: str) -> float:
        """Return the program's processor seconds for a run of one chunk, which imports and connects as every run."""
        self._empty("copy", "source")
        end = f"{WINDOW[0]}T{hours:02}:00:00" if hours < 24 else "2025-01-02"
        plan = self._plan("copy", "--source", "b.source", "--chunk-hours", str(hours), *flags, end=end)
        return use_of(*self._program, "run", "--plan-id", plan, *self._common).cpu

    def profile(self) -> list[Row]:
        """Split the server's processor time of the last run by the purpose of its statements."""
        found = self._server.rows(
            f"SELECT {_KIND} AS kind, count(), sum({_CPU}) / 1000 FROM system.query_log WHERE type = 'QueryFinish'"
            f" AND {self._during} GROUP BY kind ORDER BY 3 DESC"
        )
        chunks = DAYS * 4
        return [
            Row(f"a chunk's share of the server's processor: {kind}", spent / chunks, "ms", note=f"{count} statements")
            for kind, count, spent in found
        ]

    def rollups(self, rows: int, rounds: int) -> list[Row]:
        """Measure an aggregate in many chunks and in the proposed chunks, against one statement and its cut."""
        name = f"a view's aggregate of {rows:,} rows"
        bare, many = self._pair("rollup", "rollup", rounds, "--chunk-hours", "6")
        again, larger = self._pair("rollup", "rollup", rounds, "--chunk-hours", "auto")
        pieces = [_HOURLY.format(" WHERE " + _PIECE.format(21600 * piece)) for piece in range(4 * DAYS)]
        (cut,) = in_turn(rounds, lambda: self._bare(pieces, "rollup", 1))
        self._compare("rollup")
        against = "as many bare INSERT … SELECTs, 2 at once, no program"
        return [
            _compared(f"{name} in {DAYS * 4} chunks, 2 at once", many, bare, lambda cost: cost.wall, 1.8),
            _compared("the same beside the same cut", many, cut, lambda cost: cost.wall, 1.25, against),
            _compared("the same, processor time of the server", many, cut, lambda cost: cost.server, None, against),
            _compared("the same in chunks as plan proposes them", larger, again, lambda cost: cost.wall, 1.2),
        ]

    def planning(self, rows: int, rounds: int) -> list[Row]:
        """Measure the time that the trial adds to ``plan``."""

        def plan(*flags: str) -> float:
            self._empty("rollup", "rollup")
            return timed(lambda: self._plan("rollup", "--chunk-hours", "6", *flags))

        alone, tried = in_turn(rounds, lambda: plan("--no-trial"), plan)
        beyond = statistics.median(t - a for t, a in zip(tried, alone, strict=True))
        note = f"{statistics.median(alone):.2f} s without a trial, rules included"
        return [Row(f"`plan` with a trial beyond one without, {rows:,} rows", beyond, "s", bar=3, note=note)]

    def _pair(self, target: str, like: str, rounds: int, *flags: str) -> tuple[list[Cost], list[Cost]]:
        """Measure one bare statement and a run into an empty target, alternately."""
        bare = _HOURLY.format(f" WHERE {_BETWEEN}") if like == "rollup" else f"SELECT * FROM b.source WHERE {_BETWEEN}"

        def ours() -> Cost:
            self._empty(target, like)
            plan = self._plan(target, *flags)
            command = (*self._program, "run", "--plan-id", plan, "--max-parallel-chunks", "2", *self._common)
            return self._cost(lambda: use_of(*command).cpu)

        costs = in_turn(rounds, lambda: self._bare([bare], like, os.cpu_count() or 1), ours)
        self._compare(target)
        return costs[0], costs[1]

    def _bare(self, selects: Sequence[str], like: str, threads: int) -> Cost:
        self._empty("bare", like)
        settings = {"max_partitions_per_insert_block": 0, "max_insert_threads": threads}

        def insert(select: str) -> None:
            self._server.command(f"INSERT INTO b.bare {select}", settings)

        def work() -> float:
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(insert, selects))
            return 0.0

        return self._cost(work)

    def _cost(self, work: Callable[[], float]) -> Cost:
        self._server.command("SYSTEM FLUSH LOGS")
        began = self._now()
        program = 0.0

        def timed_work() -> None:
            nonlocal program
            program = work()

        wall = timed(timed_work)
        self._during = f"event_time_microseconds BETWEEN '{began}' AND '{self._now()}' AND query_kind != 'System'"
        self._server.command("SYSTEM FLUSH LOGS")
        spent = self._server.value(
            f"SELECT sum({_CPU}) / 1e6 FROM system.query_log WHERE type = 'QueryFinish' AND {self._during}"
        )
        return Cost(wall, spent, program)

    def _now(self) -> str:
        return str(self._server.value("SELECT toString(now64(6))"))

    def _plan(self, target: str, *flags: str, end: str = WINDOW[1]) -> str:
        window = ("--from", WINDOW[0], "--to", end, "--force-large-window", "--force")
        command = [*self._program, "plan", "--target", f"b.{target}", *window, *flags, *self._common]
        answer: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        return str(answer["planId"])

    def _empty(self, table: str, like: str) -> None:
        if table == like:
            self._server.command(f"TRUNCATE TABLE b.{table}")
        else:
            self._server.command(f"DROP TABLE IF EXISTS b.{table} SYNC")
            self._server.command(f"CREATE TABLE b.{table} AS b.{like}")
        # Wait for the merges of earlier writes, and let no disk write their rows while the next work is measured.
        while self._server.rows("SELECT count() FROM system.merges")[0][0]:
            time.sleep(0.1)
        os.sync()

    def _compare(self, target: str) -> None:
        """Check that both ways wrote the same rows."""
        values = "hour, user, countMerge(hits), sumMerge(ids)" if target == "rollup" else "*"
        group = " GROUP BY hour, user" if target == "rollup" else ""
        ours, bare = (
            self._server.rows(f"SELECT count(), sum(cityHash64(tuple(*))) FROM (SELECT {values} FROM b.{table}{group})")
            for table in (target, "bare")
        )
        if ours != bare:
            raise AssertionError(f"b.{target} holds {ours}, and one INSERT … SELECT gives {bare}")


def _compared(
    name: str,
    ours: Sequence[Cost],
    bare: Sequence[Cost],
    figure: Callable[[Cost], float],
    bar: float | None,
    against: str = AGAINST,
) -> Row:
    value, baseline = ratio_of([figure(cost) for cost in ours], [figure(cost) for cost in bare])
    return Row(name, value, "s", baseline, against, bar)
