"""Every write mode, on every way to replicate a table, behind a balancer that sends each request to another replica."""

from __future__ import annotations

import os
import signal

import pytest

from tests.cluster.field import Field, Kind
from tests.command_line import wait_until


@pytest.mark.parametrize("flags", [(), ("--write-mode", "replace")], ids=["stage", "replace"])
def test_each_row_is_on_every_replica_once(field: Field, kind: Kind, flags: tuple[str, ...]) -> None:
    field.kind = kind
    field.fill_source()
    field.create("target")
    cli = field.cli()
    plan = field.plan(cli, *flags)
    answer = cli("run", "--plan-id", plan)
    assert answer.code == 0, answer.err
    field.assert_filled()
    assert all(field.balancer.requests)
    if flags:
        # A month that the source no longer has is removed on every replica, and comes back from the backup.
        before = field.contents("target")
        field.query(f"ALTER TABLE {field.database}.source DROP PARTITION 202502")
        plan = field.plan(cli, *flags, "--backup", "--force")
        answer = cli("run", "--plan-id", plan)
        assert answer.code == 0, answer.err
        assert field.contents("target") == field.contents("source") != before
        assert cli("undo", "--plan-id", plan).code == 0
        assert field.contents("target") == before


@pytest.mark.parametrize("flags", [(), ("--write-mode", "replace")], ids=["stage", "replace"])
def test_staging_tables_are_in_a_database_of_their_own_on_every_replica(field: Field, flags: tuple[str, ...]) -> None:
    """A worker that is killed leaves its tables there, and the next one, through any replica, finds and drops them."""
    field.fill_source()
    field.create("target")
    staging = f"{field.database}_staging"
    field.everywhere(f"CREATE DATABASE {staging}")
    tables = f"SELECT count() FROM system.tables WHERE database = '{staging}'"
    try:
        cli = field.cli()
        plan = field.plan(cli, "--staging-database", staging, *flags)
        worker = cli.start("run", "--plan-id", plan)
        wait_until(lambda: all(node.query(tables) != "0" for node in field.cluster.nodes))
        os.kill(worker.pid, signal.SIGKILL)
        worker.communicate()
        answer = cli("run", "--plan-id", plan)
        assert answer.code == 0, answer.err
        field.assert_filled()
        wait_until(lambda: all(node.query(tables) == "0" for node in field.cluster.nodes), 15)
    finally:
        field.everywhere(f"DROP DATABASE {staging} SYNC")
