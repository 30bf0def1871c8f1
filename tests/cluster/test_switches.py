"""That the attacks on replicas can fail: with a safety of the product switched off, rows are lost or doubled."""

from __future__ import annotations

import sys
import threading
from contextlib import suppress

import pytest

from airflow_provider_backfill.clickhouse import execute
from tests import command_line
from tests.cluster.field import Field
from tests.cluster.test_attacks import ATTACH, ROWS, resume
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
    both = threading.Barrier(2)

    def meet(sql: str) -> None:
        if ATTACH in sql:
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
