"""Which parts of groups a target merges, and what a difference from the SELECT then means."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_backfill.core.adding_up import conversions, merging, widths
from airflow_provider_backfill.core.adding_up.case import Case, Kind
from airflow_provider_backfill.core.adding_up.lineage import Value, is_partial, show
from airflow_provider_backfill.core.adding_up.merging import (
    keeps_latest,
    key_columns,
    may_erase,
    merge_of,
    merged_by,
    signs_tell,
    state_function,
    summed_columns,
    verify_caveat,
)
from airflow_provider_backfill.core.adding_up.relations import Walk
from airflow_provider_backfill.core.adding_up.rows import Cut, RefusedError, Rows, Shape
from airflow_provider_backfill.core.adding_up.target import changing_defaults, check_merge
from airflow_provider_backfill.core.adding_up.widths import too_narrow
from airflow_provider_backfill.core.facts import Column, TableFacts
from airflow_provider_backfill.core.plan import Statement, TargetTime
from airflow_provider_backfill.core.query_tree import parse_tree
from airflow_provider_backfill.core.tables import TimeKind
from tests.adding_up_cases import EV, SUM_STATE, TREE, TWO, ZERO, call, part, target
from tests.state import make_plan

KIND = Value("column", "kind", "UInt8")
DAY_LONG = Value("constant", "1", "IntervalDay", literal="toIntervalDay(1)")


@pytest.mark.parametrize("levels", [12, 60])
def test_a_value_that_each_subquery_uses_twice_is_judged_once(levels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By different functions, so that each level has two uses of the level below."""
    calls = 0

    def counted(value: Value) -> bool:
        nonlocal calls
        calls += 1
        assert calls < 50 * levels
        return is_partial(value)

    for module in (merging, widths, conversions):
        monkeypatch.setattr(module, "is_partial", counted)
    value = part("sum")
    for _ in range(levels):
        value = call("plus", "UInt64", call("multiply", "UInt64", value, TWO), call("negate", "UInt64", value))
    assert merge_of(value).by == "sum"
    assert too_narrow(value, "sum", "UInt64") is None
    assert "length(plus(multiply(plus(" in merge_of(call("length", "UInt64", value)).why
    assert len(show(value)) < 5_000


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
        (call("finalizeAggregation", "UInt64", part("sumState", SUM_STATE)), "sum"),
        (call("CAST", SUM_STATE, part("sumState", SUM_STATE)), "state"),
        (call("ifNull", "UInt64", part("sum", "Nullable(UInt64)"), ZERO), "sum"),
        (Value("either", "", "UInt64", (part("sum"), part("count")), "1"), "sum"),
        (call("toUnixTimestamp", "UInt32", part("max", "DateTime")), "max"),
        (call("toStartOfInterval", "DateTime", part("min", "DateTime"), DAY_LONG), "min"),
        (call("plus", "DateTime", part("max", "DateTime"), DAY_LONG), "max"),
        (call("greatest", "UInt64", part("max"), TWO), "max"),
        (call("greater", "UInt8", part("max"), TWO), "max"),
        (call("upper", "String", part("any", "String")), "any"),
        (call("if", "Int64", call("equals", "UInt8", KIND, TWO), call("negate", "Int64", part("sum")), ZERO), "sum"),
        (call("multiIf", "UInt64", KIND, part("max"), KIND, part("max"), TWO), "max"),
        (part("sumState", SUM_STATE, part("count")), "state"),
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
        part("sumIf", "UInt64", part("count"), Value("column", "v", "UInt8")),
        call("ifNull", "UInt64", part("sum", "Nullable(UInt64)"), TWO),
        call("toString", "String", part("sumState", SUM_STATE)),
        Value("either", "", "UInt64", (part("sum"), part("max")), "1"),
        Value("either", "", "UInt64", (part("sum"), TWO), "1"),
        call("plus", "UInt64", part("uniq"), part("sum")),
        call("toInt64", "Int64", part("max", "String")),
        call("plus", "DateTime", DAY_LONG, part("max", "DateTime")),
        call("less", "UInt8", part("max"), TWO),
        call("greatest", "Nullable(UInt64)", part("min", "Nullable(UInt64)"), TWO),
        call("ifNull", "String", part("any", "Nullable(String)"), TWO),
        call("if", "UInt64", call("equals", "UInt8", part("count"), TWO), part("sum"), ZERO),
        call("if", "UInt64", KIND, part("sum"), TWO),
        call("if", SUM_STATE, KIND, part("sumState", SUM_STATE), KIND),
        part("avgState", "AggregateFunction(avg, UInt64)", part("count")),
        part("groupUniqArray", "Array(Array(UInt8))", part("groupUniqArray", "Array(UInt8)")),
    ],
)
def test_values_that_do_not(value: Value) -> None:
    merge = merge_of(value)
    assert not merge.by
    assert merge.why


@pytest.mark.parametrize(
    ("value", "by", "kind", "bits"),
    [
        (call("toUInt8", "UInt8", part("sum")), "sum", "UInt64", 8),
        (part("sum"), "sum", "UInt64", None),
        (call("toInt32", "Int32", part("max", "Int64")), "max", "Int64", 32),
        (part("max", "UInt32"), "max", "Int64", None),
        (part("max", "UInt64"), "max", "UInt64", None),
        (part("max", "Int32"), "max", "UInt64", 64),
        (part("max", "Float64"), "max", "UInt64", None),
        (part("uniqState", "AggregateFunction(uniq, UInt8)"), "state", "UInt64", None),
    ],
)
def test_numbers_that_wrap_around_on_their_way(value: Value, by: str, kind: str, bits: int | None) -> None:
    """A part that does not fit becomes another number, and the merged number is then no wrapped sum of the whole."""
    assert too_narrow(value, by, kind) == bits


# ---------------------------------------------------------------- the target's columns


OF_DAY = Value("column", "day", "Date", source="5", table=EV)


def merged_into(into: TableFacts, columns: dict[str, Value], name: str = "select") -> Walk:
    """Put the parts of groups into a target; the groups are cut by the chunks."""
    asked = Case(name, parse_tree(TREE.splitlines()), {}, {EV: "ts"}, into, tuple(columns))
    walk = Walk(asked, {})
    check_merge(asked, walk, Rows(Shape.GROUPED, columns, Cut("GROUP BY", "day", (), None)))
    return walk


def with_columns(engine: str, *columns: Column, sorting_key: str = "day", arguments: str = "") -> TableFacts:
    into = target(engine, arguments=arguments)
    return replace(into, columns=(into.columns[0], *columns), sorting_key=sorting_key)


@pytest.mark.parametrize(
    ("into", "columns", "doubt"),
    [
        (with_columns("SummingMergeTree", Column("nMap.n", "Array(UInt64)")), {"nMap.n": part("sum")}, "nMap.n"),
        (
            target("AggregatingMergeTree", "AggregateFunction(uniqExact, UInt8)"),
            {"n": part("uniqState", "AggregateFunction(uniq, UInt8)")},
            "merges as AggregateFunction(uniqExact, UInt8) in n",
        ),
        (target("SummingMergeTree"), {"n": call("toUInt32", "UInt32", part("sum"))}, "fits into 32 bits"),
        (
            with_columns("SummingMergeTree", Column("n", "UInt64"), Column("twice", "UInt64", "DEFAULT", default="n")),
            {"n": part("sum")},
            "twice, which d.dst computes from parts",
        ),
    ],
    ids=["a map", "another state", "few bits", "a default"],
)
def test_what_only_a_trial_can_show(into: TableFacts, columns: dict[str, Value], doubt: str) -> None:
    (said,) = merged_into(into, {"day": OF_DAY, **columns}).doubts
    assert doubt in said


def test_parts_that_are_surely_merged_leave_no_doubt() -> None:
    stored = Column("later", "UInt64", "DEFAULT", in_key=True, default="n")
    given = Column("n", "UInt64")
    for into in (target("SummingMergeTree"), with_columns("SummingMergeTree", given, stored)):
        walk = merged_into(into, {"day": OF_DAY, "n": part("sum")})
        assert walk.doubts == []
        assert walk.steps == [
            "n: sum() of parts, merged by sum",
            "GROUP BY day: d.dst (SummingMergeTree) merges the parts of a group",
        ]


@pytest.mark.parametrize(
    ("into", "value", "cannot"),
    [
        (
            with_columns("SummingMergeTree", Column("n", "UInt64", in_key=True), sorting_key="day, n"),
            part("sum"),
            "key",
        ),
        (
            with_columns("SummingMergeTree", Column("n", "UInt64", in_key=True), sorting_key="day, intDiv(n, 4)"),
            Value("column", "n", "UInt64"),
            "rows that differ in it become one",
        ),
        (
            target("AggregatingMergeTree", "SimpleAggregateFunction(min, UInt64)"),
            part("minOrNull", "Nullable(UInt64)"),
            "takes no NULL",
        ),
        (target("SummingMergeTree"), call("toUInt16", "UInt16", part("sum")), "16 bits"),
        (target("SummingMergeTree"), Value("either", "", "UInt64", (part("sum"), part("uniq")), "1"), "uniq is final"),
    ],
    ids=["a part in the key", "half a key", "a NULL", "few bits", "one branch of two"],
)
def test_parts_that_a_target_does_not_merge(into: TableFacts, value: Value, cannot: str) -> None:
    with pytest.raises(RefusedError, match=cannot) as refused:
        merged_into(into, {"day": OF_DAY, "n": value})
    assert refused.value.refusal.kind is Kind.GROUPS


def test_the_latest_row_is_one_of_the_greatest_version() -> None:
    ts, v = Value("column", "ts", "DateTime"), Value("column", "v", "Int64")
    into = with_columns("ReplacingMergeTree", Column("seen", "DateTime"), Column("n", "Int64"), arguments="(seen)")
    given = {"day": OF_DAY, "seen": part("max", "DateTime", ts), "n": part("argMax", "Int64", v, ts)}
    filled = into.columns[1:]
    assert keeps_latest(into, filled, given)
    assert not keeps_latest(into, filled, given | {"seen": part("min", "DateTime", ts)})
    assert not keeps_latest(into, filled, given | {"n": part("argMax", "Int64", ts, v)})
    assert not keeps_latest(into, filled, given | {"n": part("argMin", "Int64", v, ts)})
    assert not keeps_latest(into, filled, given | {"n": call("plus", "Int64", part("count"), given["n"])})
    perhaps = Value("column", "v", "Nullable(Int64)")
    assert not keeps_latest(into, filled, given | {"n": part("argMax", "Nullable(Int64)", perhaps, ts)})
    kept = part("argMax", "Tuple(Nullable(Int64))", call("tuple", "Tuple(Nullable(Int64))", perhaps), ts)
    assert keeps_latest(into, filled, given | {"n": call("tupleElement", "Nullable(Int64)", kept, TWO)})
    assert not keeps_latest(replace(into, engine_full="ReplacingMergeTree ORDER BY day"), filled, given)


@pytest.mark.parametrize(
    ("default", "columns", "defaulted", "found"),
    [
        ("now()", ("id",), (), ("n",)),
        ("now()", ("id", "n"), (), ()),
        ("now()", ("id", "n"), ("n",), ("n",)),
        ("toString(day)", ("id",), (), ()),
        ("concat(id, 'x')", (), (), ("id", "n")),
    ],
    ids=["a clock", "given by the SELECT", "given as NULL", "follows from a column", "made of a value of chance"],
)
def test_defaults_that_differ_each_time(
    default: str, columns: tuple[str, ...], defaulted: tuple[str, ...], found: tuple[str, ...]
) -> None:
    into = with_columns(
        "MergeTree",
        Column("id", "UUID", "DEFAULT", default="generateUUIDv4()"),
        Column("n", "String", "DEFAULT", default=default),
    )
    names = ("day", *columns)
    statement = Statement(
        name="select", select="SELECT 1", source=EV, time_kind=TimeKind.DATE, columns=names, defaulted=defaulted
    )
    assert changing_defaults(into, [statement]) == found


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


@pytest.mark.parametrize(
    ("engine", "arguments", "caveat"),
    [
        ("Memory", "", "no private table like a Memory"),
        ("MergeTree", "", ""),
        ("SummingMergeTree", "", ""),
        ("ReplacingMergeTree", "", "has no version"),
        ("ReplicatedReplacingMergeTree", "('/p', '{replica}')", "has no version"),
        ("ReplicatedReplacingMergeTree", "('/p', '{replica}', seen)", ""),
        ("ReplacingMergeTree", "(seen, gone)", ""),
    ],
)
def test_differences_that_may_be_harmless(engine: str, arguments: str, caveat: str) -> None:
    said = verify_caveat(make_plan(target_time=DAY), target(engine, arguments=arguments))
    assert caveat in said
    assert bool(said) is bool(caveat)
    if engine == "SummingMergeTree":
        assert "has no time" in verify_caveat(make_plan(target_time=None), target(engine))
        other = TargetTime(column="da", kind=TimeKind.DATE)
        assert "has no time" in verify_caveat(make_plan(target_time=other), target(engine))


def test_the_columns_of_an_engine() -> None:
    assert key_columns("(day, toHour(ts), `a b`)") == ["day", "toHour(ts)", "a b"]
    listed = target("ReplicatedSummingMergeTree", arguments="('/a, b', '{replica}', (n, m))")
    assert summed_columns(listed, "SummingMergeTree") == frozenset({"n", "m"})
    # A bracket in a path of Keeper opens nothing.
    bracket = target("ReplicatedSummingMergeTree", arguments="('/a(b', '{replica}', n) PARTITION BY (day)")
    assert summed_columns(bracket, "SummingMergeTree") == frozenset({"n"})
    assert summed_columns(target("SummingMergeTree"), "SummingMergeTree") is None
    assert merged_by(Column("d", "Date"), "SummingMergeTree", None) == ""
    assert merged_by(Column("n", "Nullable(Decimal(9, 2))"), "SummingMergeTree", None) == "sum"
    assert state_function("AggregateFunction(1, sumMapIf, UInt8)") == "sumMap"


@pytest.mark.parametrize(
    ("engine", "arguments", "ttl", "erases"),
    [
        ("MergeTree", "", "", False),
        ("MergeTree", "", " TTL day + toIntervalDay(9) TO VOLUME 'cold'", False),
        ("MergeTree", "", " TTL day + toIntervalDay(9)", True),
        ("ReplacingMergeTree", "(version)", "", False),
        ("ReplacingMergeTree", "(version, is_deleted)", "", True),
        ("ReplicatedReplacingMergeTree", "('/path', 'replica', version)", "", False),
        ("AggregatingMergeTree", "", "", False),
        ("SummingMergeTree", "", "", True),
        ("CollapsingMergeTree", "(sign)", "", True),
        ("VersionedCollapsingMergeTree", "(sign, version)", "", True),
    ],
)
def test_merges_that_leave_no_trace_of_a_row(engine: str, arguments: str, ttl: str, erases: bool) -> None:
    table = with_columns(engine, Column("day", "Date", in_key=True), arguments=arguments)
    table = replace(table, engine_full=f"{table.engine_full}{ttl} SETTINGS index_granularity = 8192")
    assert may_erase(table, ["day"]) is erases
    # A value outside the key may be replaced, except in a plain MergeTree.
    assert may_erase(table, ["day", "seen"]) is (erases or engine != "MergeTree")
