"""Start a real cluster on this machine, and compare a plan with one bare statement; used by other benchmarks."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.frame import Row, in_turn, ratio_of, timed, use_of
from tests.cluster.nodes import Cluster, why_not_here

DATABASE = "b"
WINDOW = ("2025-01-01", "2025-02-01")
COLUMNS = "ts DateTime64(3, 'UTC'), id UInt64, value Float64, url String"
BETWEEN = "ts >= toDateTime64('2025-01-01', 3, 'UTC') AND ts < toDateTime64('2025-02-01', 3, 'UTC')"
_CPU = "ProfileEvents['UserTimeMicroseconds'] + ProfileEvents['SystemTimeMicroseconds']"


class Cost(NamedTuple):
    """Seconds of wall time, and of processor time by the query logs of all nodes."""

    wall: float
    cpu: float


def can_measure() -> bool:
    """
    Return whether this machine can run a cluster; otherwise print the reason, so that the other
    benchmarks continue.
    """
    if reason := why_not_here():
        print(f"not measured: {reason}", file=sys.stderr)
    return not reason


@contextmanager
def cluster_bench(shards: int, rows: int) -> Iterator["Bench"]:
    """Start *shards* shards with two replicas each, and fill a source with *rows* rows."""
    with (
        tempfile.TemporaryDirectory(prefix="backfill-bench-", dir=os.environ.get("BACKFILL_BENCH_DIR")) as folder,
        Cluster(Path(folder) / "cluster", shards) as cluster,
    ):
        yield Bench(cluster, Path(folder) / "state", rows)


class Bench:
    """
    Replicated tables on all nodes of a cluster, and Distributed tables over them.

    Args:
        rows: Rows of the source, spread evenly over the 31 days of the window.

    Attributes:
        addresses: The flags with the address of each shard, since all nodes have one host name here.
    """

    def __init__(self, cluster: Cluster, state: Path, rows: int) -> None:
        self._cluster, self._rows = cluster, rows
        self._common = ("--clickhouse-url", cluster.nodes[0].url, "--state-dir", str(state), "--json")
        self.addresses = [
            word
            for node in cluster.nodes
            for word in ("--shard-url", f"{node.shard}={node.url.replace('default@', '')}")
        ]
        self._program = (sys.executable, "-m", "airflow_provider_backfill.cli")
        for node in cluster.nodes:
            node.query(f"CREATE DATABASE {DATABASE}")
        for table in ("source", "bare", "ours"):
            self._create(table)
        values = (
            "toDateTime64('2025-01-01', 3, 'UTC') + toIntervalMillisecond(intDiv(number * 2678400000, {0})), number,"
            " cityHash64(number) / 7, concat('/p/', toString(cityHash64(number) % 10000)) FROM numbers({0})"
        )
        by_key = {"distributed_foreground_insert": 1, "max_partitions_per_insert_block": 0}
        cluster.nodes[0].query(f"INSERT INTO b.source SELECT {values.format(rows)}", 600, **by_key)
        self._rest("source")

    def _create(self, table: str) -> None:
        path = f"'/clickhouse/tables/{{shard}}/{DATABASE}/{table}_{time.monotonic_ns()}', '{{replica}}'"
        on = f"ON CLUSTER {self._cluster.name}"
        for name in (table, f"{table}_local"):
            self._cluster.query(f"DROP TABLE IF EXISTS {DATABASE}.{name} {on} SYNC")
        self._cluster.query(
            f"CREATE TABLE {DATABASE}.{table}_local {on} ({COLUMNS}) ENGINE = ReplicatedMergeTree({path})"
            " PARTITION BY toYYYYMMDD(ts) ORDER BY (ts, id)"
        )
        spread = f"Distributed({self._cluster.name}, {DATABASE}, {table}_local, intHash64(id))"
        self._cluster.query(f"CREATE TABLE {DATABASE}.{table} {on} AS {DATABASE}.{table}_local ENGINE = {spread}")

    def _rest(self, table: str) -> None:
        """Wait until every replica has all rows and no merge is running."""
        for node in self._cluster.nodes:
            node.query(f"SYSTEM SYNC REPLICA {DATABASE}.{table}_local", 600)
            while node.number(f"SELECT count() FROM system.merges WHERE database = '{DATABASE}'"):
                time.sleep(0.1)

    def bare(self, statement: str, **settings: object) -> Cost:
        """Run one statement that fills the table ``bare``, and wait until all replicas have its rows."""
        self._create("bare")
        given = {"max_partitions_per_insert_block": 0, "max_insert_threads": 2, **settings}
        return self._cost(lambda: self._cluster.nodes[0].query(statement, 600, **given), "bare")

    def ours(self, target: str, *flags: str) -> Cost:
        """Plan the table ``ours`` under the name *target*, and run the plan with 2 parallel chunks per shard."""
        self._create("ours")
        window = ("--from", WINDOW[0], "--to", WINDOW[1], "--force-large-window", "--force", "--no-trial")
        command = [*self._program, "plan", "--target", f"{DATABASE}.{target}", *window, *flags, *self._common]
        answer: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        run = (*self._program, "run", "--plan-id", answer["planId"], "--max-parallel-chunks", "2", *self._common)
        return self._cost(lambda: use_of(*run), "ours")

    def _cost(self, work: Callable[[], object], table: str) -> Cost:
        nodes = self._cluster.nodes

        def all_of_it() -> None:
            work()
            for node in nodes:
                node.query(f"SYSTEM SYNC REPLICA {DATABASE}.{table}_local", 600)

        # Let no disk write the rows of earlier work while this work is measured.
        os.sync()
        began = self._cluster.query("SELECT now64(6)")
        wall = timed(all_of_it)
        ended = self._cluster.query("SELECT now64(6)")
        for node in nodes:
            node.query("SYSTEM FLUSH LOGS")
        during = f"event_time_microseconds BETWEEN '{began}' AND '{ended}' AND query_kind != 'System'"
        spent = f"SELECT sum({_CPU}) FROM system.query_log WHERE type = 'QueryFinish' AND {during}"
        found = sum(node.number(spent) for node in nodes) / 1e6
        self._rest(table)
        return Cost(wall, found)

    def compare(
        self, name: str, against: str, bars: tuple[float | None, float | None], rounds: int, *works: Callable[[], Cost]
    ) -> list[Row]:
        """
        Measure a bare statement and a run alternately, and check that both wrote the same rows to each node.

        Args:
            bars: The bars for wall time and for processor time.
            works: The statement, and the run.
        """
        bare, ours = in_turn(rounds, *works)
        for node in self._cluster.nodes:
            content = "SELECT count(), sum(cityHash64(*)) FROM b.{}_local"
            expected, found = (node.query(content.format(table), 600) for table in ("bare", "ours"))
            if found != expected:
                raise AssertionError(f"{node.folder.name} holds {found}, and the bare statement gives {expected}")
        return [
            _row(
                f"{self._rows:,} rows, {name}", against, bars[0], [one.wall for one in ours], [one.wall for one in bare]
            ),
            _row(
                "the same, processor time of all nodes", against, bars[1], [o.cpu for o in ours], [b.cpu for b in bare]
            ),
        ]


def _row(name: str, against: str, bar: float | None, ours: Sequence[float], bare: Sequence[float]) -> Row:
    value, baseline = ratio_of(ours, bare)
    return Row(name, value, "s", baseline, against, bar)
