"""Failed chunks in words: windows, attempts and short errors, with equal errors grouped."""

from __future__ import annotations

import io
import json

import pytest

from airflow_provider_backfill.cli.progress import JsonLines
from airflow_provider_backfill.core.failures import group_failures, short_error
from airflow_provider_backfill.core.plan import Plan, Statement
from airflow_provider_backfill.core.tables import TableName, TimeKind
from airflow_provider_backfill.state.store import StateStore, open_store
from tests.command_line import Cli
from tests.state import chunks_of, done, failed, make_plan, save_broken_run

LONG = (
    "ClickHouse refused the statement: no rate for a day: while executing 'FUNCTION throwIf(equals(__table3.rate, "
    "0_UInt8) :: 3)' (395 FUNCTION_THROW_IF_VALUE_IS_NON_ZERO)"
)
SHORT = "no rate for a day (395 FUNCTION_THROW_IF_VALUE_IS_NON_ZERO)"


@pytest.fixture
def plan(store: StateStore) -> Plan:
    """Four chunks: one done, two failed with one error, one pending."""
    return save_broken_run(store, 2, LONG)


@pytest.mark.parametrize(
    ("message", "short"),
    [
        (LONG, SHORT),
        ("no rate (395)", "no rate (395)"),
        ("it broke: while executing f(x)", "it broke"),
        ("", ""),
        ("a (b): while executing c (241 MEMORY_LIMIT_EXCEEDED)", "a (b) (241 MEMORY_LIMIT_EXCEEDED)"),
    ],
)
def test_an_error_loses_the_place_in_the_query_plan(message: str, short: str) -> None:
    assert short_error(message) == short


def test_equal_errors_are_one_group_and_the_largest_comes_first(plan: Plan) -> None:
    first, second, third, _ = chunks_of(plan)
    groups = group_failures([(first, "other"), (second, LONG), (third, LONG)])
    assert [(group.error, len(group.chunks)) for group in groups] == [(SHORT, 2), ("other", 1)]


def test_status_names_the_failed_windows_once_per_error(cli: Cli, plan: Plan) -> None:
    answer = cli("status", plan.plan_id)
    assert f"2025-01-01 06:00, 2025-01-01 12:00: {SHORT}" in answer.out
    assert "while executing" not in answer.out


def test_failed_chunks_are_listed_with_their_query_ids(cli: Cli, plan: Plan) -> None:
    chunks = cli.json("status", plan.plan_id, "--chunks", "failed")["chunks"]
    _, second, third, _ = chunks_of(plan)
    assert [chunk["chunkId"] for chunk in chunks] == [second.id, third.id]
    assert chunks[0]["queryId"] == f"backfill-{plan.plan_id}-{second.id}-1"
    assert chunks[0]["error"] == SHORT
    text = cli("status", plan.plan_id, "--chunks", "failed").out
    assert chunks[0]["queryId"] in text
    assert [chunk["rowsWritten"] for chunk in cli.json("status", plan.plan_id, "--chunks", "done")["chunks"]] == [10]


def test_events_tell_what_happened_in_order(cli: Cli, plan: Plan) -> None:
    types = [event["type"] for event in cli.json("events", plan.plan_id)["events"]]
    assert types == ["RunStarted", "ChunkStarted", "ChunkVerified", "ChunkDone", *["ChunkStarted", "ChunkFailed"] * 2]
    _, second, *_ = chunks_of(plan)
    one = cli.json("events", plan.plan_id, "--chunk", second.id[:8])["events"]
    assert [event["type"] for event in one] == ["ChunkStarted", "ChunkFailed"]
    lines = cli("events", plan.plan_id).out.splitlines()
    assert len(lines) == 8
    assert "10 rows" in lines[3]
    assert SHORT in lines[5]


def test_follow_ends_with_the_run(cli: Cli, plan: Plan) -> None:
    cli("cancel", plan.plan_id)
    assert len(cli("events", plan.plan_id, "--follow").out.splitlines()) == 9


def test_progress_as_json_is_an_object_a_line(cli: Cli, plan: Plan) -> None:
    """What collects logs of containers needs no parser of ours."""
    out, store = io.StringIO(), open_store(str(cli.state))
    first, second, *_ = chunks_of(plan)
    with JsonLines(out, plan.plan_id, store.open_run(plan).refresh) as lines:
        lines.report(done(first))
        lines.report(failed(second, message=LONG, final=True))
        lines.report(failed(second, message=LONG))
    objects = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["level"] for line in objects] == ["info", "error", "warning"]
    assert {line["planId"] for line in objects} == {plan.plan_id}
    assert (objects[0]["type"], objects[0]["chunksDone"], objects[0]["chunksTotal"]) == ("ChunkDone", 1, 4)


def test_coverage_without_a_window_is_about_all_plans_of_the_table(cli: Cli, plan: Plan) -> None:
    payload = cli.json("coverage", "--target", str(plan.target))
    assert (payload["from"], payload["to"]) == ("2025-01-01T00:00:00.000Z", "2025-01-02T00:00:00.000Z")
    assert payload["servers"][0]["share"] == 0.25
    assert "There is no plan of a.b" in cli("coverage", "--target", "a.b").err


def test_the_sql_of_a_chunk_is_shown_with_its_window(cli: Cli, store: StateStore) -> None:
    """Pasted into a client, the statement repeats the reads of the attempt."""
    raw = TableName("shop", "raw")
    statement = Statement(
        name="select", select="SELECT a, b FROM shop.raw", source=raw, time_kind=TimeKind.DATETIME, columns=("a", "b")
    )
    plan = make_plan(2, target="shop.copies", statements=(statement,))
    store.save_plan(plan)
    _, second = chunks_of(plan)
    (shown,) = cli.json("status", plan.plan_id, "--sql", second.id[:6])["statements"]
    assert shown["into"].startswith(f"`shop`.`backfill_{plan.plan_id}_{second.id}_1")
    assert "2025-01-01 06:00:00" in shown["filter"]
    text = cli("status", plan.plan_id, "--sql", second.id).out
    assert f"INSERT INTO {shown['into']}" in text
    assert f"{shown['filter']};" in text
    assert cli("status", plan.plan_id, "--sql", "").err.count("several chunks") == 1
    assert cli("status", plan.plan_id, "--sql", "zz").err.count("no chunk") == 1
