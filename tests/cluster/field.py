"""
Where a test plays: a database on every replica, a balancer in front of them, state folders, and the command line.

Everything is seen from outside: what a user types, and what every replica and Keeper hold afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import cast

import pytest

from tests.cluster.balancer import Balancer
from tests.cluster.nodes import Cluster, Node
from tests.command_line import Cli, wait_until

COLUMNS = "ts DateTime('UTC'), id UInt64, amount Int64"
# Two whole months, so that every chunk length and both partitions of a month are met.
FIRST, LAST = "2025-01-01", "2025-03-01"


class Kind(StrEnum):
    """How the tables of a database are replicated."""

    EXPLICIT = "explicit path"
    DEFAULT = "default path"
    DATABASE = "Replicated database"
    KEEPER = "another Keeper"


@dataclass
class Field:
    """
    A database on all nodes of a cluster.

    Attributes:
        balancer: In front of the first shard.
        kind: How :meth:`create` replicates tables.
        others: In front of each further shard, in their order.
    """

    cluster: Cluster
    balancer: Balancer
    database: str
    state: Path
    capsys: pytest.CaptureFixture[str] | None
    kind: Kind = Kind.EXPLICIT
    others: tuple[Balancer, ...] = ()
    _ready: bool = False

    @property
    def balancers(self) -> tuple[Balancer, ...]:
        """One in front of each shard."""
        return (self.balancer, *self.others)

    @property
    def shard_flags(self) -> tuple[str, ...]:
        """What ``plan`` must be told of the shards; nothing where there is one."""
        if not self.others:
            return ()
        urls = (f"{shard}={one.url.replace('default@', '')}" for shard, one in enumerate(self.balancers, 1))
        return ("--cluster", self.cluster.name, *(word for url in urls for word in ("--shard-url", url)))

    def prepare(self) -> None:
        """Create the database where it is not there yet."""
        if self._ready:
            return
        self._ready = True
        if self.kind is Kind.DATABASE:
            for node in self.cluster.nodes:
                path = f"'/clickhouse/databases/{self.database}', '{{shard}}', '{{replica}}'"
                node.query(f"CREATE DATABASE {self.database} ENGINE = Replicated({path})")
        else:
            self.everywhere(f"CREATE DATABASE {self.database}")
        if self.kind is Kind.KEEPER:
            # Its root must be there; tables make it in the first Keeper.
            keeper = "ENGINE = ReplicatedMergeTree('/other/tables/root', 'r') ORDER BY x"
            self.query(f"CREATE TABLE IF NOT EXISTS default.root (x UInt8) {keeper}")

    def create(self, table: str, *, engine: str = "MergeTree", keys: str = "", columns: str = COLUMNS) -> None:
        """
        Create a Replicated table on all replicas.

        Args:
            engine: Without ``Replicated``, and with its own arguments in parentheses.
            keys: Everything after the engine; by default monthly partitions, sorted by time and id.
        """
        self.prepare()
        name, _, arguments = engine.partition("(")
        path = {
            Kind.EXPLICIT: "'/clickhouse/tables/{shard}/{database}/{table}', '{replica}'",
            Kind.KEEPER: "'other:/tables/{shard}/{database}/{table}', '{replica}'",
        }.get(self.kind, "")
        inside = ", ".join(filter(None, (path, arguments.rstrip(")"))))
        keys = keys or "PARTITION BY toYYYYMM(ts) ORDER BY (ts, id)"
        cluster = "" if self.kind is Kind.DATABASE else f" ON CLUSTER {self.cluster.name}"
        clause = f"({inside})" if inside else ""
        self.query(
            f"CREATE TABLE {self.database}.{table}{cluster} ({columns}) ENGINE = Replicated{name}{clause} {keys}"
        )

    def fill_source(self, table: str = "source", rows: int = 20_000) -> None:
        """
        Create the source with *rows* rows over the two months, on each shard, and have them on every replica.

        No amount is zero: a SummingMergeTree drops rows whose sums are.
        """
        self.create(table)
        for shard in range(1, len(self.balancers) + 1):
            # No shard has a row of another one.
            self.cluster.node(1, shard).query(
                f"INSERT INTO {self.database}.{table} SELECT toDateTime('{FIRST}', 'UTC') + intDiv(number * 59 * 86400,"
                f" {rows}), number + {(shard - 1) * rows}, toInt64(number % 1000) + 1 FROM numbers({rows})"
            )
        self.catch_up(table)

    def everywhere(self, sql: str) -> None:
        """Run a statement on each node by itself."""
        for node in self.cluster.nodes:
            node.query(sql)

    def query(self, sql: str) -> str:
        """Run a query on the first node."""
        return self.cluster.query(sql)

    def catch_up(self, *tables: str) -> None:
        """Wait until every replica has fetched all; one that has just begun is read-only for a moment."""
        readonly = f"SELECT count() FROM system.replicas WHERE database = '{self.database}' AND is_readonly"
        for node in self.cluster.nodes:
            wait_until(lambda node=node: node.query(readonly) == "0")  # type: ignore[misc]
            for table in tables:
                node.query(f"SYSTEM SYNC REPLICA {self.database}.{table}")

    def contents(self, table: str, columns: str = "*", where: str = "1") -> list[str]:
        """Count and content sum of a table on each replica, once they have caught up."""
        self.catch_up(table)
        return [self.content(node, table, columns, where) for node in self.cluster.nodes]

    def content(self, node: Node, table: str, columns: str = "*", where: str = "1") -> str:
        """Count and content sum of a table on one node, as it is now."""
        sums = f"count(), sum(cityHash64(tuple({columns})))"
        return node.query(f"SELECT {sums} FROM {self.database}.{table} WHERE {where}")

    def cli(self, node: Node | None = None, *, state: str = "", user: str = "default") -> Cli:
        """The command line, through the balancer or to one *node*, with a state folder of its own by its name."""
        url = node.url if node is not None else self.balancer.url
        folder = self.state.parent / state if state else self.state
        # Without one, the command line runs in processes of its own.
        capsys = cast("pytest.CaptureFixture[str]", self.capsys)
        cli = Cli(folder, url.replace("default@", f"{user}@"), capsys)
        # A retry after a second would make up most of a test.
        cli.environment["CLICKHOUSE_BACKFILL_RETRY_DELAY_MS"] = "20"
        return cli

    def plan(self, cli: Cli, *flags: str, target: str = "target", hours: int = 24 * 59) -> str:
        """Plan the two months from the source, and give the plan's id."""
        window = ("--from", FIRST, "--to", LAST, "--chunk-hours", str(hours), "--force-large-window")
        tables = ("--target", f"{self.database}.{target}", "--source", f"{self.database}.source")
        return str(cli.json("plan", *tables, *window, *flags)["planId"])

    def assert_filled(self, target: str = "target") -> None:
        """Hold that every replica has each row of the source once, and nothing of ours is left anywhere."""
        expected = self.content(self.cluster.nodes[0], "source")
        assert self.contents(target) == [expected] * len(self.cluster.nodes)
        self.assert_clean()

    def assert_clean(self) -> None:
        """Hold that nothing of ours is left on any replica or in Keeper."""
        left: list[str] = []

        def nothing_left() -> bool:
            left[:] = self.leftovers()
            return not left

        try:
            wait_until(nothing_left, 15)
        except AssertionError:
            raise AssertionError(f"left behind: {left}") from None

    def leftovers(self) -> list[str]:
        """Tables of ours on each node that is alive, and the highest nodes of ours in Keeper."""
        return [*self._tables(), *self._keeper()]

    def _tables(self) -> Iterator[str]:
        where = f"database = '{self.database}' AND startsWith(name, 'backfill_')"
        for node in filter(lambda node: node.alive, self.cluster.nodes):
            for name in node.query(f"SELECT name FROM system.tables WHERE {where}").splitlines():
                yield f"{name} on r{node.replica}"

    def _keeper(self) -> Sequence[str]:
        ours = f"name LIKE '%backfill%' AND path NOT LIKE '%backfill%' AND path LIKE '%{self.database}%'"
        question = f"SELECT path || '/' || name FROM system.zookeeper WHERE {ours}"
        live = next(node for node in self.cluster.nodes if node.alive)
        return live.query(question, allow_unrestricted_reads_from_keeper=1).splitlines()

    def clear(self) -> None:
        """Drop the database, once everything is alive again."""
        self.cluster.start()
        if self._ready:
            self.everywhere(f"DROP DATABASE IF EXISTS {self.database} SYNC")
