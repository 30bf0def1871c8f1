"""The steps of a SELECT and its values, one by one, where the server is not needed to see the rule."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_backfill.core.adding_up.case import BucketFacts, Case, Kind, Read
from airflow_provider_backfill.core.adding_up.lineage import Value, any_of, literal_of, show
from airflow_provider_backfill.core.adding_up.relations import Walk
from airflow_provider_backfill.core.adding_up.rows import RefusedError, Rows, Shape
from airflow_provider_backfill.core.adding_up.target import check_label
from airflow_provider_backfill.core.facts import QuerySource
from airflow_provider_backfill.core.query_tree import Node, parse_tree
from airflow_provider_backfill.core.tables import TableName
from tests.adding_up_cases import CUT, DST, EV, TREE, TWO, answer, call, target

# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("text", "kind", "literal"),
    [
        ("NULL", "Nullable(Nothing)", "NULL"),
        ("'a'", "String", "'a'"),
        ("'a'", "Enum8('a' = 1)", "CAST('a' AS Enum8('a' = 1))"),
        ("UInt64_7", "UInt8", "7"),
        ("Int64_-7", "Date", "CAST(-7 AS Date)"),
        ("Int64_3", "IntervalHour", "toIntervalHour(3)"),
        ("Decimal64_'1.50'", "Decimal(9, 2)", "CAST(1.50 AS Decimal(9, 2))"),
        ("Array_[UInt64_1]", "Array(UInt8)", None),
    ],
)
def test_constants_as_sql(text: str, kind: str, literal: str | None) -> None:
    assert literal_of(Node("CONSTANT", 1, fields={"name": text, "type": kind})) == literal


def test_a_value_of_branches_is_shown_by_its_first() -> None:
    value = call("plus", "UInt64", Value("either", args=(Value("column", "a"), TWO), source="1"), Value("opaque"))
    assert show(value) == "plus(a, …)"


def test_a_value_that_stands_twice_is_looked_at_once() -> None:
    """Expressions that use each other's aliases would take for ever otherwise."""
    seen: list[Value] = []
    value = TWO
    for _ in range(40):
        value = call("plus", "UInt64", value, value)
    assert not any_of(value, lambda one: bool(seen.append(one)))  # type: ignore[func-returns-value]
    assert len(seen) == 41


# ---------------------------------------------------------------- steps of a SELECT


def steps_case(tree: str, *, given: dict[int, tuple[str, ...]] | None = None, opaque: bool = False) -> Case:
    """The SELECT of :data:`TREE`, changed; with constants by chunk it has no filtered table."""
    sources = {"d.ev": QuerySource(EV, "View" if opaque else "MergeTree", opaque=opaque)}
    filters = {} if given or opaque else {EV: "ts"}
    into = target("SummingMergeTree")
    return Case("select", parse_tree(tree.splitlines()), sources, filters, into, ("day", "n"), given=given or {})


COUNTS = TREE.replace("FUNCTION_NAME", "count")


@pytest.mark.parametrize("sets", ["group_by_type: rollup", "group_by_type: cube", "is_group_by_with_totals: 1"])
def test_totals_need_the_rows_of_other_chunks(sets: str) -> None:
    verdict = answer(steps_case(COUNTS.replace("QUERY id: 0", f"QUERY id: 0, {sets}")), BucketFacts())
    assert verdict.refusal is not None
    assert verdict.refusal.kind is Kind.STEP
    assert answer(steps_case(COUNTS), BucketFacts()).refusal is None


def test_a_step_that_no_rule_knows_is_left_to_the_trial() -> None:
    """A later version of the server may have steps of which nobody here has heard."""
    steps = COUNTS.replace("    TABLE id: 5, alias: __table1, table_name: d.ev", "    SHUFFLE id: 5")
    verdict = answer(steps_case(steps), CUT)
    assert "a step shuffle that the rules do not know" in verdict.doubts
    values = COUNTS.replace("COLUMN id: 8, column_name: user, result_type: UInt32, source_id: 5", "MATCHER id: 8")
    assert answer(steps_case(values), CUT).refusal is None


def test_totals_of_a_source_that_cannot_be_looked_into() -> None:
    """Nobody can say more than that the SELECT places the window by itself."""
    verdict = answer(
        steps_case(COUNTS.replace("QUERY id: 0", "QUERY id: 0, is_group_by_with_totals: 1"), opaque=True), CUT
    )
    assert verdict.refusal is None
    assert verdict.doubts == ("the SELECT places the window by itself",)


TS = Value("column", "ts", "DateTime", source="5", table=EV)


def test_time_of_two_unions_or_without_end_is_no_bucket() -> None:
    """An expression that doubles with each step would be a text of a thousand gigabytes."""
    walk = Walk(steps_case(COUNTS), {})
    one, other = (Value("either", args=(TS, TS), source=union) for union in "12")
    assert [expression.sql for expression in walk.time_key((one,))] == ["ts"]
    assert walk.time_key((one, other)) == ()
    assert [expression.sql for expression in walk.time_key((TS, call("toDate", "Date", TS)))] == [
        "tuple(ts, toDate(ts))"
    ]
    value = TS
    for _ in range(40):
        value = call("tuple", "Tuple(DateTime, DateTime)", value, value)
    assert walk.time_key((value,)) == ()


def test_an_alias_column_is_what_it_stands_for() -> None:
    """The server shows its expression below the column."""
    to_date = COUNTS[COUNTS.index("      FUNCTION id: 2") : COUNTS.index("      FUNCTION id: 6")]
    shown = "      COLUMN id: 40, column_name: d, result_type: Date, source_id: 5\n        EXPRESSION\n" + "".join(
        f"    {line}\n" for line in to_date.splitlines()
    )
    verdict = answer(steps_case(COUNTS.replace(to_date, shown)), BucketFacts())
    assert [expression.sql for expression in verdict.labels["day"]] == ["toDate(ts)"]


SUBQUERY = """\
  WHERE
    FUNCTION id: 20, function_name: in, function_type: ordinary, result_type: UInt8
      ARGUMENTS
        LIST id: 21, nodes: 2
          COLUMN id: 8, column_name: user, result_type: UInt32, source_id: 5
          QUERY id: 50, is_subquery: 1
            PROJECTION
              LIST id: 51, nodes: 1
                COLUMN id: 52, column_name: user, result_type: UInt32, source_id: 53
            JOIN TREE
              TABLE id: 53, alias: __table2, table_name: d.ev
            WHERE
              FUNCTION id: 54, function_name: equals, function_type: ordinary, result_type: UInt8
                ARGUMENTS
                  LIST id: 55, nodes: 2
                    COLUMN id: 56, column_name: day, result_type: String, source_id: 53
                    CONSTANT id: 57, constant_value: '01', constant_value_type: String
"""


def test_a_subquery_of_the_chunks_own_rows() -> None:
    """It may be meant, so a table that --param limits twice is left to the user; a filter would apply to both reads."""
    tree = by_condition("equals").replace("  GROUP BY\n", SUBQUERY + "  GROUP BY\n", 1)
    days = ("'01'", "'02'")
    verdict = answer(steps_case(tree, given={23: days, 57: days}), BucketFacts())
    assert verdict.refusal is None
    assert any("a subquery of select takes other rows for each chunk" in doubt for doubt in verdict.doubts)
    refused = answer(steps_case(tree), BucketFacts()).refusal
    assert refused is not None
    assert "a second time, in a subquery" in refused.message


LIMITED = """\
  WHERE
    FUNCTION id: 20, function_name: in, function_type: ordinary, result_type: UInt8
      ARGUMENTS
        LIST id: 21, nodes: 2
          COLUMN id: 8, column_name: user, result_type: UInt32, source_id: 5
          QUERY id: 58, is_subquery: 1
            PROJECTION
              LIST id: 59, nodes: 1
                COLUMN id: 61, column_name: user, result_type: UInt32, source_id: 62
            JOIN TREE
              TABLE id: 62, alias: __table3, table_name: d.users
            ORDER BY
              LIST id: 63, nodes: 1
                SORT id: 64, sort_direction: ASCENDING, with_fill: 0
                  EXPRESSION
                    COLUMN id: 61, column_name: user, result_type: UInt32, source_id: 62
            LIMIT
              CONSTANT id: 60, constant_value: UInt64_1, constant_value_type: UInt8
"""
ORDER = LIMITED[LIMITED.index("            ORDER BY") : LIMITED.index("            LIMIT")]


BY_USER = ORDER.replace("ORDER BY", "LIMIT BY")


@pytest.mark.parametrize(
    ("limited", "chance"),
    [(LIMITED, ()), (LIMITED.replace(ORDER, ""), ("LIMIT",)), (LIMITED.replace(ORDER, ORDER + BY_USER), ())],
    ids=["ordered", "in any order", "by user"],
)
def test_a_limit_without_an_order_is_chance(limited: str, chance: tuple[str, ...]) -> None:
    """Which rows of a table that is read whole it gives, another run may answer in another way."""
    asked = steps_case(COUNTS.replace("  GROUP BY\n", limited + "  GROUP BY\n", 1))
    users = QuerySource(TableName("d", "users"), "MergeTree")
    verdict = answer(replace(asked, sources={**asked.sources, "d.users": users}), BucketFacts())
    assert verdict.refusal is None
    assert verdict.chance == chance


RECURSIVE = """\
UNION id: 0, is_recursive_cte: 1, union_mode: UNION_ALL
  QUERIES
    LIST id: 1, nodes: 2
      QUERY id: 2, is_subquery: 1
        PROJECTION COLUMNS
          n UInt32
        PROJECTION
          LIST id: 3, nodes: 1
            COLUMN id: 4, column_name: user, result_type: UInt32, source_id: 5
        JOIN TREE
          TABLE id: 5, alias: __table1, table_name: d.ev
      QUERY id: 6, is_subquery: 1
        PROJECTION COLUMNS
          n UInt32
        PROJECTION
          LIST id: 7, nodes: 1
            COLUMN id: 8, column_name: n, result_type: UInt32, source_id: 9
        JOIN TREE
          TABLE id: 9, alias: __table2, table_name: walk
"""


def test_a_walk_from_row_to_row_would_end_with_the_chunk() -> None:
    refused = answer(steps_case(RECURSIVE), BucketFacts()).refusal
    assert refused is not None
    assert refused.kind is Kind.STEP
    assert "a recursive WITH" in refused.message
    # As a mere UNION its second branch would be a table that is read whole.
    plain = answer(steps_case(RECURSIVE.replace("is_recursive_cte: 1, ", "")), BucketFacts()).refusal
    assert plain is not None
    assert plain.kind is Kind.READ


def doubled(levels: int) -> str:
    """A SELECT over subqueries, each of which uses the columns of the next one twice."""
    column = "{:>12}COLUMN id: 6, column_name: {}, result_type: UInt64, source_id: {}"
    call = "      FUNCTION id: 7, function_name: plus, function_type: ordinary, result_type: UInt64"
    lines = [f"QUERY id: {levels}", "  PROJECTION COLUMNS", "    day DateTime", "    n UInt64"]
    lines += ["  PROJECTION", "    LIST id: 8, nodes: 2"]
    for name, in_table in (("day", "ts"), ("n", "user")):
        shown = column.format("", name if levels > 1 else in_table, levels - 1 if levels > 1 else 1000)
        lines += [call, "        ARGUMENTS", "          LIST id: 9, nodes: 2", shown, shown]
    below = doubled(levels - 1) if levels > 1 else "TABLE id: 1000, alias: __table1, table_name: d.ev"
    return "\n".join([*lines, "  JOIN TREE", *(f"    {line}" for line in below.splitlines())])


@pytest.mark.parametrize("engine", ["MergeTree", "SummingMergeTree"])
def test_sixty_subqueries_that_use_a_column_twice(engine: str) -> None:
    """Written out, the columns would have 2^60 terms: a rule that looks at each term does not end."""
    one, sixty = (answer(replace(steps_case(doubled(levels)), target=target(engine)), CUT) for levels in (1, 60))
    assert [expression.sql for expression in one.labels["day"]] == ["plus(ts, ts)"]
    # An expression of that length is no question to a server.
    assert sixty == replace(one, labels={})


def by_condition(function: str) -> str:
    where = f"""\
  WHERE
    FUNCTION id: 20, function_name: {function}, function_type: ordinary, result_type: UInt8
      ARGUMENTS
        LIST id: 21, nodes: 2
          COLUMN id: 22, column_name: day, result_type: String, source_id: 5
          CONSTANT id: 23, constant_value: '01', constant_value_type: String
"""
    return COUNTS.replace("  GROUP BY\n", where + "  GROUP BY\n")


@pytest.mark.parametrize(
    ("function", "texts", "refused", "doubtful"),
    [
        ("equals", ("'01'", "'02'"), False, False),
        ("greaterOrEquals", ("'01'", "'02'"), False, True),
        # The first of two months: a day of the month comes again.
        ("equals", ("'01'", "'02'", "'01'"), True, False),
    ],
    ids=["a day each", "from a day on", "a day of the month"],
)
def test_a_condition_by_what_param_gives(function: str, texts: tuple[str, ...], refused: bool, doubtful: bool) -> None:
    verdict = answer(steps_case(by_condition(function), given={23: texts}), BucketFacts())
    assert (verdict.refusal is not None) is refused
    assert any("take each row for one chunk alone" in doubt for doubt in verdict.doubts) is doubtful


def test_a_read_is_told_by_what_limits_it() -> None:
    days: dict[int, tuple[str, ...]] = {23: ("'01'", "'02'")}
    asked = steps_case(by_condition("equals"), given=days)
    assert answer(asked, CUT).reads == (Read(EV, "as the SELECT limits it"),)
    assert answer(replace(asked, whole=frozenset({EV})), CUT).reads == (Read(EV, "whole, as --whole-table says"),)
    assert answer(steps_case(COUNTS), CUT).reads == (Read(EV, "limited to the chunk by ts"),)


@pytest.mark.parametrize("mode", ["EXCEPT_ALL", "INTERSECT_DISTINCT"])
def test_rows_may_be_taken_from_limited_ones_but_not_from_all(mode: str) -> None:
    """The right side may be read whole; of a left side that is, each chunk would give the rows again."""
    users = {"d.users": QuerySource(TableName("d", "users"), "MergeTree")}
    text = RECURSIVE.replace("is_recursive_cte: 1, union_mode: UNION_ALL", f"union_mode: {mode}")
    for first, second, refused in (("ev", "users", False), ("users", "ev", True)):
        tree = text.replace("d.ev", f"d.{first}").replace("name: walk", f"name: d.{second}")
        asked = steps_case(tree)
        asked = replace(asked, sources={**asked.sources, **users}, columns=("n",), target=target("ReplacingMergeTree"))
        refusal = answer(replace(asked, accept_groups=True), BucketFacts()).refusal
        assert (refusal is not None and refusal.kind is Kind.READ) is refused


@pytest.mark.parametrize(("texts", "refused"), [(("'a'", "'b'"), False), (("'a'", "'b'", "'a'"), True)])
def test_a_path_by_what_param_gives(texts: tuple[str, ...], refused: bool) -> None:
    path = """\
    TABLE_FUNCTION id: 5, alias: __table1, table_function_name: file
      ARGUMENTS
        LIST id: 30, nodes: 1
          CONSTANT id: 31, constant_value: 'a', constant_value_type: String"""
    tree = COUNTS.replace("    TABLE id: 5, alias: __table1, table_name: d.ev", path)
    verdict = answer(steps_case(tree, given={31: texts}), BucketFacts())
    assert (verdict.refusal is not None) is refused


def test_a_view_is_what_its_select_is() -> None:
    """Its reads are those of the tables below it, each limited as if the SELECT named the table."""
    seen = TableName("d", "seen")
    rows = """\
QUERY id: 0
  PROJECTION COLUMNS
    ts DateTime('UTC')
    user UInt32
  PROJECTION
    LIST id: 1, nodes: 2
      COLUMN id: 2, column_name: ts, result_type: DateTime('UTC'), source_id: 4
      COLUMN id: 3, column_name: user, result_type: UInt32, source_id: 4
  JOIN TREE
    TABLE id: 4, alias: __table1, table_name: d.ev
"""
    asked = steps_case(COUNTS.replace("table_name: d.ev", "table_name: d.seen"))
    view = QuerySource(seen, "View", parse_tree(rows.splitlines()))
    verdict = answer(replace(asked, sources={**asked.sources, "d.seen": view}), CUT)
    assert verdict == answer(steps_case(COUNTS), CUT)
    assert [read.table for read in verdict.reads] == [EV]


CALENDAR = TableName("d", "calendar")
OF_CALENDAR = Value("column", "day", "Date", source="9", table=CALENDAR)


@pytest.mark.parametrize(
    ("value", "changes", "pairs", "refused"),
    [
        (OF_CALENDAR, {}, [], True),
        (OF_CALENDAR, {"whole": frozenset({CALENDAR})}, [], False),
        (OF_CALENDAR, {"sources": {"d.calendar": QuerySource(CALENDAR, "View", opaque=True)}}, [], False),
        (OF_CALENDAR, {}, [(OF_CALENDAR, call("toDate", "Date", TS))], False),
        (OF_CALENDAR, {}, [(OF_CALENDAR, Value("column", "user", "UInt32", source="5", table=EV))], True),
        (call("greatest", "Date", OF_CALENDAR, TS), {}, [], False),
        (call("greatest", "Date", OF_CALENDAR, Value("column", "d", table=DST)), {}, [], True),
        (call("greatest", "Date", OF_CALENDAR, Value("column", "d", table=DST)), {"whole": frozenset({DST})}, [], True),
        (OF_CALENDAR, {"target_time": "n"}, [], False),
        (OF_CALENDAR, {"columns": ("n",)}, [], False),
        (TWO, {}, [], False),
    ],
    ids=[
        "another table",
        "a table meant whole",
        "a table that may hide the source",
        "joined by the time",
        "joined by a user",
        "made of both",
        "two other tables",
        "two other tables, one meant whole",
        "no time",
        "not given",
        "a constant",
    ],
)
def test_the_targets_time_comes_from_the_limited_table(
    value: Value, changes: dict[str, Any], pairs: list[tuple[Value, Value]], refused: bool
) -> None:
    """A window on users whose rows are labelled by the time of events would give each event in one chunk or in none."""
    asked = replace(steps_case(COUNTS), **{"target_time": "day", **changes})
    walk = Walk(asked, {})
    walk.pairs.extend(pairs)
    with pytest.raises(RefusedError) if refused else nullcontext() as error:
        check_label(asked, walk, Rows(Shape.PARTS, {"day": value}))
    if error is not None:
        assert error.value.refusal.kind is Kind.READ
        assert f"--filter-table {CALENDAR}" in error.value.refusal.remedy.render()


USING = """\
JOIN id: 5, strictness: ALL, kind: KIND
  LEFT TABLE EXPRESSION
    TABLE id: 6, alias: __table1, table_name: d.users
  RIGHT TABLE EXPRESSION
    TABLE id: 3, alias: __table2, table_name: d.names
  JOIN EXPRESSION
    LIST id: 7, nodes: 1
      COLUMN id: 8, column_name: user, result_type: UInt32, source_id: 5
        EXPRESSION
          LIST id: 9, nodes: 2
            COLUMN id: 10, column_name: user, result_type: UInt32, source_id: 6
            COLUMN id: 11, column_name: user, result_type: UInt32, source_id: 3
"""


@pytest.mark.parametrize(("kind", "of"), [("INNER", "users"), ("LEFT", "users"), ("RIGHT", "names"), ("FULL", "")])
def test_a_column_of_using_is_that_of_the_side_which_is_never_filled_up(kind: str, of: str) -> None:
    tables = {f"d.{name}": QuerySource(TableName("d", name), "MergeTree") for name in ("users", "names")}
    walk = Walk(replace(steps_case(COUNTS), sources=tables), {})
    user = walk.relation(parse_tree(USING.replace("KIND", kind).splitlines()), "").columns["user"]
    assert user.table == (TableName("d", of) if of else None)
    assert user.what == ("column" if of else "opaque")
