"""Two shards with rows: what the tests of plans for a whole cluster play on."""

from __future__ import annotations

import itertools
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.nodes import Cluster, Node
from tests.command_line import Answer, Cli, wait_until

_numbers = itertools.count(1)
ROWS = 4_000
WINDOW = ("--from", "2025-01-01", "--to", "2025-01-05", "--chunk-hours", "24")


class Ground:
    """A database on all nodes: events with a view on each shard, and Distributed tables over both."""

    def __init__(self, cluster: Cluster, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.cluster, self.state, self.capsys = cluster, state, capsys
        self.database = f"shards_{next(_numbers)}"
        self.cli = self.at(cluster.nodes[0])
        for node in cluster.nodes:
            node.query(f"CREATE DATABASE {self.database}")
        self._create("events_local", "ts DateTime('UTC'), id UInt64, amount Int64", "ReplicatedMergeTree", "(ts, id)")
        self._create("daily_local", "day Date, n UInt64, amount Int64", "ReplicatedSummingMergeTree", "day")
        self._create("copy_local", "ts DateTime('UTC'), id UInt64, amount Int64", "ReplicatedMergeTree", "(ts, id)")
        for name, key in (("events", "cityHash64(id)"), ("daily", "rand()"), ("copy", "cityHash64(id)")):
            spread = f"ENGINE = Distributed(cluster, {self.database}, {name}_local, {key})"
            table = f"{self.database}.{name}"
            self.query(f"CREATE TABLE {table} ON CLUSTER cluster AS {table}_local {spread}")
        self.query(
            f"INSERT INTO {self.database}.events SELECT toDateTime('2025-01-01', 'UTC')"
            f" + intDiv(number * 4 * 86400, {ROWS}), number, 1 + number % 7 FROM numbers({ROWS})"
            " SETTINGS distributed_foreground_insert = 1"
        )
        for node in cluster.nodes:
            node.query(f"SYSTEM SYNC REPLICA {self.database}.events_local")
        self.query(
            f"CREATE MATERIALIZED VIEW {self.database}.daily_mv ON CLUSTER cluster TO {self.database}.daily_local AS"
            f" SELECT toDate(ts) AS day, count() AS n, sum(amount) AS amount FROM {self.database}.events_local"
            " GROUP BY day"
        )

    def _create(self, table: str, columns: str, engine: str, key: str) -> None:
        # A path without the table's own macro, as people write them.
        path = f"'/clickhouse/tables/{{shard}}/{self.database}/{table}', '{{replica}}'"
        self.query(
            f"CREATE TABLE {self.database}.{table} ON CLUSTER cluster ({columns})"
            f" ENGINE = {engine}({path}) PARTITION BY toYYYYMM({key.strip('(').split(',')[0]}) ORDER BY {key}"
        )

    def query(self, sql: str) -> str:
        """Run a query on the first node."""
        return self.cluster.query(sql)

    def at(self, node: Node, state: str = "") -> Cli:
        """Talk to one node, with a state folder of its own by its name."""
        cli = Cli(self.state.parent / state if state else self.state, node.url, self.capsys)
        cli.environment["CLICKHOUSE_BACKFILL_RETRY_DELAY_MS"] = "20"
        return cli

    def shard(self, number: int) -> list[Node]:
        """The replicas of a shard."""
        return [node for node in self.cluster.nodes if node.shard == number]

    @property
    def urls(self) -> list[str]:
        """The flags that say where each shard is: all nodes have one name here."""
        return [
            word
            for node in self.cluster.nodes
            for word in ("--shard-url", f"{node.shard}={node.url.replace('default@', '')}")
        ]

    def plan(self, *flags: str, target: str = "daily", cli: Cli | None = None) -> Answer:
        """Plan the four days of a Distributed table."""
        return (cli or self.cli)("plan", "--target", f"{self.database}.{target}", *WINDOW, *self.urls, *flags)

    def planned(self, *flags: str, target: str = "daily", cli: Cli | None = None) -> str:
        """Plan as :meth:`plan`, and give the plan's id."""
        answer = self.plan(*flags, "--quiet", target=target, cli=cli)
        assert answer.code == 0, answer.err
        return answer.out.strip()

    def ran(self, plan: str, *flags: str) -> Answer:
        """
        Run a plan to its end.

        When a node has died, as :meth:`verified` says, it is started again, and the plan is resumed.
        """
        answer = self.cli("run", "--plan-id", plan, *flags)
        for _ in range(3):
            if answer.code == 0 or all(node.alive for node in self.cluster.nodes):
                break
            self.cluster.start()
            answer = self.cli("resume", "--plan-id", plan, "--replay-failed")
        assert answer.code == 0, answer.err
        return answer

    def verified(self, plan: str) -> dict[str, Any]:
        """The answer of ``verify``."""
        answer = self.cli.json("verify", "--plan-id", plan)
        assert "verdict" in answer, answer
        return answer

    def assert_filled(self) -> None:
        """Each shard's view over its own rows is what both of its replicas hold, and nothing of ours is left."""
        for node in self.cluster.nodes:
            node.query(f"SYSTEM SYNC REPLICA {self.database}.daily_local")
            wanted = node.query(
                "SELECT toDate(ts) AS day, count(), sum(amount)"
                f" FROM {self.database}.events_local GROUP BY day ORDER BY day"
            )
            held = node.query(f"SELECT * FROM {self.database}.daily_local FINAL ORDER BY day")
            assert held == wanted, f"shard {node.shard}, replica {node.replica}"
        self.assert_clean()

    def assert_clean(self) -> None:
        """Nothing of ours is left on any node; what was dropped everywhere may take a moment on some."""
        ours = f"SELECT name FROM system.tables WHERE database = '{self.database}' AND name LIKE 'backfill%'"

        def left() -> list[str]:
            return [f"{node.folder.name}: {name}" for node in self.cluster.nodes if (name := node.query(ours))]

        with suppress(AssertionError):
            wait_until(lambda: not left(), 15)
        assert left() == []

    def spread(self, name: str, columns: str, engine: str, order: str, key: str) -> None:
        """Create a table on every shard, partitioned by day, and a Distributed table over them with a sharding key."""
        local = f"{self.database}.{name}_local"
        path = f"'/clickhouse/tables/{{shard}}/{self.database}/{name}', '{{replica}}'"
        self.query(
            f"CREATE TABLE {local} ON CLUSTER cluster ({columns}) ENGINE = {engine}({path})"
            f" PARTITION BY toYYYYMMDD({order.strip('(').split(',')[0]}) ORDER BY {order}"
        )
        over = f"cluster, {self.database}, {name}_local" + (f", {key}" if key else "")
        self.query(f"CREATE TABLE {self.database}.{name} ON CLUSTER cluster AS {local} ENGINE = Distributed({over})")

    def drop(self) -> None:
        """Drop the database on all nodes."""
        for node in self.cluster.nodes:
            node.query(f"DROP DATABASE IF EXISTS {self.database} SYNC")

    def content(self, table: str, values: str = "*") -> list[str]:
        """Rows and their sum on each node, once it has all of them."""
        found = []
        for node in self.cluster.nodes:
            node.query(f"SYSTEM SYNC REPLICA {self.database}.{table}_local")
            found.append(node.query(f"SELECT count(), sum(cityHash64({values})) FROM {self.database}.{table}_local"))
        return found
