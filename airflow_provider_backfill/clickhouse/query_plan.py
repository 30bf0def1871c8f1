"""
What a query plan shows: whether the time filter reaches every read, and what looks at rows together.

``EXPLAIN`` is asked of the server that will run the statement, so joins, unions, subqueries,
views and projections are seen as that server sees them.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import takewhile
from typing import Any, NamedTuple

from ..core.facts import GroupingStep, ScanFacts, TableName, TimeKind
from ..core.sql import filter_setting, quote, time_filter
from ..errors import StatementRefusedError
from .client import ClickHouse

_SETTINGS = {
    # Without these the plan hides reads: sets are built and counts are answered while it is made.
    "use_index_for_in_with_subqueries": 0,
    "optimize_use_implicit_projections": 0,
    "optimize_use_projections": 0,
    "optimize_trivial_count_query": 0,
}
# One row in, at most one row out, whatever else the query reads.
_ROW_WISE_NODES = frozenset({"Expression", "Filter", "Union", "ArrayJoin", "SettingQuotaAndLimits", "DelayedPorts"})
# How a plan as text names the steps that look at several rows.
_STEPS_OVER_ROWS = frozenset(
    {"Aggregating", "MergingAggregated", "Distinct", "LimitBy", "Limit", "Window", "Join", "JoinLogical", "FilledJoin"}
)
_GROUPS = {
    "Aggregating": ("GROUP BY", "Keys"),
    "Distinct": ("DISTINCT", "Columns"),
    "LimitBy": ("LIMIT BY", "Columns"),
    "Limit": ("LIMIT", ""),
    "Window": ("a window function", "Partition By"),
}
_ADDITIVE = re.compile(r"(?:count|sum\w*)(?:If)?|\w+State|\w+SimpleState|\w+StateIf|\w+IfState")
_TABLE_ALIAS = re.compile(r"\b__table\d+\.")
_LITERAL_TYPE = re.compile(
    r"(\b\d{1,80}(?:\.\d{1,80})?|'(?:[^'\\]|\\.){0,400}')_[A-Z]\w{0,80}(?:\((?:[^()]|\([^()]{0,80}\)){0,400}\))?"
)


class _Node(NamedTuple):
    """A node of a plan, the nodes above it, and whether the filter stands at it or directly above it."""

    node: Mapping[str, Any]
    above: tuple[Mapping[str, Any], ...]
    filtered: bool


def scan_facts(
    server: ClickHouse, select: str, source: TableName, column: str, kind: TimeKind, start: datetime, end: datetime
) -> ScanFacts:
    """
    How the server would read *source* for *select* when it is limited to ``[start, end)``.

    Raises:
        ServerError: The server does not accept the SELECT with the filter.
    """
    settings = {**_SETTINGS, **filter_setting(source, time_filter(column, kind, start, end))}
    answer = server.rows(f"SELECT explain FROM (EXPLAIN indexes = 1, json = 1, actions = 1\n{select}\n)", settings)
    plan = json.loads("\n".join(line for (line,) in answer))
    nodes = [entry for root in plan for entry in _walk(root["Plan"], (), False, column)]
    leaves = [entry for entry in nodes if not entry.node.get("Plans")]
    named = [entry for entry in leaves if entry.node.get("Description") == str(source)]
    # A view, a Distributed or a Memory table does not show its name at the leaf: there, any filtered scan counts.
    reads = named or [entry for entry in leaves if entry.filtered]
    elsewhere: list[_RemoteRead] = []
    if not named and any(entry.node["Node Type"] == "ReadFromRemote" for entry in leaves):
        elsewhere = list(_remote_reads(server, select, settings, column))
        # A read of another table on another server is told from one of the source by the filter alone.
        elsewhere = [read for read in elsewhere if read.filtered] or ([] if reads else elsewhere)
    return ScanFacts(
        reads=len(reads) + len(elsewhere),
        filtered=sum(entry.filtered for entry in reads) + sum(read.filtered for read in elsewhere),
        pruned=bool(named)
        and all(
            any(column in key for index in entry.node.get("Indexes", ()) for key in index.get("Keys", ()))
            for entry in named
        ),
        row_wise=_is_row_wise(nodes) and all(read.row_wise for read in elsewhere),
        groups=tuple(dict.fromkeys(_groups(reads))),
    )


def tables_read(server: ClickHouse, select: str, parameters: Mapping[str, str]) -> list[TableName]:
    """The tables that a SELECT reads on the server that is asked, also through views; empty when it cannot say."""
    try:
        answer = server.rows(f"SELECT explain FROM (EXPLAIN json = 1\n{select}\n)", {**_SETTINGS, **parameters})
    except StatementRefusedError:
        return []
    plan = json.loads("\n".join(line for (line,) in answer))
    leaves = [
        entry.node for root in plan for entry in _walk(root["Plan"], (), False, "") if not entry.node.get("Plans")
    ]
    names = (str(node.get("Description", "")).split(".", 1) for node in leaves)
    return [TableName(*name) for name in names if len(name) == 2]


class _RemoteRead(NamedTuple):
    """What another server does for a SELECT, as its own plan says."""

    filtered: bool
    row_wise: bool


def _remote_reads(server: ClickHouse, select: str, settings: Mapping[str, Any], column: str) -> Iterator[_RemoteRead]:
    """The plans of the other servers that a SELECT reads from, which the JSON of this one does not show."""
    question = f"SELECT explain FROM (EXPLAIN indexes = 1, actions = 1, distributed = 1\n{select}\n)"
    lines = [str(line) for (line,) in server.rows(question, settings)]
    for place, line in enumerate(lines):
        depth = len(line) - len(line.lstrip())
        if not line.lstrip().startswith("ReadFromRemote"):
            continue
        below = list(takewhile(lambda one, depth=depth: len(one) - len(one.lstrip()) > depth, lines[place + 1 :]))  # type: ignore[misc]
        text = "\n".join(below)
        words = {one.split()[0] for one in below if one.split()}
        yield _RemoteRead(
            filtered="dditional filter" in text
            or any(f"greaterOrEquals({name}, " in text or f"{name} >= " in text for name in (column, quote(column))),
            row_wise=bool(below) and not words & _STEPS_OVER_ROWS,
        )


def unfiltered_scan(server: ClickHouse, select: str, parameters: Mapping[str, str]) -> ScanFacts:
    """
    How the server would read what a SELECT names when the SELECT limits itself, by its query parameters.

    Raises:
        ServerError: The server does not accept the SELECT.
    """
    answer = server.rows(f"SELECT explain FROM (EXPLAIN json = 1\n{select}\n)", {**_SETTINGS, **parameters})
    plan = json.loads("\n".join(line for (line,) in answer))
    nodes = [entry for root in plan for entry in _walk(root["Plan"], (), False, "")]
    leaves = [entry for entry in nodes if not entry.node.get("Plans")]
    remote = any(entry.node["Node Type"] == "ReadFromRemote" for entry in leaves)
    # What another server does with the rows is not in this plan.
    return ScanFacts(len(leaves), len(leaves), False, not remote and _is_row_wise(nodes))


def _is_row_wise(nodes: Sequence[_Node]) -> bool:
    return all(
        entry.node["Node Type"] in _ROW_WISE_NODES or entry.node["Node Type"].startswith("ReadFrom") for entry in nodes
    )


def _walk(
    node: Mapping[str, Any], above: tuple[Mapping[str, Any], ...], filtered: bool, column: str
) -> Iterator[_Node]:
    children = node.get("Plans", [])
    text = json.dumps({key: value for key, value in node.items() if key != "Plans"})
    here = "dditional filter" in str(node.get("Description", "")) or any(
        f"greaterOrEquals({name}, " in text for name in (column, quote(column))
    )
    # A filter above a join or a union filters their result, not one scan.
    filtered = here or (filtered and len(children) <= 1)
    yield _Node(node, above, filtered)
    for child in children:
        yield from _walk(child, (*above, node), filtered, column)


def _groups(reads: list[_Node]) -> Iterator[GroupingStep]:
    for entry in reads:
        for place, node in enumerate(entry.above):
            found = _GROUPS.get(node["Node Type"])
            if found is None:
                continue
            what, field = found
            functions = [str(call.get("Function", {}).get("Name", "")) for call in node.get("Aggregates", [])]
            below = entry.above[place + 1 :]
            yield GroupingStep(
                what,
                tuple(_as_sql(key, below) for key in node.get(field, [])),
                what == "GROUP BY" and all(_ADDITIVE.fullmatch(name) for name in functions),
            )


def _as_sql(key: str, below: Sequence[Mapping[str, Any]]) -> str:
    """An expression of a query plan as SQL over the source's columns, the aliases of subqueries resolved."""
    for node in below:
        for alias, meaning in _aliases(node).items():
            key = re.sub(rf"(?<![\w.]){re.escape(alias)}(?!\w)", lambda _, meaning=meaning: meaning, key)  # type: ignore[misc]
    return _LITERAL_TYPE.sub(r"\1", _TABLE_ALIAS.sub("", key))


def _aliases(node: Mapping[str, Any]) -> dict[str, str]:
    """What each ``__tableN.name`` that a node computes stands for."""
    slots: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for action in node.get("Expression", {}).get("Actions", []):
        name = action["Result Name"]
        if action["Node Type"] == "ALIAS":
            meaning = slots.get(action["Arguments"][0], name)
            meaning = aliases.get(meaning, meaning)
            if _TABLE_ALIAS.match(name):
                aliases[name] = meaning
            # The slot holds the value; the name by which it entered the node says more than its alias.
            name = meaning
        slots[action["Result"]] = name
    return aliases
