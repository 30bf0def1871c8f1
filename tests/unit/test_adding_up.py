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

from airflow_provider_backfill.core.adding_up.case import BucketFacts, Question, Verdict
from airflow_provider_backfill.core.adding_up.judge import judge, keys_to_keep_whole
from airflow_provider_backfill.core.adding_up.placed import (
    Told,
    constants_of,
    given_constants,
    may_share_rows,
    sampled_chunks,
    tells_chunks,
)
from airflow_provider_backfill.core.facts import TableFacts
from airflow_provider_backfill.core.query_tree import Node, parse_tree
from airflow_provider_backfill.core.sampling import pick_slices
from tests.adding_up_cases import CUT, EV, TREE, answer, case, target
from tests.adding_up_record import FILE, expected, read_case


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


def test_a_value_that_samples_may_miss_is_a_doubt() -> None:
    """Instants 15 minutes apart show the values of a calendar, but not those of a hash."""
    asked = case("uniq", target("MergeTree"))
    hashed = replace(asked, tree=parse_tree(TREE.replace("toDate", "cityHash64").splitlines()))
    assert answer(asked, BucketFacts()).doubts == ()
    assert "share a value of cityHash64(ts)" in answer(hashed, BucketFacts()).doubts[0]


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


def test_trees_that_differ_otherwise_have_no_constants_to_compare() -> None:
    trees = [parse_tree(TREE.replace("FUNCTION_NAME", name).splitlines()) for name in ("sum", "max")]
    assert given_constants(trees) == {}


def test_constants_of_a_path_are_its_own() -> None:
    """Those of a query in an argument are the query's."""
    inner = Node("QUERY", 4, sections={"WHERE": (Node("CONSTANT", 5),)})
    path = Node("FUNCTION", 1, sections={"ARGUMENTS": (Node("CONSTANT", 2), Node("CONSTANT", 3), inner)})
    assert sorted(constants_of([path])) == [2, 3]


@pytest.mark.parametrize(
    ("one", "other", "may"),
    [
        ([Told("", ("a", "b"))], [Told("", ("a", "b"))], False),
        ([Told("file", ("a", "b"))], [Told("file", ("c", "d"))], False),
        ([Told("file", ("a", "b"))], [Told("file", ("b", "c"))], True),
        ([Told("file", ("a", "b"))], [Told("", ("c", "d"))], True),
        ([Told("", ("a", "b"))], [Told("", ("b", "c"))], True),
        ([Told("", ("a", "b")), Told("", ("5", "6"))], [Told("", ("a", "b"))], False),
        ([Told("", ("a", "b")), Told("", ("5", "6"))], [Told("", ("b", "c")), Told("", ("5", "6"))], True),
    ],
    ids=[
        "the same rows",
        "other files",
        "the next chunk's file",
        "a file and a table",
        "a look-back",
        "one more condition",
        "a look-back of a day, by day and hour",
    ],
)
def test_two_reads_that_may_take_one_row_for_two_chunks(one: list[Told], other: list[Told], may: bool) -> None:
    assert may_share_rows(one, other) is may
