"""
The rules for adding up, on trees and values as a server returns them; tests on a server show that
the rules are right.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_provider_backfill.core.adding_up.case import BucketFacts, Case, Question, Verdict
from airflow_provider_backfill.core.adding_up.judge import judge, keys_to_keep_whole
from airflow_provider_backfill.core.adding_up.lineage import Value
from airflow_provider_backfill.core.adding_up.merging import (
    key_columns,
    merge_of,
    merged_by,
    signs_tell,
    state_function,
    summed_columns,
    verify_caveat,
)
from airflow_provider_backfill.core.adding_up.placed import given_constants, sampled_chunks, tells_chunks
from airflow_provider_backfill.core.facts import Column, QuerySource, TableFacts
from airflow_provider_backfill.core.plan import TargetTime
from airflow_provider_backfill.core.query_tree import parse_tree
from airflow_provider_backfill.core.sampling import pick_slices
from airflow_provider_backfill.core.tables import TableName, TimeKind
from tests.adding_up_record import FILE, expected, read_case
from tests.state import make_plan

EV, DST = TableName("d", "ev"), TableName("d", "dst")
TREE = """\
QUERY id: 0
  PROJECTION COLUMNS
    day Date
    n UInt64
  PROJECTION
    LIST id: 1, nodes: 2
      FUNCTION id: 2, function_name: toDate, function_type: ordinary, result_type: Date
        ARGUMENTS
          LIST id: 3, nodes: 1
            COLUMN id: 4, column_name: ts, result_type: DateTime('UTC'), source_id: 5
      FUNCTION id: 6, function_name: FUNCTION_NAME, function_type: aggregate, result_type: UInt64
        ARGUMENTS
          LIST id: 7, nodes: 1
            COLUMN id: 8, column_name: user, result_type: UInt32, source_id: 5
  JOIN TREE
    TABLE id: 5, alias: __table1, table_name: d.ev
  GROUP BY
    LIST id: 9, nodes: 1
      FUNCTION id: 2, function_name: toDate, function_type: ordinary, result_type: Date
        ARGUMENTS
          LIST id: 3, nodes: 1
            COLUMN id: 4, column_name: ts, result_type: DateTime('UTC'), source_id: 5
"""


def target(engine: str, kind: str = "UInt64", arguments: str = "") -> TableFacts:
    return TableFacts(
        name=DST,
        storage=DST,
        engine=engine,
        columns=(Column("day", "Date", in_key=True), Column("n", kind)),
        partition_key="",
        sorting_key="day",
        engine_full=f"{engine}{arguments} ORDER BY day",
        rows=0,
    )


def case(function: str, into: TableFacts, *, one_chunk: bool = False) -> Case:
    tree = parse_tree(TREE.replace("FUNCTION_NAME", function).splitlines())
    sources = {"d.ev": QuerySource(EV, "MergeTree")}
    return Case("select", tree, sources, {EV: "ts"}, into, ("day", "n"), one_chunk=one_chunk)


def answer(asked: Case, facts: BucketFacts) -> Verdict:
    known: dict[tuple[object, ...], BucketFacts] = {}
    while isinstance(verdict := judge(asked, known), Question):  # type: ignore[arg-type]
        known[verdict.key] = facts
    return verdict


CUT = BucketFacts(cut=datetime(2025, 1, 1, 6, tzinfo=UTC))


def test_the_server_is_asked_of_the_key_that_keeps_chunks_apart() -> None:
    """What the rules need comes out as a value, so that they stay pure."""
    question = judge(case("sum", target("SummingMergeTree")), {})
    assert isinstance(question, Question)
    assert [expression.sql for expression in question.key] == ["toDate(ts)"]


@pytest.mark.parametrize(
    ("function", "into", "right"),
    [
        ("sum", target("SummingMergeTree"), True),
        ("sum", target("ReplicatedSummingMergeTree", arguments="('/p', 'r', n)"), True),
        ("sum", target("SummingMergeTree", arguments="(other)"), False),
        ("uniq", target("SummingMergeTree"), False),
        ("max", target("SummingMergeTree"), False),
        ("max", target("AggregatingMergeTree", "SimpleAggregateFunction(max, UInt64)"), True),
        ("sum", target("AggregatingMergeTree", "SimpleAggregateFunction(max, UInt64)"), False),
        ("sum", target("ReplacingMergeTree"), False),
        ("sum", target("MergeTree"), False),
    ],
)
def test_parts_of_a_group_go_into_the_column_that_merges_them(function: str, into: TableFacts, right: bool) -> None:
    verdict = answer(case(function, into), CUT)
    assert (verdict.refusal is None) is right
    assert answer(case(function, into), BucketFacts()).refusal is None, "a bucket that no chunk cuts is always right"
    assert answer(case(function, into, one_chunk=True), CUT).refusal is None, "so is a plan of one chunk"


def test_a_value_that_comes_again_is_no_bucket() -> None:
    verdict = answer(case("uniq", target("MergeTree")), BucketFacts(again="3"))
    assert verdict.refusal is not None
    assert "come again (3)" in verdict.refusal.message


def test_what_may_be_cut_depends_on_the_target() -> None:
    assert keys_to_keep_whole(case("sum", target("SummingMergeTree"))) == ()
    (key,) = keys_to_keep_whole(case("sum", target("MergeTree")))
    assert key[0].sql == "toDate(ts)"


def test_labels_follow_from_the_time() -> None:
    verdict = answer(case("sum", target("SummingMergeTree")), CUT)
    assert verdict.labels["day"][0].sql == "toDate(ts)"
    assert verdict.reads[0].table == EV


RECORDS = json.loads(FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["test"])
def test_a_verdict_on_what_a_server_shows(record: dict[str, Any]) -> None:
    """The trees are a server's own; tests/clickhouse/test_adding_up.py shows on one that these verdicts are right."""
    case, answers = read_case(record)
    assert expected(case, answers) == record["expected"]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["test"])
def test_a_plan_of_one_chunk_needs_no_rule(record: dict[str, Any]) -> None:
    """Its result is the result of the whole window, unless the plan reads its own target."""
    case, answers = read_case(record)
    alone = replace(case, one_chunk=True)
    verdict = judge(alone, answers)
    holds_target = any(source.holds_target for source in case.sources.values())
    assert isinstance(verdict, Verdict)
    assert (verdict.refusal is not None) is holds_target


def part(name: str, kind: str = "UInt64", *args: Value) -> Value:
    return Value("aggregate", name, kind, args)


def call(name: str, kind: str, *args: Value) -> Value:
    return Value("call", name, kind, args)


TWO = Value("constant", "2", "UInt8", literal="2")


@pytest.mark.parametrize(
    ("value", "by"),
    [
        (part("countIf"), "sum"),
        (part("sumOrNull", "Nullable(UInt64)"), "sum"),
        (part("sumArray"), "sum"),
        (part("groupUniqArray", "Array(UInt8)"), "groupUniqArrayArray"),
        (part("uniqState", "AggregateFunction(uniq, UInt8)"), "state"),
        (part("maxSimpleState", "SimpleAggregateFunction(max, UInt8)"), "max"),
        (part("sumMerge", "UInt64", Value("column", "s", "AggregateFunction(sum, UInt8)")), "sum"),
        (call("plus", "UInt64", part("sum"), part("count")), "sum"),
        (call("multiply", "UInt64", part("sum"), TWO), "sum"),
        (call("divide", "Float64", part("sum"), TWO), "sum"),
        (call("multiply", "Decimal(38, 2)", part("sum", "Decimal(38, 2)"), TWO), "sum"),
        (call("multiply", "UInt64", part("max"), TWO), "max"),
        (call("toInt64", "Int64", part("groupBitOr", "UInt32")), "groupBitOr"),
        (call("greatest", "UInt64", part("max"), part("max")), "max"),
        (call("toDate", "Date", part("max", "DateTime")), "max"),
        (part("sum", "UInt64", part("count")), "sum"),
        (part("max", "UInt64", part("max")), "max"),
    ],
)
def test_values_that_merge(value: Value, by: str) -> None:
    assert merge_of(value).by == by


@pytest.mark.parametrize(
    "value",
    [
        part("sumDistinct"),
        part("sumForEach", "Array(UInt64)"),
        part("avg", "Float64"),
        part("uniq"),
        part("argMax"),
        part("minIf"),
        part("anyIf"),
        part("deltaSumState", "AggregateFunction(deltaSum, UInt8)"),
        part("uniqMerge", "UInt64", Value("column", "s", "AggregateFunction(uniq, UInt8)")),
        call("divide", "Float64", part("sum"), part("count")),
        call("plus", "UInt64", part("sum"), TWO),
        call("intDiv", "UInt64", part("sum"), TWO),
        call("toInt64", "Int64", part("sum", "Float64")),
        call("toDecimal64", "Decimal(18, 2)", part("sum", "Float64")),
        call("toDecimal64", "Decimal(18, 2)", part("sum", "Decimal(38, 4)")),
        call("divide", "Decimal(38, 4)", part("sum", "Decimal(38, 4)"), TWO),
        call("plus", "Nullable(UInt64)", part("sum", "Nullable(UInt64)"), part("count")),
        call("minus", "UInt64", TWO, part("max")),
        call("ifNull", "Nullable(UInt64)", part("min", "Nullable(UInt64)"), TWO),
        part("avg", "Float64", part("count")),
        part("count", "UInt64", part("sum")),
        part("quantileState", "AggregateFunction(quantile, UInt64)", part("count")),
    ],
)
def test_values_that_do_not(value: Value) -> None:
    merge = merge_of(value)
    assert not merge.by
    assert merge.why


DAY = TargetTime(column="day", kind=TimeKind.DATE)


@pytest.mark.parametrize(
    ("changes", "tell"),
    [
        ({"engine": "CollapsingMergeTree"}, True),
        ({"engine": "ReplicatedCollapsingMergeTree"}, True),
        ({"engine": "VersionedCollapsingMergeTree"}, False),
        # Rows of another window, or of others, may have cancelled the window's own.
        ({"engine": "CollapsingMergeTree", "sorting_key": "id"}, False),
        ({"engine": "CollapsingMergeTree", "existing_rows": 1}, False),
        ({"engine": "CollapsingMergeTree", "chance": ["rand"]}, False),
    ],
)
def test_when_the_signs_of_a_key_tell(changes: dict[str, Any], tell: bool) -> None:
    chance, existing = changes.pop("chance", ()), changes.pop("existing_rows", 0)
    into = replace(target("CollapsingMergeTree", arguments="(sign)"), **changes)
    plan = make_plan(target_time=DAY, existing_rows=existing)
    assert signs_tell(plan, into, chance) is tell
    # Which of several states stays is left to chance, so that nothing but the signs can tell.
    assert bool(verify_caveat(plan, into, chance)) is not into.engine.startswith("Versioned")


def test_the_columns_of_an_engine() -> None:
    assert key_columns("(day, toHour(ts), `a b`)") == ["day", "toHour(ts)", "a b"]
    listed = target("ReplicatedSummingMergeTree", arguments="('/a, b', '{replica}', (n, m))")
    assert summed_columns(listed, "SummingMergeTree") == frozenset({"n", "m"})
    assert merged_by(Column("d", "Date"), "SummingMergeTree", None) == ""
    assert merged_by(Column("n", "Nullable(Decimal(9, 2))"), "SummingMergeTree", None) == "sum"
    assert state_function("AggregateFunction(1, sumMapIf, UInt8)") == "sumMap"


# ---------------------------------------------------------------- slices of a trial

DAYS = [
    (
        datetime(2025, 1, 1, tzinfo=UTC) + timedelta(days=number),
        datetime(2025, 1, 2, tzinfo=UTC) + timedelta(days=number),
    )
    for number in range(60)
]


def test_slices_are_neighbours_and_chunks_a_day_a_week_and_a_month_apart() -> None:
    slices = pick_slices(DAYS, dict.fromkeys(range(60), 10), 1_000_000)
    starts = [(start - slices[0][0]).days for start, _ in slices]
    assert 1 in starts
    assert {7, 30} <= set(starts)


def test_slices_shrink_towards_the_bound_that_neighbours_share() -> None:
    slices = pick_slices(DAYS[:2], {0: 1000, 1: 1000}, 200)
    assert slices[0][1] == slices[1][0] == DAYS[0][1]
    assert slices[0][1] - slices[0][0] == slices[1][1] - slices[1][0] == timedelta(hours=2, minutes=24)


def test_no_slices_where_one_chunk_has_all_rows() -> None:
    assert pick_slices(DAYS, {3: 5}, 100) == []
    assert pick_slices(DAYS, {3: 5, 9: 5}, 100) == [DAYS[3], DAYS[9]]
    assert pick_slices(DAYS, {3: 5, 9: 5}, 100, together=True) == []


def test_constants_that_follow_the_chunk() -> None:
    """A day of the month repeats a month later, so alone it does not distinguish chunks."""

    def tree(*texts: str) -> list[str]:
        constants = [
            f"      CONSTANT id: {number}, constant_value: '{text}', constant_value_type: String"
            for number, text in enumerate(texts, 2)
        ]
        return ["QUERY id: 0", "  PROJECTION", f"    LIST id: 1, nodes: {len(texts)}", *constants]

    chunks = [("x", "01", "01"), ("x", "02", "01"), ("x", "01", "02")]
    trees = [parse_tree(tree(*texts)) for texts in chunks]
    given = given_constants(trees)
    assert given == {3: ("'01'", "'02'", "'01'"), 4: ("'01'", "'01'", "'02'")}
    assert not tells_chunks(given, {3})
    assert tells_chunks(given, {3, 4})
    assert not tells_chunks(given, set())
    assert given_constants([trees[0], parse_tree(TREE.splitlines())]) == {}


def test_some_chunks_show_what_follows_the_chunk() -> None:
    """An hour of the day, a day of the month and a weekday come again within the sample."""
    assert sampled_chunks(2) == [0, 1]
    assert {0, 24, 31, 168, 8759} <= set(sampled_chunks(8760))
