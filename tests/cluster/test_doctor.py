"""What ``doctor`` and ``plan`` say of replicas, whichever of them is asked."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from airflow_provider_backfill.clickhouse import cluster as replicas
from airflow_provider_backfill.core import leftovers
from airflow_provider_backfill.core.findings import replica_rules
from tests.cluster.field import FIRST, LAST, Field, Kind
from tests.cluster.nodes import SESSION_SECONDS
from tests.command_line import Cli, wait_until


@pytest.fixture
def ready(field: Field) -> Field:
    """A source with rows and an empty target."""
    field.kind = Kind.DEFAULT
    field.fill_source(rows=200)
    field.create("target")
    return field


def findings(cli: Cli, field: Field) -> dict[str, list[dict[str, Any]]]:
    """What doctor finds for the target, by code."""
    payload = cli.json("doctor", "--target", f"{field.database}.target")
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in payload["findings"]:
        found.setdefault(finding["code"], []).append(finding)
    return found


def test_nothing_is_wrong_with_healthy_replicas(ready: Field) -> None:
    assert not findings(ready.cli(ready.cluster.node(1)), ready)


def test_backfill_balancer_is_said_and_fine(ready: Field) -> None:
    # By chance the first few questions may all reach the same server.
    wait_until(lambda: list(findings(ready.cli(), ready)) == ["backfill_balancer"])


def test_a_replica_that_lacks_parts_is_named_through_the_other_one(
    ready: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_rules, "_STUCK_SECONDS", 0)
    first, second = ready.cluster.nodes
    second.stop_fetches(f"{ready.database}.target")
    first.query(f"INSERT INTO {ready.database}.target SELECT * FROM {ready.database}.source")
    wait_until(lambda: "backfill_replica_lagging" in findings(ready.cli(first), ready))
    lagging = findings(ready.cli(first), ready)["backfill_replica_lagging"]
    assert len(lagging) == 1
    assert f"The replica r2 of {ready.database}.target has " in lagging[0]["message"]


def test_a_replica_whose_database_executes_nothing_more_is_named_and_no_run_waits_for_it_for_minutes(
    field: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue of a Replicated database waits for ever where the directory of a new table is there already."""
    monkeypatch.setattr(replica_rules, "_STUCK_SECONDS", 0)
    field.kind = Kind.DATABASE
    field.fill_source(rows=200)
    field.create("target")
    first, second = field.cluster.nodes
    cli = field.cli(second)
    plan = field.plan(cli)
    uuid = str(uuid4())
    leftover = second.folder / "data" / "store" / uuid[:3] / uuid
    leftover.mkdir(parents=True)
    first.query(
        f"CREATE TABLE {field.database}.stuck UUID '{uuid}' (x UInt8) ENGINE = MergeTree ORDER BY x",
        distributed_ddl_task_timeout=0,
        database_replicated_allow_explicit_uuid=1,
    )
    wait_until(lambda: "backfill_database_stuck" in findings(field.cli(first), field))
    (stuck,) = findings(cli, field)["backfill_database_stuck"]
    assert f"The replica r2 of the database {field.database} has not executed 1 queued statement" in stuck["message"]
    with monkeypatch.context() as patch:
        patch.setitem(replicas._QUEUED, "database_replicated_initial_query_timeout_sec", 1)
        grouped = f"SELECT ts, id, sum(amount) AS amount FROM {field.database}.source GROUP BY ts, id"
        words = ("--target", f"{field.database}.target", "--select", grouped, "--from", FIRST, "--chunk-hours", "24")
        answers = [cli("run", "--plan-id", plan), cli("plan", *words, "--to", "2025-01-09")]
    for answer in answers:
        assert answer.code == 1
        assert "has not executed the earlier statements of its Replicated database" in answer.err
        assert "`doctor` names the replica" in answer.err
    leftover.rmdir()
    wait_until(lambda: "backfill_database_stuck" not in findings(cli, field))
    assert cli("run", "--plan-id", plan).code == 0
    field.assert_filled()


def test_a_dead_replica_is_named_and_a_quorum_that_it_breaks(ready: Field) -> None:
    first, second = ready.cluster.nodes
    second.kill()
    dead = f"SELECT active_replicas FROM system.replicas WHERE database = '{ready.database}' AND table = 'target'"
    wait_until(lambda: first.query(dead) == "1", SESSION_SECONDS * 5)
    found = findings(ready.cli(first, user="quorum"), ready)
    assert f"The replica r2 of {ready.database}.target, one of 2, is dead." in str(found["backfill_replica_dead"])
    assert "must reach 2 replicas" in found["backfill_quorum_unmet"][0]["message"]
    words = ("--target", f"{ready.database}.target", "--source", f"{ready.database}.source")
    window = ("--from", FIRST, "--to", LAST, "--chunk-hours", "1416", "--force-large-window")
    answer = ready.cli(first, user="quorum")("plan", *words, *window)
    assert answer.code == 2
    assert "must reach 2 replicas" in answer.err


def test_backfill_replicas_unreached_without_the_right_to_ask_them(ready: Field) -> None:
    found = findings(ready.cli(ready.cluster.node(1), user="alone"), ready)
    assert "has 2 replicas" in found["backfill_replicas_unreached"][0]["message"]


def test_a_user_without_other_servers_fills_the_target_all_the_same(ready: Field) -> None:
    cli = ready.cli(ready.cluster.node(1), user="alone")
    answer = cli("run", "--plan-id", ready.plan(cli))
    assert answer.code == 0, answer.err
    ready.assert_filled()


def test_what_is_left_on_another_replica_is_found(ready: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "FRESH_SECONDS", -1)
    first, second = ready.cluster.nodes
    name = "backfill_0123456789abcdef_0123456789abcdef_1_01234567"
    path = first.query(
        f"SELECT zookeeper_path FROM system.replicas WHERE database = '{ready.database}' AND table = 'target'"
    )
    keeper = f"ENGINE = ReplicatedMergeTree('{path}_{name}', 'r2') ORDER BY x"
    second.query(f"CREATE TABLE {ready.database}.{name} (x UInt8) {keeper}")
    cli = ready.cli(first)
    wait_until(lambda: "backfill_staging_orphaned" in findings(cli, ready), 90)
    left = findings(cli, ready)["backfill_staging_orphaned"]
    assert len(left) == 1
    answer = cli("clean", "--target", f"{ready.database}.target", "--yes")
    assert answer.code == 0, answer.err
    assert f"removed  {ready.database}.{name}" in answer.out
    assert second.query(f"EXISTS TABLE {ready.database}.{name}") == "0"
    assert first.query(f"SELECT count() FROM system.zookeeper WHERE path = '{path}_{name}'") == "0"
