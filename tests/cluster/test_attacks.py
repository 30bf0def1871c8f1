"""
What used to go wrong on replicas, silently: each case as a user meets it, and what every replica holds afterwards.

Workers are struck by the statement they have just sent: the balancer sees it before a server does, and again before
the worker knows the answer.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_backfill.clickhouse import cluster, fence, proof
from airflow_provider_backfill.clickhouse.catalog import table_facts
from airflow_provider_backfill.clickhouse.client import connect
from airflow_provider_backfill.clickhouse.cluster import catch_up
from airflow_provider_backfill.clickhouse.fence import Fence, WindowTakenError
from airflow_provider_backfill.commands import staged_tables
from airflow_provider_backfill.commands.plan_inputs import replicated_tables, target_facts
from airflow_provider_backfill.core.plan import Statement
from airflow_provider_backfill.core.tables import TableName, TimeKind
from airflow_provider_backfill.errors import ServerError
from airflow_provider_backfill.state.posix import FileBackend
from airflow_provider_backfill.state.store import StateStore
from tests.cluster.balancer import Balancer
from tests.cluster.field import FIRST, LAST, Field, Kind
from tests.cluster.nodes import SESSION_SECONDS, Cluster, Node
from tests.command_line import Cli, finish, wait_until

ATTACH = "ATTACH PARTITION"
FILL = "`amount`) SELECT"
REPLACE = "REPLACE PARTITION"
ROWS = 2_000


@pytest.fixture(params=[pytest.param(each, marks=() if each is Kind.DEFAULT else pytest.mark.long) for each in Kind])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Every way in which tables are replicated; one of them with every run, as other tests have the others."""
    chosen: Kind = request.param
    return chosen


@pytest.fixture
def filled(field: Field, kind: Kind) -> Field:
    """A source with rows and an empty target, replicated in each way."""
    field.kind = kind
    field.fill_source(rows=ROWS)
    field.create("target")
    return field


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits a minute for a replica that was stopped on purpose."""
    monkeypatch.setattr(cluster, "SYNC_SECONDS", 2)


def test_a_run_keeps_its_window_for_longer_than_its_lease(filled: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each heartbeat must reach Keeper, also where the server deduplicates equal inserts; else a rival takes over."""
    monkeypatch.setattr(fence, "_PAUSES", ())
    cli = filled.cli(filled.cluster.node(1))
    store = StateStore(FileBackend(cli.state))
    plans = [store.load_plan(filled.plan(cli, hours=hours)) for hours in (24 * 59, 24 * 31)]
    target = target_facts(connect(cli.url), TableName(filled.database, "target"))
    working, rival = (Fence(connect(cli.url), target, plan, 3) for plan in plans)
    working.acquire()
    until = time.monotonic() + 6
    while time.monotonic() < until:
        working.hold()
        time.sleep(0.1)
    with pytest.raises(WindowTakenError, match=plans[0].plan_id):
        rival.acquire()
    working.release()
    filled.assert_clean()


def on(words: str, *actions: Callable[[], object]) -> Callable[[str], None]:
    """A hook that takes *actions* at the first statement with *words* in it."""
    lock = threading.Lock()
    struck: list[str] = []

    def hook(sql: str) -> None:
        with lock:
            first = words in sql and not struck
            if first:
                struck.append(sql)
        for action in actions if first else ():
            action()

    return hook


def killed_at(field: Field, cli: Cli, plan: str, words: str, *, after: bool = False) -> None:
    """Run a plan in a process of its own that is killed at its first statement with *words*."""
    processes: list[subprocess.Popen[str]] = []
    strike = on(words, lambda: processes[0].kill())
    if after:
        field.balancer.after = strike
    else:
        field.balancer.before = strike
    processes.append(cli.start("run", "--plan-id", plan))
    assert finish(processes[0]).code == -9


def resume(cli: Cli, plan: str, *flags: str) -> None:
    """Run a plan to its end."""
    answer = cli("run", "--plan-id", plan, *flags)
    assert answer.code == 0, answer.err


@pytest.mark.parametrize(
    ("words", "after"),
    [
        ("CREATE TABLE", False),
        (ATTACH, True),
        pytest.param(FILL, False, marks=pytest.mark.long),
        pytest.param(ATTACH, False, marks=pytest.mark.long),
        pytest.param("CREATE TABLE", True, marks=pytest.mark.long),
        pytest.param("ON CLUSTER", False, marks=pytest.mark.long),
        pytest.param("ON CLUSTER", True, marks=pytest.mark.long),
        pytest.param(FILL, True, marks=pytest.mark.long),
    ],
)
def test_a_worker_is_killed_and_another_one_goes_on_through_any_replica(simple: Field, words: str, after: bool) -> None:
    cli = simple.cli()
    plan = simple.plan(cli)
    killed_at(simple, cli, plan, words, after=after)
    resume(cli, plan)
    simple.assert_filled()


def test_a_worker_that_replaces_is_killed_and_another_one_goes_on(filled: Field) -> None:
    cli = filled.cli()
    plan = filled.plan(cli, "--write-mode", "replace")
    killed_at(filled, cli, plan, REPLACE, after=True)
    resume(cli, plan)
    filled.assert_filled()


def test_what_was_staged_on_a_replica_that_is_down_is_published_through_the_other_one(filled: Field) -> None:
    first, second = filled.cluster.nodes
    cli = filled.cli(first)
    plan = filled.plan(cli)
    through_balancer = filled.cli()
    # The second replica has fetched what is staged before the first one and its worker die.
    of_chunk = f"database = '{filled.database}' AND table LIKE 'backfill%' AND table NOT LIKE '%fence%'"
    staged = f"SELECT sum(rows) FROM system.parts WHERE active AND {of_chunk}"
    filled.balancer.before = on(
        ATTACH,
        lambda: wait_until(lambda: second.query(staged) == str(ROWS)),
        first.kill,
        lambda: process[0].kill(),
    )
    process = [through_balancer.start("run", "--plan-id", plan, "--force-environment")]
    assert finish(process[0]).code == -9
    answer = through_balancer("run", "--plan-id", plan, "--force-environment")
    if answer.code:
        # The worker may have been on the second one, so that the first has nothing to add.
        resume(through_balancer, plan, "--force-environment")
    filled.cluster.start()
    filled.assert_filled()


def staged_on_a_dead_replica(field: Field) -> tuple[Cli, str]:
    """Kill the worker of a plan and its replica before it publishes; the other replica has an empty staging table."""
    first, second = field.cluster.nodes
    cli = field.cli()
    plan = field.plan(cli)
    ours = f"database = '{field.database}' AND name LIKE 'backfill%' AND name NOT LIKE '%fence%'"
    with Balancer([first]) as only:
        # Nothing that is staged reaches the second replica, which has the table by then.
        stop = on(
            FILL,
            lambda: wait_until(lambda: second.query(f"SELECT count() FROM system.tables WHERE {ours}") == "1"),
            lambda: second.query("SYSTEM STOP FETCHES"),
        )
        # The statement goes no further: its sender and its server die at once.
        strike = on(ATTACH, first.kill, lambda: process.kill())

        def hook(sql: str) -> None:
            stop(sql)
            strike(sql)

        only.before = hook
        process = dataclasses.replace(cli, url=only.url).start("run", "--plan-id", plan, "--force-environment")
        finish(process)
    return cli, plan


@pytest.mark.long
def test_what_only_a_dead_replica_has_staged_waits_for_it(simple: Field) -> None:
    cli, plan = staged_on_a_dead_replica(simple)
    answer = cli("run", "--plan-id", plan)
    assert answer.code == 1
    assert "verified and may not be published yet" in answer.err
    assert "if it is gone permanently" in answer.err
    assert "Stack trace" not in answer.err
    simple.cluster.start()
    simple.cluster.nodes[1].query("SYSTEM START FETCHES")
    resume(cli, plan, "--replay-failed")
    simple.assert_filled()


def test_a_request_that_was_on_its_way_for_long_adds_nothing(simple: Field) -> None:
    """The worker is gone, another one has filled the window anew, and the first one's statement arrives."""
    held, arrived = threading.Event(), threading.Event()

    def hold() -> None:
        arrived.set()
        held.wait(60)

    cli = simple.cli()
    plan = simple.plan(cli)
    simple.balancer.before = on(ATTACH, hold)
    process = cli.start("run", "--plan-id", plan)
    assert arrived.wait(60)
    process.kill()
    finish(process)
    resume(cli, plan)
    resume(cli, plan, "--replay-done", "--clear-window")
    held.set()
    simple.assert_filled()


def test_chunks_in_one_partition_share_a_staging_table(filled: Field) -> None:
    cli, made = filled.cli(), set[str]()
    plan = filled.plan(cli, hours=24 * 7)
    filled.balancer.before = lambda sql: made.update(re.findall(r"CREATE TABLE.*?(backfill_\w+_staged_\w+)", sql))
    resume(cli, plan, "--max-parallel-chunks", "1")
    assert len(made) == 1
    filled.assert_filled()


def test_a_staging_table_that_keeps_rows_of_an_earlier_chunk_is_given_up(
    simple: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server does not drop them: as if its queue stood still."""
    monkeypatch.setattr(staged_tables, "empty_staging", lambda *_: None)
    monkeypatch.setattr(proof, "_GOING_SECONDS", 0.2)
    cli = simple.cli()
    plan = simple.plan(cli, hours=24 * 7)
    resume(cli, plan)
    status = cli.json("status", "--plan-id", plan)
    assert status["attempts"] > status["chunkCounts"]["total"]
    simple.assert_filled()


@pytest.mark.long
def test_rows_of_an_earlier_chunk_are_not_published_by_another_worker(simple: Field) -> None:
    """The worker is gone, and the replica that goes on has not dropped them yet."""
    held, arrived = threading.Event(), threading.Event()

    def hold() -> None:
        arrived.set()
        held.wait(60)

    cli, table = simple.cli(), f"database = '{simple.database}' AND table LIKE 'backfill%staged%'"
    plan = simple.plan(cli, hours=24 * 7)
    simple.balancer.before = on(ATTACH, hold)
    process = cli.start("run", "--plan-id", plan)
    assert arrived.wait(60)
    process.kill()
    finish(process)
    staged = f"{simple.database}." + simple.query(f"SELECT DISTINCT table FROM system.parts WHERE {table}")
    simple.query(f"INSERT INTO {staged} SELECT ts, id + 1000000, amount FROM {simple.database}.source WHERE id < 3")
    other = simple.query(f"SELECT name FROM system.parts WHERE {table} AND active AND rows = 3")

    answer = cli("run", "--plan-id", plan)
    assert answer.code == 1
    assert f"still has 1 part of earlier chunks in {staged}" in answer.err
    simple.query(f"ALTER TABLE {staged} DROP PART '{other}'")
    resume(cli, plan, "--replay-failed")
    held.set()
    simple.assert_filled()


def test_rows_that_were_deleted_are_written_again_though_keeper_remembers_them(filled: Field) -> None:
    cli = filled.cli()
    plan = filled.plan(cli)
    resume(cli, plan)
    resume(cli, plan, "--replay-done", "--clear-window")
    filled.assert_filled()


def published_and_forgotten(
    field: Field, *, hashes: int = 1, seconds: int = 1, down: Node | None = None
) -> tuple[Cli, str]:
    """
    Kill the worker of a plan after it has published, before it says so; Keeper then forgets what was published.

    Keeper remembers the last *hashes*, for *seconds*. A node that is *down* has not yet fetched what is staged.
    """
    field.fill_source(rows=ROWS)
    memory = (
        f"replicated_deduplication_window = {hashes}, replicated_deduplication_window_seconds = {seconds}, "
        "cleanup_delay_period = 1, max_cleanup_delay_period = 1"
    )
    keys = f"PARTITION BY toYYYYMM(ts) ORDER BY (ts, id) SETTINGS {memory}, cleanup_delay_period_random_add = 0"
    field.create("target", keys=keys)
    cli = field.cli()
    plan = field.plan(cli)
    if down is not None:
        down.kill()
    killed_at(field, cli, plan, ATTACH, after=True)
    path = field.query(
        f"SELECT zookeeper_path FROM system.replicas WHERE table = 'target' AND database = '{field.database}'"
    )
    # Keeper always remembers the last hash, and hashes that are less than *seconds* older. So something else must be
    # published, beside the window.
    time.sleep(seconds)
    for statement in (
        "CREATE TABLE {0}.more AS {0}.source ENGINE = MergeTree PARTITION BY toYYYYMM(ts) ORDER BY (ts, id)",
        "INSERT INTO {0}.more VALUES ('2025-04-01', 1000000, 1)",
        "INSERT INTO {0}.source SELECT * FROM {0}.more",
        "ALTER TABLE {0}.target ATTACH PARTITION ID '202504' FROM {0}.more",
        "DROP TABLE {0}.more",
    ):
        field.cluster.nodes[0].query(statement.format(field.database))
    known = f"SELECT name FROM system.zookeeper WHERE path = '{path}/blocks'"
    wait_until(lambda: "202501_replace_from_" not in field.query(known), 60)
    return cli, plan


def test_what_keeper_has_forgotten_is_not_published_twice(field: Field) -> None:
    cli, plan = published_and_forgotten(field)
    resume(cli, plan)
    field.assert_filled()


@pytest.mark.long
def test_what_keeper_has_forgotten_is_not_published_twice_by_a_replica_that_was_down(field: Field) -> None:
    """It has just fetched what was staged, so its parts are young; the staging table is not."""
    second = field.cluster.nodes[1]
    _, plan = published_and_forgotten(field, hashes=1000, seconds=12, down=second)
    field.cluster.start()
    resume(field.cli(second), plan, "--force-environment")
    field.assert_filled()


def test_a_source_that_lags_is_not_read(simple: Field) -> None:
    first, second = simple.cluster.nodes
    source = f"{simple.database}.source"
    second.stop_fetches(source)
    first.query(f"INSERT INTO {source} SELECT ts, id + 1000000, amount FROM {source}")
    plan = simple.plan(simple.cli(first))
    cli = simple.cli(second)
    answer = cli("run", "--plan-id", plan, "--force-environment")
    assert answer.code == 1
    assert f"The replica of {source} on this server did not catch up within 2 s: replica " in answer.err
    assert "entries in its queue" in answer.err
    second.start_fetches(source)
    resume(cli, plan, "--force-environment", "--replay-failed")
    simple.assert_filled()


def test_rows_of_a_target_are_not_counted_where_it_lags(simple: Field) -> None:
    first, second = simple.cluster.nodes
    target = f"{simple.database}.target"
    second.stop_fetches(target)
    first.query(f"INSERT INTO {target} SELECT * FROM {simple.database}.source")
    words = ("--target", target, "--source", f"{simple.database}.source", "--from", FIRST, "--to", LAST)
    answer = simple.cli(second)("plan", *words, "--chunk-hours", "1416", "--force-large-window")
    assert answer.code == 1
    assert f"The replica of {target} on this server did not catch up" in answer.err
    second.start_fetches(target)
    answer = simple.cli(second)("plan", *words, "--chunk-hours", "1416", "--force-large-window")
    assert answer.code == 2
    assert f"already holds {ROWS:,} rows" in answer.err


@pytest.mark.long
def test_rows_beside_the_window_and_what_was_there_before_survive_on_a_target_that_lags(simple: Field) -> None:
    first, second = simple.cluster.nodes
    target = f"{simple.database}.target"
    first.query(f"INSERT INTO {target} SELECT ts, id, amount + 1 FROM {simple.database}.source")
    simple.catch_up("target")
    before = simple.contents("target")
    second.stop_fetches(target)
    first.query(f"INSERT INTO {target} VALUES ('2025-01-02', 7000000, 7), ('2025-02-27', 7000001, 7)")
    window = ("--from", "2025-01-15", "--to", "2025-02-14", "--chunk-hours", "720")
    words = ("--target", target, "--source", f"{simple.database}.source", *window, "--write-mode", "replace")
    cli = simple.cli(first)
    plan = cli.json("plan", *words, "--keep-outside", "--backup")["planId"]
    lagging = simple.cli(second)
    assert lagging("run", "--plan-id", plan, "--force-environment").code == 1
    second.start_fetches(target)
    beside = simple.contents("target")
    through = simple.cli()
    resume(through, plan, "--force-environment", "--replay-failed")
    inside = "ts >= '2025-01-15' AND ts < '2025-02-14'"
    assert simple.contents("target", where=f"NOT ({inside})")[0] != before[0]
    source = simple.content(first, "source", where=inside)
    assert simple.contents("target", where=inside) == [source, source]
    undone = through("undo", "--plan-id", plan)
    assert undone.code == 0, undone.err
    assert simple.contents("target") == beside


def test_two_state_folders_do_not_fill_one_window(simple: Field) -> None:
    first, second = simple.cli(state="one"), simple.cli(state="two")
    plan = simple.plan(first)
    # The same window in other chunks is another plan.
    other = simple.plan(second, hours=24 * 31)
    resume(first, plan)
    answer = second("run", "--plan-id", other)
    assert answer.code == 1
    assert f"that plan {other} has not written" in answer.err
    assert simple.contents("target") == simple.contents("source")


@pytest.mark.long
def test_what_a_killed_worker_staged_goes_once_another_folder_has_filled_the_window(simple: Field) -> None:
    """Keeper knows that none of it was published, so that nobody has to look."""
    first, second = simple.cli(state="one"), simple.cli(state="two")
    plan, other = simple.plan(first), simple.plan(second, hours=24 * 31)

    def hook(_: str) -> None:
        # What it asks next is whether the window has rows of others.
        if any("ChunkVerified" in path.read_text() for path in first.state.rglob("*") if path.is_file()):
            process.kill()

    simple.balancer.before = hook
    process = first.start("run", "--plan-id", plan)
    assert finish(process).code == -9
    # The announcement of the dead worker holds the window for a while.
    wait_until(lambda: second("run", "--plan-id", other).code == 0, 120)
    answer = first("run", "--plan-id", plan)
    assert answer.code == 1
    assert "has not written" in answer.err
    simple.assert_filled()


def test_two_state_folders_at_once_do_not_fill_one_window(simple: Field) -> None:
    clis = [simple.cli(state="one"), simple.cli(state="two")]
    plans = [simple.plan(cli) for cli in clis]
    running = [cli.start("run", "--plan-id", plan) for cli, plan in zip(clis, plans, strict=True)]
    answers = [finish(process) for process in running]
    assert sorted(answer.code != 0 for answer in answers) == [False, True]
    refused = next(answer for answer in answers if answer.code)
    # Kept out while the other one is at work, or by its rows when it has done.
    assert "is at work on 2025-01-01T00:00:00.000Z" in refused.err or "has not written" in refused.err
    assert simple.contents("target") == simple.contents("source")


@pytest.mark.long
def test_a_fresh_state_folder_finds_what_a_killed_worker_left_on_any_replica(simple: Field) -> None:
    cli = simple.cli(state="one")
    killed_at(simple, cli, simple.plan(cli), FILL)
    fresh = simple.cli(state="two")
    tables = ("--target", f"{simple.database}.target", "--source", f"{simple.database}.source")
    words = (*tables, "--from", FIRST, "--to", LAST, "--chunk-hours", str(24 * 59), "--force-large-window")
    answer = fresh("plan", *words)
    assert answer.code == 2
    assert "from a run that this state folder knows nothing of" in answer.err
    plan = fresh.json("plan", *words, "--force")["planId"]
    resume(fresh, plan)
    simple.assert_filled()


def test_a_profile_that_wants_a_quorum_is_obeyed(simple: Field) -> None:
    cli = simple.cli(user="quorum")
    plan = simple.plan(cli)
    resume(cli, plan)
    simple.assert_filled()


def test_a_replica_that_dies_for_good_leaves_nothing_in_keeper(filled: Field) -> None:
    first, second = filled.cluster.nodes
    cli = filled.cli()
    plan = filled.plan(cli, hours=24 * 31)
    of_chunk = f"database = '{filled.database}' AND table LIKE 'backfill%' AND table NOT LIKE '%fence%'"
    staged = f"SELECT table, hash_of_all_files FROM system.parts WHERE active AND {of_chunk} ORDER BY ALL"
    # What only the dead replica had would wait for it.
    filled.balancer.before = on(
        ATTACH, lambda: wait_until(lambda: first.query(staged) == second.query(staged)), second.kill
    )
    if cli("run", "--plan-id", plan, "--max-parallel-chunks", "1").code:
        resume(cli, plan, "--replay-failed")
    assert filled.content(first, "target") == filled.content(first, "source")
    alive = f"SELECT active_replicas FROM system.replicas WHERE database = '{filled.database}' AND table = 'target'"
    wait_until(lambda: first.query(alive) == "1", SESSION_SECONDS * 5)
    # Keeper takes a while to see that a replica is dead; what was left for that goes with the next command.
    resume(cli, plan)
    filled.assert_clean()
    second.start()
    filled.assert_filled()


def test_keeper_goes_away_in_the_middle(simple: Field) -> None:
    keeper = simple.cluster.zookeeper
    cli = simple.cli()
    plan = simple.plan(cli, hours=24 * 31)
    simple.balancer.before = on(ATTACH, keeper.kill, threading.Timer(8, keeper.start).start)
    cli("run", "--plan-id", plan)
    wait_until(keeper.answers, 60)
    readonly = f"SELECT count() FROM system.replicas WHERE database = '{simple.database}' AND is_readonly"
    for node in simple.cluster.nodes:
        wait_until(lambda node=node: node.query(readonly) == "0", 60)  # type: ignore[misc]
    resume(cli, plan, "--replay-failed")
    simple.assert_filled()


def test_a_distributed_source_is_not_read_while_a_replica_of_a_shard_lags(square: Cluster, tmp_path: Path) -> None:
    with Balancer(square.nodes[:1]) as balancer:
        field = Field(square, balancer, "spread", tmp_path / "state", None)
        field.create("local")
        spread = "ENGINE = Distributed(cluster, spread, local, id)"
        square.query(f"CREATE TABLE spread.source ON CLUSTER cluster AS spread.local {spread}")
        lagging = square.node(2, shard=2)
        lagging.stop_fetches("spread.local")
        square.node(1, shard=2).query("INSERT INTO spread.local VALUES ('2025-01-01', 1, 1)")
        server = connect(square.nodes[0].url)
        source, target = (table_facts(server, TableName("spread", name)) for name in ("source", "local"))
        assert source is not None
        assert target is not None
        statement = Statement(
            name="spread.source",
            select="SELECT * FROM spread.source",
            source=TableName("spread", "source"),
            time_kind=TimeKind.DATETIME,
            columns=("ts",),
        )
        tables = replicated_tables(server, [statement], target)
        assert (TableName("spread", "local"), "cluster") in tables
        with pytest.raises(ServerError, match=r"A replica of spread\.local on the cluster cluster did not catch up"):
            catch_up(server, TableName("spread", "local"), "cluster")
        lagging.start_fetches("spread.local")
        catch_up(server, TableName("spread", "local"), "cluster")
        assert lagging.query("SELECT count() FROM spread.local") == "1"
        field.clear()
