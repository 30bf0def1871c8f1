"""That the attacks on replicas can fail: with a safety of the product switched off, rows are lost or doubled."""

from __future__ import annotations

import sys
import threading
from contextlib import suppress

import pytest

from airflow_provider_backfill.clickhouse import execute, replicated
from tests import command_line
from tests.cluster.field import Field
from tests.cluster.test_attacks import (
    ATTACH,
    ROWS,
    killed_at,
    published_and_forgotten,
    resume,
    staged_on_a_dead_replica,
)
from tests.command_line import finish


def test_without_a_sync_a_source_that_lags_is_read_in_part(simple: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = simple.cluster.nodes
    source = f"{simple.database}.source"
    second.stop_fetches(source)
    first.query(f"INSERT INTO {source} SELECT ts, id + 1000000, amount FROM {source}")
    plan = simple.plan(simple.cli(first))
    monkeypatch.setattr(execute, "catch_up", lambda *_: None)
    resume(simple.cli(second), plan, "--force-environment")
    second.start_fetches(source)
    with pytest.raises(AssertionError):
        simple.assert_filled()


@pytest.mark.long
def test_without_the_fence_two_state_folders_fill_one_window(simple: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have looked at the window before either has published."""
    monkeypatch.setattr(command_line, "PROGRAM", [sys.executable, "-m", "tests.cluster.impatient"])
    both, met = threading.Barrier(2), set[str]()

    def meet(sql: str) -> None:
        # A statement comes again if it was sent to a server without its session.
        if ATTACH in sql and sql not in met:
            met.add(sql)
            with suppress(threading.BrokenBarrierError):
                both.wait(60)

    clis = [simple.cli(state="one"), simple.cli(state="two")]
    plans = [simple.plan(cli) for cli in clis]
    for cli in clis:
        cli.environment["BACKFILL_TEST_OFF"] = "fence"
    simple.balancer.before = meet
    running = [cli.start("run", "--plan-id", plan) for cli, plan in zip(clis, plans, strict=True)]
    for process in running:
        finish(process, 180)
    assert simple.contents("target") != simple.contents("source")
    assert int(simple.query(f"SELECT count() FROM {simple.database}.target")) > ROWS


def test_without_the_hashes_in_keeper_published_rows_are_taken_for_those_of_others(
    simple: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli = simple.cli()
    plan = simple.plan(cli)
    killed_at(simple, cli, plan, ATTACH, after=True)
    monkeypatch.setattr(replicated, "_published", lambda *_: set())
    assert cli("run", "--plan-id", plan).code == 1
    assert cli.json("status", "--plan-id", plan)["status"] == "failed"


@pytest.mark.long
@pytest.mark.parametrize("looks", [True, False])
def test_without_a_doubt_in_keepers_memory_nothing_is_completed_or_rows_are_doubled(
    field: Field, monkeypatch: pytest.MonkeyPatch, looks: bool
) -> None:
    """The look at the window stands behind the doubt, and refuses; without both, rows are doubled."""
    cli, plan = published_and_forgotten(field)
    monkeypatch.setattr(replicated, "_may_be_forgotten", lambda *_: False)
    if not looks:
        monkeypatch.setattr(replicated, "refuse_before_publish", lambda *_: None)
    assert cli("run", "--plan-id", plan).code == int(looks)
    if not looks:
        assert field.contents("target") != field.contents("source")


@pytest.mark.long
def test_without_a_look_at_what_is_staged_a_replica_that_lacks_it_publishes_nothing(
    simple: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker and the only replica with the staged rows are gone, and the other replica has an empty table."""
    cli, plan = staged_on_a_dead_replica(simple)
    for safety in ("check_staged", "catch_up", "refuse_before_publish"):
        monkeypatch.setattr(replicated, safety, lambda *_: None)
    assert cli("run", "--plan-id", plan, "--force-environment").code == 0
    simple.cluster.start()
    assert simple.contents("target") != simple.contents("source")
