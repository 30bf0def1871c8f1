"""What can be planned: windows, time columns, columns and write modes, from facts alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_provider_backfill.core.chunking import Chunking, Unit
from airflow_provider_backfill.core.facts import Column, ScanFacts, TableFacts
from airflow_provider_backfill.core.plan import Statement, WriteMode
from airflow_provider_backfill.core.plan_words import mode_reason
from airflow_provider_backfill.core.planner import (
    MAX_CHUNKS,
    check_chunk_count,
    check_scan,
    check_window,
    converted_columns,
    defaulted_columns,
    differences,
    find_time_column,
    insert_columns,
    thread_settings,
    write_mode,
)
from airflow_provider_backfill.core.request import PlanRequest
from airflow_provider_backfill.core.request_rules import check_request
from airflow_provider_backfill.core.tables import TableName, TimeKind
from airflow_provider_backfill.errors import Flag, RequestError
from tests.state import make_plan

START = datetime(2025, 1, 1, tzinfo=UTC)
NAME = TableName("shop", "orders")
REQUEST = PlanRequest(NAME, START, START + timedelta(days=1), Chunking(hours=6))


def table(*columns: Column, engine: str = "MergeTree", sorting_key: str = "", partition_key: str = "") -> TableFacts:
    return TableFacts(NAME, NAME, engine, columns, partition_key, sorting_key, f"{engine} ORDER BY tuple()", None)


def hint(refused: pytest.ExceptionInfo[RequestError]) -> str:
    return refused.value.hint


# ---------------------------------------------------------------- windows


def window(days: float = 30, chunking: Chunking | None = None, **limits: Any) -> None:
    check_window(
        START,
        START + timedelta(days=days),
        chunking or Chunking(hours=6),
        **{"max_hours": 720, "min_chunk_minutes": 15, "force": False, **limits},
    )


def test_a_window_and_a_chunk_at_their_limits_are_taken() -> None:
    window(30)
    window(1, Chunking(hours=0.25))
    window(30.1, force=True)
    # A month may be over the limit of hours, but its length is no number of minutes to hold against one.
    window(30, Chunking(unit=Unit.PARTITION), min_chunk_minutes=10**9)


def test_a_window_over_the_limit_is_refused() -> None:
    with pytest.raises(RequestError, match=r"is 720\.5 h, over the limit of 720 h") as refused:
        window(30 + 0.5 / 24)
    assert "--force-large-window" in hint(refused)


def test_a_chunk_under_the_limit_is_refused() -> None:
    with pytest.raises(RequestError, match=r"A chunk of 0\.24 h is shorter than the minimum of 15 minutes") as refused:
        window(1, Chunking(hours=0.24))
    assert "--chunk-hours 0.25" in hint(refused)


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(RequestError, match="The window is empty"):
        window(0)


def test_a_plan_has_at_most_so_many_chunks() -> None:
    check_chunk_count(MAX_CHUNKS)
    with pytest.raises(RequestError, match="1,000,001 chunks"):
        check_chunk_count(MAX_CHUNKS + 1)
    window(MAX_CHUNKS / 4 / 24, Chunking(hours=0.25), force=True)
    with pytest.raises(RequestError, match="over the limit of 1,000,000"):
        window(MAX_CHUNKS / 4 / 24 + 0.01, Chunking(hours=0.25), force=True)


# ---------------------------------------------------------------- the time column

ID, TS, DAY = Column("id", "UInt64"), Column("ts", "DateTime('UTC')"), Column("day", "Date")


def test_the_only_time_is_the_time_column() -> None:
    assert find_time_column(table(ID, TS), None, "") == ("ts", TimeKind.DATETIME)


def test_of_several_the_first_in_the_sorting_key_then_in_the_partition_key() -> None:
    assert find_time_column(table(TS, DAY, sorting_key="id, day, ts"), None, "")[0] == "day"
    assert find_time_column(table(TS, DAY, sorting_key="id", partition_key="toYYYYMM(ts)"), None, "")[0] == "ts"
    assert find_time_column(table(TS, DAY, sorting_key="day", partition_key="ts"), None, "")[0] == "day"


def test_without_a_choice_it_is_asked_for() -> None:
    with pytest.raises(RequestError, match=r"several time columns \(ts, day\), none of them in its key"):
        find_time_column(table(TS, DAY), None, "")
    with pytest.raises(RequestError, match="has no time column; it has id UInt64"):
        find_time_column(table(ID), None, "")
    with pytest.raises(RequestError, match="several integers, id, at, and nothing says"):
        find_time_column(table(ID, Column("at", "Int64"), sorting_key="id, at"), None, "ms")


def test_the_one_that_was_asked_for() -> None:
    assert find_time_column(table(TS, DAY, sorting_key="day"), "ts", "") == ("ts", TimeKind.DATETIME)
    assert find_time_column(table(ID, TS), "id", "ms") == ("id", TimeKind.EPOCH_MS)


@pytest.mark.parametrize(
    ("wanted", "message", "advice"),
    [
        ("tss", "has no column 'tss'", "did you mean --time-column ts?"),
        ("zzzzzz", "has no column 'zzzzzz'", "pass --time-column with one of these"),
        ("id", "is UInt64, which holds no instant", "--time-unit with s, ms, us or ns"),
        ("name", "is String, which holds no instant", "--time-column with a Date, DateTime or DateTime64"),
    ],
)
def test_what_is_no_time_column(wanted: str, message: str, advice: str) -> None:
    with pytest.raises(RequestError, match=message) as refused:
        find_time_column(table(ID, TS, Column("name", "String")), wanted, "")
    assert advice in hint(refused)


# ---------------------------------------------------------------- columns


def test_columns_are_matched_by_name_in_the_targets_order() -> None:
    assert insert_columns("x", [TS, ID], table(ID, TS, DAY), None) == ("id", "ts")


@pytest.mark.parametrize(
    ("column", "state"),
    [(Column("gone", "UInt8"), "has no column"), (Column("made", "UInt8"), "computes its column")],
)
def test_a_column_that_the_target_does_not_take(column: Column, state: str) -> None:
    target = table(ID, Column("made", "UInt8", "MATERIALIZED"))
    with pytest.raises(RequestError, match=f"{state} '{column.name}', which x gives"):
        insert_columns("x", [column], target, None)


def test_a_column_whose_values_may_not_fit() -> None:
    narrow, wide = Column("n", "UInt8"), Column("n", "UInt64")
    types = {("UInt8", "UInt64"): "UInt64", ("UInt64", "UInt8"): "UInt64"}
    assert insert_columns("x", [narrow], table(wide), types) == ("n",)
    assert insert_columns("x", [wide], table(narrow), None) == ("n",), "a view converts as it does live"
    with pytest.raises(RequestError, match=r"n is UInt64 in x and UInt8 in shop\.orders") as refused:
        insert_columns("x", [wide], table(narrow), types)
    assert "CAST(n AS UInt8)" in hint(refused)


def test_which_columns_are_converted_and_which_get_a_default() -> None:
    target = table(ID, TS, Column("n", "Nullable(UInt8)"))
    given = [Column("id", "Nullable(UInt64)"), TS, Column("n", "Nullable(UInt8)"), Column("other", "Nullable(UInt8)")]
    assert converted_columns(given, target) == ("id",)
    assert defaulted_columns(given, target) == ("id",)


# ---------------------------------------------------------------- scans

STATEMENT = Statement(
    name="shop.view", select="SELECT 1", source=TableName("shop", "raw"), time_kind=TimeKind.DATETIME, columns=()
)


@pytest.mark.parametrize(("reads", "filtered"), [(1, 1), (3, 3)])
def test_a_filter_on_every_read(reads: int, filtered: int) -> None:
    check_scan(table(TS), STATEMENT, ScanFacts(reads, filtered, True, True), "ts")


@pytest.mark.parametrize(
    ("reads", "filtered", "where"),
    [(0, 0, "nowhere"), (1, 0, "nowhere"), (2, 1, "in only 1 of 2 places")],
)
def test_a_read_without_the_filter(reads: int, filtered: int, where: str) -> None:
    with pytest.raises(RequestError, match=f"takes effect {where} in shop.view"):
        check_scan(table(TS), STATEMENT, ScanFacts(reads, filtered, True, True), "ts")


def test_a_read_of_the_target() -> None:
    scan = ScanFacts(1, 1, True, True, frozenset({"shop.orders"}))
    with pytest.raises(RequestError, match=r"shop\.view reads shop\.orders, the target itself"):
        check_scan(table(TS), STATEMENT, scan, "ts")


# ---------------------------------------------------------------- write modes


INSERT = {"write_mode": WriteMode.INSERT, "accept_at_least_once": True}


@pytest.mark.parametrize(
    ("engine", "changes", "mode", "words"),
    [
        ("MergeTree", {}, WriteMode.STAGE, "is a MergeTree table, so chunks are staged"),
        ("ReplicatedReplacingMergeTree", {"write_mode": WriteMode.STAGE}, WriteMode.STAGE, "ReplacingMergeTree table"),
        ("MergeTree", {"write_mode": WriteMode.REPLACE}, WriteMode.REPLACE, "are replaced, because it was asked for."),
        ("MergeTree", {"write_mode": WriteMode.REPLACE, "backup": True}, WriteMode.REPLACE, "it was asked for."),
        ("MergeTree", INSERT, WriteMode.INSERT, "inserted directly, because it was asked for."),
        ("Memory", {"accept_at_least_once": True}, WriteMode.INSERT, "because shop.orders is a Memory table."),
        ("Distributed", INSERT, WriteMode.INSERT, "because shop.orders is a Distributed table."),
    ],
)
def test_how_rows_reach_the_target_and_why(engine: str, changes: dict[str, Any], mode: WriteMode, words: str) -> None:
    chosen, reason = write_mode(table(TS, engine=engine), replace(REQUEST, **changes))
    assert chosen is mode
    assert words in mode_reason(
        make_plan().model_copy(update={"write_mode": chosen, "mode_reason": reason, "engine": engine})
    )


@pytest.mark.parametrize(
    ("engine", "changes", "message", "advice"),
    [
        ("Buffer", {}, "keeps no rows", "table behind it"),
        ("Kafka", {"accept_at_least_once": True}, "keeps no rows", "a MergeTree table and copy its rows"),
        ("Memory", {"write_mode": WriteMode.STAGE}, "cannot take the partitions", "--accept-at-least-once"),
        ("Memory", {"write_mode": WriteMode.REPLACE}, "cannot take the partitions", "--write-mode insert"),
        ("Memory", {}, "only at least once", "a MergeTree table and copy its rows, or pass"),
        ("Distributed", {}, "only at least once", "table behind it, or pass"),
        (
            "MergeTree",
            {"write_mode": WriteMode.INSERT},
            "only at least once",
            "omit --write-mode for exactly once",
        ),
    ],
)
def test_what_a_target_cannot_take(engine: str, changes: dict[str, Any], message: str, advice: str) -> None:
    with pytest.raises(RequestError, match=message) as refused:
        write_mode(table(TS, engine=engine), replace(REQUEST, **changes))
    assert advice in hint(refused)


def test_partitions_are_not_replaced_in_a_database_that_does_so_on_other_servers_too() -> None:
    target = replace(table(TS, engine="ReplicatedMergeTree"), alters_others=True)
    assert write_mode(target, REQUEST)[0] is WriteMode.STAGE
    with pytest.raises(RequestError, match="executes REPLACE PARTITION on all of them") as refused:
        write_mode(target, replace(REQUEST, write_mode=WriteMode.REPLACE))
    assert hint(refused) == "omit --write-mode replace; or give each shard a Replicated database of its own"


@pytest.mark.parametrize(
    ("changes", "message", "advice"),
    [
        ({"keep_outside": True}, "Rows outside the window are kept only where", "omit --keep-outside"),
        ({"write_mode": WriteMode.STAGE, "backup": True}, "A backup is made only", "omit --backup"),
        ({"settings": {"insert_deduplicate": "1"}}, "sets insert_deduplicate", "leave insert_deduplicate out"),
        ({"source": REQUEST.target}, "is the target itself", "pass another --source"),
        ({"select": "SELECT 1; SELECT 2"}, "holds several statements", "pass one SELECT"),
        ({"select": "SELECT 1 SETTINGS async_insert = 1"}, "sets async_insert", "leave async_insert out"),
        ({"formats": (("day", "%Y-%m-%d"),)}, "day is no parameter", "pass --select"),
    ],
)
def test_what_contradicts_itself_is_told_before_a_server_is_asked(
    changes: dict[str, Any], message: str, advice: str
) -> None:
    with pytest.raises(RequestError, match=message) as refused:
        check_request(replace(REQUEST, **changes))
    assert advice in hint(refused)


# ---------------------------------------------------------------- the same id, another definition


def test_how_two_plans_differ() -> None:
    plan = make_plan(statements=(STATEMENT,))
    assert differences(plan, plan) == []
    other = plan.model_copy(
        update={
            "write_mode": WriteMode.INSERT,
            "min_chunk_minutes": 30,
            "whole_tables": (TableName("shop", "dim"),),
            "statements": (plan.statements[0].model_copy(update={"select": "SELECT  2\nAS a"}),),
        }
    )
    lines = differences(plan, other)
    assert "write_mode: stage in the plan, insert now" in lines
    assert "whole_tables: none in the plan, shop.dim now" in lines
    assert any(line.startswith("min_chunk_minutes: ") for line in lines)
    assert [line.partition(":")[0] for line in lines if "SELECT" in line] == ["statement in the plan", "statement now"]
    assert any(line.endswith("SELECT 2 AS a") for line in lines)


def test_the_flags_of_a_refusal_are_data() -> None:
    with pytest.raises(RequestError) as refused:
        write_mode(table(TS, engine="Memory"), REQUEST)
    parts = getattr(refused.value.remedy, "parts", ())
    assert Flag("--write-mode", WriteMode.INSERT) in parts


@pytest.mark.parametrize(
    ("rows", "server", "free", "at_once", "settings"),
    [
        (None, 8, 8, 2, {}),
        (400_000, 8, 8, 1, {}),
        (800_000, 8, 8, 1, {"max_insert_threads": 2}),
        (8_000_000, 8, 8, 4, {"max_insert_threads": 2, "max_threads": 2}),
        (8_000_000, 8, 8, 16, {"max_threads": 1}),
        (8_000_000, 8, 8, 0, {"max_insert_threads": 4}),
        # A profile or the user has set the number of threads.
        (8_000_000, 8, 0, 4, {"max_insert_threads": 2}),
        (8_000_000, 1, 8, 4, {"max_threads": 2}),
    ],
)
def test_chunks_share_the_servers_threads(
    rows: int | None, server: int, free: int, at_once: int, settings: dict[str, int]
) -> None:
    """Four chunks: of a writing thread each has at least 100,000 rows, and none has more than four."""
    plan = make_plan(4).model_copy(update={"source_rows": rows})
    assert thread_settings(plan, at_once, inserting=server, free=free) == settings
