"""One plan for all shards: every row once, on its own shard and on both of its replicas."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from airflow_provider_backfill.commands import crew
from tests.cluster.nodes import SESSION_SECONDS, Cluster, Node
from tests.command_line import Answer, Cli, finish, wait_until

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


@pytest.fixture
def ground(square: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Ground]:
    made = Ground(square, tmp_path / "state", capsys)
    yield made
    square.start()
    for node in square.nodes:
        node.query(f"DROP DATABASE IF EXISTS {made.database} SYNC")


def test_three_commands_fill_all_shards_and_either_name_finds_the_plan(ground: Ground) -> None:
    plan = ground.planned()
    for name in ("daily", "daily_local"):
        assert ground.cli.json("status", "--target", f"{ground.database}.{name}")["planId"] == plan
    answer = ground.cli("run", "--plan-id", plan)
    assert answer.code == 0, answer.err
    ground.assert_filled()
    status = ground.cli.json("status", "--plan-id", plan)
    assert [(shard["shard"], shard["done"], shard["total"]) for shard in status["shards"]] == [(1, 4, 4), (2, 4, 4)]
    assert ground.cli("check", "--target", f"{ground.database}.daily_local").code == 0
    verified = ground.cli.json("verify", "--plan-id", plan)
    assert (verified["verdict"], [shard["verdict"] for shard in verified["shards"]]) == ("equal", ["equal"] * 2)
    covered = ground.cli.json("coverage", "--target", f"{ground.database}.daily_local")
    assert covered["ok"], covered


def test_a_local_table_is_copied_by_each_shard_and_a_distributed_source_is_refused(ground: Ground) -> None:
    refused = ground.plan("--source", f"{ground.database}.events", target="copy")
    assert refused.code == 2
    assert f"--source {ground.database}.events_local" in refused.err
    # The local name and its cluster are another way to say the same.
    plan = ground.planned("--source", f"{ground.database}.events_local", "--cluster", "cluster", target="copy_local")
    assert ground.cli("run", "--plan-id", plan).code == 0
    sums = "count(), sum(cityHash64(*))"
    for node in ground.cluster.nodes:
        node.query(f"SYSTEM SYNC REPLICA {ground.database}.copy_local")
        held, wanted = (node.query(f"SELECT {sums} FROM {ground.database}.{name}_local") for name in ("copy", "events"))
        assert held == wanted


def test_rows_that_a_hand_has_put_on_one_shard_are_found_by_its_name(ground: Ground) -> None:
    plan = ground.planned()
    by_hand = f"INSERT INTO {ground.database}.daily_local SELECT toDate('2025-01-02'), 5, 5"
    ground.shard(2)[0].query(by_hand)
    refused = ground.plan("--force")
    assert refused.code == 2
    assert "Shard 2:" in refused.err
    answer = ground.cli("run", "--plan-id", plan)
    assert answer.code == 1
    status = ground.cli.json("status", "--plan-id", plan)
    assert [(shard["done"], shard["failed"]) for shard in status["shards"]] == [(4, 0), (3, 1)]
    # A row is put beside those of a shard that is filled already.
    ground.shard(1)[0].query(by_hand)
    verified = ground.cli.json("verify", "--plan-id", plan)
    assert [shard["verdict"] for shard in verified["shards"]] == ["differs", "equal"]


def test_two_addresses_of_one_shard_are_refused(ground: Ground) -> None:
    first = ground.shard(1)[0].url.replace("default@", "")
    words = ("--target", f"{ground.database}.daily", *WINDOW, "--shard-url", f"1={first}", "--shard-url", f"2={first}")
    answer = ground.cli("plan", *words)
    assert answer.code == 2
    assert "is shard 1 of the cluster cluster, not shard 2" in answer.err


@pytest.mark.long
def test_a_shard_that_is_down_makes_its_own_chunks_wait(ground: Ground) -> None:
    plan = ground.planned()
    for node in ground.shard(2):
        node.kill()
    process = ground.cli.start("run", "--plan-id", plan)

    def first_is_done() -> bool:
        shards = ground.cli.json("status", "--plan-id", plan)["shards"]
        return [shard["done"] for shard in shards] == [4, 0]

    # Keeper takes a while to see that servers are dead, and DDL of the cluster waits for that.
    wait_until(first_is_done, 240)
    assert "shard 2 does not answer" in ground.cli.json("status", "--plan-id", plan)["throttledBy"]
    for node in ground.shard(2):
        node.start()
    answer = finish(process)
    assert answer.code == 0, answer.err
    ground.assert_filled()


@pytest.mark.long
def test_a_shard_that_stays_down_pauses_the_run(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "PATIENCE_SECONDS", 1.0)
    plan = ground.planned()
    for node in ground.shard(2):
        node.kill()
    assert ground.cli("run", "--plan-id", plan).code == 1
    status = ground.cli.json("status", "--plan-id", plan)
    assert (status["status"], [shard["done"] for shard in status["shards"]]) == ("paused", [4, 0])
    for node in ground.shard(2):
        node.start()
    answer = ground.cli("run", "--plan-id", plan)
    assert answer.code == 0, answer.err
    ground.assert_filled()


def test_two_state_folders_at_once_do_not_fill_a_shard_twice(ground: Ground) -> None:
    clis = [ground.at(ground.cluster.nodes[0], state=name) for name in ("one", "two")]
    plans = [ground.planned(cli=cli) for cli in clis]
    assert plans[0] == plans[1]
    running = [cli.start("run", "--plan-id", plan) for cli, plan in zip(clis, plans, strict=True)]
    answers = [finish(process) for process in running]
    assert sorted(answer.code != 0 for answer in answers) == [False, True]
    ground.assert_filled()


def test_a_state_folder_that_comes_too_late_leaves_nothing_on_a_shard(ground: Ground) -> None:
    clis = [ground.at(ground.cluster.nodes[0], state=name) for name in ("one", "two")]
    plan, _ = (ground.planned(cli=cli) for cli in clis)
    assert clis[0]("run", "--plan-id", plan).code == 0
    late = clis[1]("run", "--plan-id", plan)
    assert late.code == 1
    assert "has not written" in late.err
    ground.assert_filled()


def _strike(ground: Ground, seed: int) -> None:
    """Workers are killed while they run, and a replica of each shard in turn; then the plan is run to its end."""
    chance = random.Random(seed)  # noqa: S311 - repeatable on purpose
    plan = ground.planned()
    for number in chance.sample((1, 2), 2):
        process = ground.cli.start("run", "--plan-id", plan)
        victim = chance.choice([node for node in ground.shard(number) if node is not ground.cluster.nodes[0]])
        strikes = [
            threading.Timer(chance.uniform(1, 4), process.kill),
            threading.Timer(chance.uniform(0, 3), victim.kill),
        ]
        for strike in strikes:
            strike.start()
        for strike in strikes:
            strike.join()
        process.communicate()
        victim.start()
        wait_until(lambda: ground.query("SELECT 1") == "1", SESSION_SECONDS * 5)
    for _ in range(3):
        if ground.cli("resume", "--plan-id", plan).code == 0:
            break
    ground.assert_filled()


@pytest.mark.long
def test_killed_workers_and_replicas_lose_and_double_nothing(ground: Ground) -> None:
    _strike(ground, 0)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 20))
def test_killed_workers_and_replicas_lose_and_double_nothing_at_length(ground: Ground, seed: int) -> None:
    _strike(ground, seed)
