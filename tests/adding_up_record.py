"""
Record the questions to the rules for adding up on a real server, and the verdicts, for the unit tier.

    pytest -n 0 -p tests.adding_up_record -m 'long or not long' -k 'test_adding_up or day_at_a_time or look_back or
        table_function' tests/clickhouse/test_adding_up.py tests/clickhouse/test_placed_by_user.py

writes tests/unit/data/adding_up.json. The query trees are there as the server shows them, so that the rules are tried
on them in microseconds; the tests on the server show that the verdicts are right.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from airflow_provider_backfill.clickhouse import query_tree
from airflow_provider_backfill.commands import adding_up
from airflow_provider_backfill.core.adding_up.case import (
    BucketFacts,
    BucketKey,
    Case,
    Question,
    TimeExpression,
    Verdict,
)
from airflow_provider_backfill.core.adding_up.judge import judge, keys_to_keep_whole, merges_any_parts
from airflow_provider_backfill.core.facts import QuerySource, TableFacts
from airflow_provider_backfill.core.query_tree import Node, parse_tree
from airflow_provider_backfill.core.tables import TableName

FILE = Path(__file__).parent / "unit" / "data" / "adding_up.json"
_FACTS = TypeAdapter(TableFacts)
_Answers = Mapping[BucketKey, BucketFacts]


def expected(case: Case, answers: _Answers) -> dict[str, Any]:
    """What the rules decide; not the words in which they say it."""
    verdict = judge(case, answers)
    if isinstance(verdict, Question):
        return {"asks": [expression.sql for expression in verdict.key]}
    return {
        **_decided(verdict),
        "keeps": [[expression.sql for expression in key] for key in keys_to_keep_whole(case)],
        "any parts": merges_any_parts(case),
    }


def _decided(verdict: Verdict) -> dict[str, Any]:
    return {
        "refusal": verdict.refusal.kind if verdict.refusal else "",
        "steps": len(verdict.steps),
        "doubts": len(verdict.doubts),
        "waived": len(verdict.waived),
        "reads": [str(read.table) for read in verdict.reads],
        "row_wise": verdict.row_wise,
        "labels": {name: [expression.sql for expression in key] for name, key in verdict.labels.items()},
        "unstable": list(verdict.unstable),
        "unordered": list(verdict.unordered),
        "chance": list(verdict.chance),
    }


def read_case(record: Mapping[str, Any]) -> tuple[Case, dict[BucketKey, BucketFacts]]:
    """Return a recorded case, and the answers that the server gave about its keys."""
    answers = {
        tuple(TimeExpression(TableName(*table), sql) for table, sql in entry["key"]): BucketFacts(
            datetime.fromisoformat(entry["cut"]) if entry["cut"] else None, entry["again"], usable=entry["usable"]
        )
        for entry in record["answers"]
    }
    sources = {
        shown: QuerySource(
            TableName(*source["name"]),
            source["engine"],
            parse_tree(source["tree"]) if source["tree"] else None,
            source["opaque"],
            source["holds_target"],
        )
        for shown, source in record["sources"].items()
    }
    case = Case(
        record["name"],
        parse_tree(record["tree"]),
        sources,
        {TableName(*table): column for table, column in record["filters"]},
        _FACTS.validate_python(record["target"]),
        tuple(record["columns"]),
        record["target_time"],
        frozenset(TableName(*table) for table in record["whole"]),
        record["accept_groups"],
        record["one_chunk"],
        {int(number): tuple(values) for number, values in record["given"].items()},
    )
    return case, answers


class _Recorder:
    def __init__(self) -> None:
        self.test = ""
        self._lines: dict[int, tuple[Node, list[str]]] = {}
        self._records: dict[str, dict[str, Any]] = {}

    def parse(self, lines: Iterable[str]) -> Node:
        kept = list(lines)
        node = parse_tree(kept)
        # The node is kept as well, so that no other one gets its id.
        self._lines[id(node)] = node, kept
        return node

    def judge(self, case: Case, answers: _Answers) -> Verdict | Question:
        answer = judge(case, answers)
        if not isinstance(answer, Question):
            self._keep(case, answers)
        return answer

    def _tree(self, node: Node) -> list[str]:
        return self._lines[id(node)][1]

    def _keep(self, case: Case, answers: _Answers) -> None:
        record = {
            "name": case.name,
            "tree": self._tree(case.tree),
            "sources": {
                shown: {
                    "name": source.name,
                    "engine": source.engine,
                    "tree": self._tree(source.tree) if source.tree else None,
                    "opaque": source.opaque,
                    "holds_target": source.holds_target,
                }
                for shown, source in case.sources.items()
            },
            "filters": list(case.filters.items()),
            "whole": sorted(case.whole),
            "target": _FACTS.dump_python(case.target, mode="json", exclude_defaults=True),
            "columns": case.columns,
            "target_time": case.target_time,
            "accept_groups": case.accept_groups,
            "one_chunk": case.one_chunk,
            "given": case.given,
            "answers": [
                {
                    "key": [[expression.table, expression.sql] for expression in key],
                    "cut": facts.cut and facts.cut.isoformat(),
                    "again": facts.again,
                    "usable": facts.usable,
                }
                for key, facts in answers.items()
            ],
            "expected": expected(case, answers),
        }
        # Each test has a separate database; equal queries are kept one time.
        text = json.dumps(record).replace(case.target.name.database, "shop")
        self._records.setdefault(text, {"test": self.test})

    def write(self) -> None:
        """Write one record a line."""
        lines = [json.dumps(about | json.loads(text)) for text, about in self._records.items()]
        FILE.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


_recorder = _Recorder()


def pytest_configure() -> None:
    """Listen in where the server's trees come in and where the rules are asked."""
    patch = pytest.MonkeyPatch()
    patch.setattr(query_tree, "parse_tree", _recorder.parse)
    patch.setattr(adding_up, "judge", _recorder.judge)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Remember which test is running."""
    _recorder.test = item.name


def pytest_sessionfinish() -> None:
    """Write the record."""
    _recorder.write()
