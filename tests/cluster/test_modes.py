"""Every write mode, on every way to replicate a table, behind a balancer that sends each request to another replica."""

from __future__ import annotations

import pytest

from tests.cluster.field import Field, Kind


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
