"""Cases for the rules for adding up: one SELECT, targets, and values of which groups are made."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow_provider_backfill.core.adding_up.case import BucketFacts, Case, Question, Verdict
from airflow_provider_backfill.core.adding_up.judge import judge
from airflow_provider_backfill.core.adding_up.lineage import Value
from airflow_provider_backfill.core.facts import Column, QuerySource, TableFacts
from airflow_provider_backfill.core.query_tree import parse_tree
from airflow_provider_backfill.core.tables import TableName

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


def part(name: str, kind: str = "UInt64", *args: Value) -> Value:
    return Value("aggregate", name, kind, args)


def call(name: str, kind: str, *args: Value) -> Value:
    return Value("call", name, kind, args)


TWO, ZERO = (Value("constant", text, "UInt8", literal=text) for text in "20")
SUM_STATE = "AggregateFunction(sum, UInt64)"
