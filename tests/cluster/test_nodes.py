"""The cluster of the tests itself: what the other tests of this tier rest on."""

from __future__ import annotations

from tests.cluster.field import Field
from tests.cluster.nodes import Cluster
from tests.command_line import wait_until


def test_replicas_fetch_what_the_other_one_got_and_stop_when_they_are_told(field: Field) -> None:
    field.create("rows")
    first, second = field.cluster.nodes
    table = f"{field.database}.rows"
    first.query(f"INSERT INTO {table} VALUES ('2025-01-01', 1, 1)")
    wait_until(lambda: second.number(f"SELECT count() FROM {table}") == 1)
    second.stop_fetches(table)
    first.query(f"INSERT INTO {table} VALUES ('2025-01-02', 2, 2)")
    assert second.number(f"SELECT count() FROM {table}") == 1
    second.start_fetches(table)
    assert len(set(field.contents("rows"))) == 1


def test_a_replica_that_was_killed_comes_back_with_its_data(field: Field) -> None:
    field.create("rows")
    first, second = field.cluster.nodes
    table = f"{field.database}.rows"
    second.kill()
    first.query(f"INSERT INTO {table} VALUES ('2025-01-01', 1, 1)")
    second.start()
    field.catch_up("rows")
    assert second.number(f"SELECT count() FROM {table}") == 1


def test_without_keeper_nothing_is_written_until_it_is_back(field: Field) -> None:
    field.create("rows")
    table = f"{field.database}.rows"
    field.cluster.zookeeper.kill()
    readonly = f"SELECT is_readonly FROM system.replicas WHERE database = '{field.database}'"
    wait_until(lambda: field.query(readonly) == "1", 60)
    field.cluster.zookeeper.start()
    wait_until(lambda: field.query(readonly) == "0", 60)
    field.query(f"INSERT INTO {table} VALUES ('2025-01-01', 1, 1)")
    assert len(set(field.contents("rows"))) == 1


def test_the_balancer_deals_requests_to_all_and_passes_over_the_dead(field: Field) -> None:
    field.prepare()
    look = field.cli()
    for _ in range(6):
        assert look.json("doctor", "--target", f"{field.database}.absent")["command"] == "doctor"
    assert all(field.balancer.requests)
    field.cluster.node(2).kill()
    before = field.balancer.requests[1]
    look.json("doctor", "--target", f"{field.database}.absent")
    assert field.balancer.requests[1] == before


def test_each_shard_has_its_own_rows(square: Cluster) -> None:
    square.query(
        "CREATE TABLE default.parts ON CLUSTER cluster (x UInt8)"
        " ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/parts', '{replica}') ORDER BY x"
    )
    for shard in (1, 2):
        square.node(1, shard).query(f"INSERT INTO default.parts VALUES ({shard})")
        square.node(2, shard).query("SYSTEM SYNC REPLICA default.parts")
        assert square.node(2, shard).query("SELECT x FROM default.parts") == str(shard)
