"""One plan for all shards: every row once, on its own shard and on both of its replicas."""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from airflow_provider_backfill.clickhouse import publish
from airflow_provider_backfill.clickhouse.attempt import Attempt
from airflow_provider_backfill.clickhouse.client import ClickHouse
from airflow_provider_backfill.commands import crew
from airflow_provider_backfill.core.tables import TableName
from airflow_provider_backfill.errors import StatementRefusedError
from tests.cluster.ground import WINDOW, Ground
from tests.cluster.nodes import SESSION_SECONDS, Cluster
from tests.command_line import finish, wait_until

# Of the tests with chance in them.
SEEDS = range(int(os.environ.get("BACKFILL_TEST_SEEDS", "3")))


@pytest.fixture
def ground(square: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Ground]:
    made = Ground(square, tmp_path / "state", capsys)
    yield made
    square.start()
    made.drop()


def test_three_commands_fill_all_shards_and_either_name_finds_the_plan(ground: Ground) -> None:
    plan = ground.planned()
    for name in ("daily", "daily_local"):
        assert ground.cli.json("status", "--target", f"{ground.database}.{name}")["planId"] == plan
    answer = ground.cli("run", "--plan-id", plan)
    assert answer.code == 0, answer.err
    ground.assert_filled()
    # The logs of all nodes are complete in the report, also what a node still had in memory.
    queries = ground.cli.json("report", "--plan-id", plan)["cost"]["queries"]
    logged = f"FROM system.query_log WHERE type != 'QueryStart' AND startsWith(query_id, 'backfill-{plan}-')"
    for node in ground.cluster.nodes:
        node.query("SYSTEM FLUSH LOGS query_log")
    assert queries == sum(int(node.query(f"SELECT count() {logged}")) for node in ground.cluster.nodes)
    status = ground.cli.json("status", "--plan-id", plan)
    assert [(shard["shard"], shard["done"], shard["total"]) for shard in status["shards"]] == [(1, 4, 4), (2, 4, 4)]
    assert ground.cli("check", "--target", f"{ground.database}.daily_local").code == 0
    verified = ground.cli.json("verify", "--plan-id", plan)
    assert (verified["verdict"], [shard["verdict"] for shard in verified["shards"]]) == ("equal", ["equal"] * 2)
    covered = ground.cli.json("coverage", "--target", f"{ground.database}.daily_local")
    assert covered["ok"], covered
    left = f"{ground.database}.backfill_{plan}_0123456789abcdef_1_abcd1234"
    ground.shard(2)[0].query(f"CREATE TABLE {left} (id UInt8) ENGINE = MergeTree ORDER BY id")
    cleaned = ground.cli.json("clean", "--yes", "--plan-id", plan)
    assert [(table["table"], table["fate"]) for table in cleaned["tables"]] == [(left, "removed")]


def test_a_local_table_is_copied_by_each_shard(ground: Ground) -> None:
    # The local name and its cluster are another way to say the same.
    plan = ground.planned("--source", f"{ground.database}.events_local", "--cluster", "cluster", target="copy_local")
    ground.ran(plan)
    assert ground.content("copy") == ground.content("events")


ROW = "ts DateTime('UTC'), id UInt64, amount Int64"


@pytest.mark.parametrize("whole", [True, False])
def test_an_undo_restores_the_rows_of_all_shards(ground: Ground, monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    """Also where a shard has no backup, because its chunks failed before they replaced anything."""
    ground.spread("rebuilt", ROW, "ReplicatedMergeTree", "(ts, id)", "cityHash64(id)")
    old = f"SELECT ts, id, -1 FROM {ground.database}.events SETTINGS distributed_foreground_insert = 1"
    ground.query(f"INSERT INTO {ground.database}.rebuilt {old}")
    before = ground.content("rebuilt")
    flags = (
        "--source",
        f"{ground.database}.events_local",
        "--cluster",
        "cluster",
        "--write-mode",
        "replace",
        "--backup",
    )
    plan = ground.planned(*flags, target="rebuilt_local")
    if whole:
        ground.ran(plan)
        assert ground.content("rebuilt") == ground.content("events")
    else:
        back_up = publish.back_up

        def fail(server: ClickHouse, attempt: Attempt, table: TableName) -> None:
            if attempt.plan.shard == 2:
                raise StatementRefusedError("no such luck", code=36, name="BAD_ARGUMENTS")
            back_up(server, attempt, table)

        monkeypatch.setattr(publish, "back_up", fail)
        assert ground.cli("run", "--plan-id", plan).code == 1
        assert ground.content("rebuilt") not in (before, ground.content("events"))
    undone = ground.cli.json("undo", "--plan-id", plan)
    assert undone["status"] == "undone", undone
    assert ground.content("rebuilt") == before


# The sharding key wants another type than the SELECT gives, and is negative; all shards are remote to the initiator.
@pytest.mark.parametrize(
    ("key", "flags"),
    [
        ("cityHash64(id)", ()),
        pytest.param("-toInt32(id)", ("--write-mode", "replace"), marks=pytest.mark.long),
        pytest.param("intHash32(id) % 7", ("--setting", "prefer_localhost_replica=0"), marks=pytest.mark.long),
    ],
)
def test_rows_of_a_distributed_source_go_where_the_sharding_key_says(
    ground: Ground, key: str, flags: tuple[str, ...]
) -> None:
    for name in ("moved", "wanted"):
        ground.spread(name, ROW, "ReplicatedMergeTree", "(ts, id)", key)
    select = f"SELECT ts, toUInt32(id) AS id, amount FROM {ground.database}.events"
    # Else each shard would keep its own rows, whatever the key says.
    by_key = "distributed_foreground_insert = 1, parallel_distributed_insert_select = 0"
    ground.query(f"INSERT INTO {ground.database}.wanted {select} SETTINGS {by_key}")
    answer = ground.plan("--select", select, *flags, target="moved")
    assert answer.code == 0, answer.err
    assert f"each row goes to the shard that the sharding key says, {key}" in answer.out
    plan = ground.cli.json("status", "--last")["planId"]
    ground.ran(plan, "--max-parallel-chunks", "2")
    assert ground.content("moved") == ground.content("wanted")
    assert ground.verified(plan)["ok"]
    ground.assert_clean()
    # A row that lies on the other shard is right for the whole, and wrong all the same.
    first, second = (ground.shard(number)[0] for number in (1, 2))
    row = first.query(f"SELECT ts, id, amount FROM {ground.database}.moved_local LIMIT 1 FORMAT Values")
    first.query(f"ALTER TABLE {ground.database}.moved_local DELETE WHERE (ts, id, amount) = {row}", mutations_sync=2)
    second.query(f"INSERT INTO {ground.database}.moved_local VALUES {row}")
    assert [shard["verdict"] for shard in ground.verified(plan)["shards"]] == ["differs", "differs"]


@pytest.mark.long
def test_a_plain_insert_through_a_distributed_table_follows_the_sharding_key_too(ground: Ground) -> None:
    for name in ("moved", "wanted"):
        ground.spread(name, ROW, "ReplicatedMergeTree", "(ts, id)", "intHash32(id) % 7")
    by_key = "distributed_foreground_insert = 1, parallel_distributed_insert_select = 0"
    ground.query(f"INSERT INTO {ground.database}.wanted SELECT * FROM {ground.database}.events SETTINGS {by_key}")
    flags = ("--source", f"{ground.database}.events", "--write-mode", "insert", "--accept-at-least-once")
    words = ("--target", f"{ground.database}.moved", *WINDOW, *flags)
    plan = ground.cli.json("plan", *words)["planId"]
    run = ground.cli("run", "--plan-id", plan)
    assert run.code == 0, run.err
    assert ground.content("moved") == ground.content("wanted")


def test_states_of_groups_over_all_shards_are_on_one_shard_each_whatever_the_key(ground: Ground) -> None:
    columns = "day Date, users AggregateFunction(uniq, UInt64), amount SimpleAggregateFunction(sum, Int64)"
    ground.spread("states", columns, "ReplicatedAggregatingMergeTree", "day", "rand()")
    values = "toDate(ts) AS day, uniqState(id) AS users, sum(amount) AS amount"
    select = f"SELECT {values} FROM {ground.database}.events GROUP BY day"
    answer = ground.plan("--select", select, target="states")
    assert answer.code == 0, answer.err
    assert "each row goes to one shard, by a hash of `day`, since the sharding key rand() gives another" in answer.out
    plan = ground.cli.json("status", "--last")["planId"]
    ground.ran(plan)
    given = "SELECT day, uniqMerge(users), sum(amount) FROM {} GROUP BY day ORDER BY day"
    assert ground.query(given.format(f"{ground.database}.states")) == ground.query(given.format(f"({select})"))
    assert ground.query(f"SELECT count() FROM {ground.database}.states") == "4"
    verified = ground.verified(plan)
    assert (verified["verdict"], verified["rowsInTarget"]) == ("equal", 4)
    ground.assert_clean()


def test_what_is_chosen_otherwise_each_time_is_not_dealt_out(ground: Ground) -> None:
    database = ground.database
    refused = ground.plan("--select", f"SELECT ts, id, amount FROM {database}.events LIMIT 1 BY ts", target="copy")
    assert refused.code == 2
    assert "has LIMIT BY" in refused.err
    refused = ground.plan("--select", f"SELECT ts, rand() AS id, amount FROM {database}.events", target="copy")
    assert refused.code == 2
    assert "id may have another value each time" in refused.err


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


def test_a_shard_that_a_plan_of_the_local_table_leaves_out_is_found_by_its_name(ground: Ground) -> None:
    words = ("--target", f"{ground.database}.daily_local", *WINDOW)
    first, second = ground.cli, ground.at(ground.shard(2)[1], state="second")
    forgotten = "this plan fills shard {} of the cluster cluster alone, not shard {}."
    planned = first("plan", *words)
    assert planned.code == 0, planned.err
    assert forgotten.format(1, 2) in planned.out
    plan = first.json("status", "--last")["planId"]
    assert first("run", "--plan-id", plan).code == 0
    doctor = first.json("doctor", "--plan-id", plan)
    found = [(each["code"], forgotten.format(1, 2) in each["message"]) for each in doctor["findings"]]
    assert found == [("backfill_shards_left_out", True)], doctor
    assert forgotten.format(2, 1) in second("plan", *words).out
    # What the advice says: the plan of all shards is refused, since one is filled, and shows what is missing.
    refused = ground.plan()
    assert (refused.code, "Shard 1:" in refused.err) == (2, True), refused.err


def test_a_shard_that_a_plan_of_its_own_table_fills_again_is_found_by_its_name(ground: Ground) -> None:
    plan = ground.planned()
    ground.ran(plan)
    shard = ground.at(ground.shard(2)[1])
    words = ("--target", f"{ground.database}.daily_local", *WINDOW)
    refused = shard("plan", *words, "--chunk-hours", "48")
    assert (refused.code, f"Plan {plan} has filled the window" in refused.err) == (2, True), refused.err
    assert shard("plan", *words, "--chunk-hours", "48", "--allow-existing-rows").code == 0
    second = shard.json("status", "--last")["planId"]
    assert shard("run", "--plan-id", second).code == 0
    check = ground.cli.json("check")
    found = [each["message"] for each in check["plugins"]["backfill"]["findings"] if "filled_twice" in each["code"]]
    assert f"{ground.database}.daily_local was filled twice on shard 2 from" in found[0], check
    assert [shard["verdict"] for shard in ground.verified(plan)["shards"]] == ["equal", "differs"]


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
    status = partial(ground.cli.json, "status", "--plan-id", plan)
    wait_until(lambda: "shard 2 does not answer" in status().get("throttledBy", ""))
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


# So many seeds share a minute: each has tables, a plan and a worker of its own.
_AT_ONCE = 5
# Seconds in which a plan must be run to its end once every node works again, on a busy machine.
_PATIENCE = 120


@pytest.mark.long
@pytest.mark.parametrize("seeds", [SEEDS[first : first + _AT_ONCE] for first in SEEDS[::_AT_ONCE]], ids=str)
def test_a_shard_that_is_down_for_a_minute_loses_and_doubles_nothing(
    square: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], seeds: range
) -> None:
    grounds = [Ground(square, tmp_path / f"state-{seed}", capsys) for seed in seeds]
    plans = [ground.planned() for ground in grounds]
    # The first shard is the initiator's, which may be down as well as another one.
    down = grounds[0].shard(1 + seeds[0] // _AT_ONCE % 2)
    known = [len(ground.cli.events(plan)) for ground, plan in zip(grounds, plans, strict=True)]
    runs = [ground.cli.start("run", "--plan-id", plan) for ground, plan in zip(grounds, plans, strict=True)]
    # On a busy machine the first may have ended before the last has begun.
    begun = list(zip(grounds, plans, known, strict=True))
    wait_until(lambda: any(len(ground.cli.events(plan)) > before for ground, plan, before in begun))
    time.sleep(random.Random(seeds[0]).uniform(0, 2))  # noqa: S311 - repeatable on purpose
    assert None in [run.poll() for run in runs]
    for node in down:
        node.kill()
    time.sleep(60)
    for node in down:
        node.start()
    for ground, plan, run in zip(grounds, plans, runs, strict=True):
        finish(run, 300)
        answer = ground.cli("run", "--plan-id", plan, "--replay-failed")
        assert answer.code == 0, answer.err
        ground.assert_filled()
        ground.drop()


@pytest.mark.long
def test_two_state_folders_at_once_do_not_fill_a_shard_twice(ground: Ground) -> None:
    clis = [ground.at(ground.cluster.nodes[0], state=name) for name in ("one", "two")]
    plans = [ground.planned(cli=cli) for cli in clis]
    assert plans[0] == plans[1]
    running = [cli.start("run", "--plan-id", plan) for cli, plan in zip(clis, plans, strict=True)]
    answers = [finish(process) for process in running]
    assert sorted(answer.code != 0 for answer in answers) == [False, True]
    ground.assert_filled()


@pytest.mark.long
def test_a_state_folder_that_comes_too_late_leaves_nothing_on_a_shard(ground: Ground) -> None:
    clis = [ground.at(ground.cluster.nodes[0], state=name) for name in ("one", "two")]
    plan, _ = (ground.planned(cli=cli) for cli in clis)
    assert clis[0]("run", "--plan-id", plan).code == 0
    late = clis[1]("run", "--plan-id", plan)
    assert late.code == 1
    assert "has not written" in late.err
    ground.assert_filled()


def _strike(ground: Ground, seed: int, plan: str) -> None:
    """Workers are killed while they run, and a replica of each shard in turn; then the plan is run to its end."""
    chance = random.Random(seed)  # noqa: S311 - repeatable on purpose
    for number in chance.sample((1, 2), 2):
        process = ground.cli.start("run", "--plan-id", plan)
        victim = chance.choice([node for node in ground.shard(number) if node is not ground.cluster.nodes[0]])
        # On a busy machine it may take long until the worker has begun.
        _wait_for_more(ground, plan, process)
        strikes = [
            threading.Timer(chance.uniform(0, 3), process.kill),
            threading.Timer(chance.uniform(0, 2), victim.kill),
        ]
        for strike in strikes:
            strike.start()
        for strike in strikes:
            strike.join()
        process.communicate()
        victim.start()
        wait_until(lambda: ground.query("SELECT 1") == "1", SESSION_SECONDS * 5)
    until = time.monotonic() + _PATIENCE
    while (answer := ground.cli("run", "--plan-id", plan, "--replay-failed")).code:
        nodes = [(node.url, node.answers()) for node in ground.cluster.nodes]
        assert time.monotonic() < until, f"{answer.code} {answer.out} {answer.err} {nodes}"


def _wait_for_more(ground: Ground, plan: str, process: subprocess.Popen[str]) -> None:
    """Wait until a worker has written to the log, or has ended."""
    known = len(ground.cli.events(plan))
    wait_until(lambda: len(ground.cli.events(plan)) > known or process.poll() is not None)


@pytest.mark.long
@pytest.mark.parametrize("seed", SEEDS)
def test_killed_workers_and_replicas_lose_and_double_nothing(ground: Ground, seed: int) -> None:
    _strike(ground, seed, ground.planned())
    ground.assert_filled()


@pytest.mark.long
@pytest.mark.parametrize("seed", SEEDS)
def test_killed_workers_and_replicas_lose_and_double_no_row_that_is_dealt_out(ground: Ground, seed: int) -> None:
    _strike(ground, seed, ground.planned("--source", f"{ground.database}.events", target="copy"))
    # Both have one sharding key.
    assert ground.content("copy") == ground.content("events")
    ground.assert_clean()
