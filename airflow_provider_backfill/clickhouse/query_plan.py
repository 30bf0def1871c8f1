"""
Find the reads in the server's plan of a SELECT, and which of these reads the time filter reaches.

``EXPLAIN`` runs on the server that will run the statement. So joins, unions, subqueries, views and projections appear
as that server plans them.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import takewhile
from typing import Any, NamedTuple

from ..core.facts import ScanFacts
from ..core.names import is_expression, quote
from ..core.plan import FilteredTable
from ..core.sql import filter_setting
from ..core.tables import TableName
from ..errors import StatementRefusedError
from .client import ClickHouse

_SETTINGS = {
    # By default, ClickHouse may build sets and answer counts while it plans, and the plan then omits these reads.
    "use_index_for_in_with_subqueries": 0,
    "optimize_use_implicit_projections": 0,
    "optimize_use_projections": 0,
    "optimize_trivial_count_query": 0,
    # EXPLAIN reads no rows. A limit in the user's profile applies to a chunk, not to a window of many chunks.
    "read_overflow_mode": "break",
}
# Steps of a JSON plan whose output rows each depend on one input row.
_ROW_WISE_NODES = frozenset({"Expression", "Filter", "Union", "ArrayJoin", "SettingQuotaAndLimits", "DelayedPorts"})
# Steps whose output depends on several input rows, by their names in a plan as text.
_STEPS_OVER_ROWS = frozenset(
    {"Aggregating", "MergingAggregated", "Distinct", "LimitBy", "Limit", "Window", "Join", "JoinLogical", "FilledJoin"}
)


# The names of other database systems, by the name of the step that reads from the system. ClickHouse sends the
# conditions in the SELECT to such a system, but not the additional filter.
_OTHER_DATABASES = {"ReadFromMySQL": "MySQL", "ReadFromPostgreSQL": "PostgreSQL"}


class _Node(NamedTuple):
    """
    A node of a query plan.

    Attributes:
        node: The node as in the JSON plan, with its children.
        filtered: Whether the time filter is at this node, or at an ancestor without a join or union in between.
    """

    node: Mapping[str, Any]
    filtered: bool


def scan_facts(
    server: ClickHouse,
    select: str,
    filters: Sequence[FilteredTable],
    start: datetime,
    end: datetime,
    given: Mapping[str, str],
) -> ScanFacts:
    """
    Return how the server would read the filtered tables for *select*, limited to ``[start, end)``.

    Args:
        given: Further settings of the statement.

    Returns:
        The facts without query tree, sources and time columns. No read counts as filtered if the filter misses one of
        the tables.

    Raises:
        ServerError: The server does not accept the SELECT with the filter, or could not be reached.
    """
    settings = {**given, **_SETTINGS, **filter_setting(filters, [(start, end)])}
    answer = server.rows(f"SELECT explain FROM (EXPLAIN indexes = 1, json = 1, actions = 1\n{select}\n)", settings)
    plan = json.loads("\n".join(line for (line,) in answer))
    columns = {one.column for one in filters}
    nodes = [entry for root in plan for entry in _walk(root["Plan"], False, columns)]
    leaves = [entry for entry in nodes if not entry.node.get("Plans")]
    reads: list[_Node] = []
    elsewhere: list[_RemoteRead] = []
    pruned, everywhere = True, True
    for one in filters:
        named = [entry for entry in leaves if entry.node.get("Description") == str(one.table)]
        # Views, Distributed and Memory tables do not show their name at the leaf. For such a table, every
        # filtered leaf counts as a read of the table.
        found = named or [entry for entry in leaves if entry.filtered]
        remote: list[_RemoteRead] = []
        if not named and any(entry.node["Node Type"] == "ReadFromRemote" for entry in leaves):
            remote = list(_remote_reads(server, select, settings, {one.column}))
            # On other servers, only the filter distinguishes a read of this table from reads of other tables. If no
            # remote read is filtered and no local read was found, every remote read counts as a read of this table.
            remote = [read for read in remote if read.filtered] or ([] if found else remote)
        reads += found
        elsewhere += remote
        everywhere = everywhere and (any(e.filtered for e in found) or any(r.filtered for r in remote))
        pruned = pruned and bool(named) and all(_uses_index(entry, one.column) for entry in named)
    return ScanFacts(
        reads=len(reads) + len(elsewhere),
        filtered=sum(e.filtered for e in reads) + sum(r.filtered for r in elsewhere) if everywhere else 0,
        pruned=pruned,
        row_wise=_is_row_wise(nodes) and all(read.row_wise for read in elsewhere),
        tables=frozenset(str(entry.node.get("Description", "")) for entry in leaves),
        unsent=" and ".join(sorted({_OTHER_DATABASES.get(entry.node["Node Type"], "") for entry in reads} - {""})),
    )


def tables_read(server: ClickHouse, select: str, parameters: Mapping[str, str]) -> list[TableName]:
    """
    Return the tables that a SELECT reads on the connected server, also through views.

    A table that is read several times appears several times. Tables that the query plan does not name, such as Memory
    tables, are omitted. Return an empty list if the server refuses to explain the SELECT.
    """
    try:
        answer = server.rows(f"SELECT explain FROM (EXPLAIN json = 1\n{select}\n)", {**_SETTINGS, **parameters})
    except StatementRefusedError:
        return []
    plan = json.loads("\n".join(line for (line,) in answer))
    leaves = [entry.node for root in plan for entry in _walk(root["Plan"], False, ()) if not entry.node.get("Plans")]
    names = (str(node.get("Description", "")).split(".", 1) for node in leaves)
    return [TableName(*name) for name in names if len(name) == 2]


class _RemoteRead(NamedTuple):
    """
    A read that another server runs for a SELECT, according to that server's query plan.

    Attributes:
        filtered: Whether the other server's plan has the time filter.
        row_wise: Whether no step of the other server's plan combines several rows; False if the plan is unknown.
    """

    filtered: bool
    row_wise: bool


def _remote_reads(
    server: ClickHouse, select: str, settings: Mapping[str, Any], columns: Collection[str]
) -> Iterator[_RemoteRead]:
    """
    Yield the reads that other servers run for a SELECT.

    The JSON plan of this server does not contain the other servers' plans, so read the plan as text.

    Args:
        columns: The time columns. A read counts as filtered if the other server's plan has the additional filter, or a
            lower limit for one of these columns.
    """
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
            or any(
                f"greaterOrEquals({name}, " in text or f"{name} >= " in text
                for column in columns
                for name in (column, quote(column))
            ),
            row_wise=bool(below) and not words & _STEPS_OVER_ROWS,
        )


def unfiltered_scan(server: ClickHouse, select: str, parameters: Mapping[str, str]) -> ScanFacts:
    """
    Return how the server would read the sources of a SELECT that limits itself by query parameters.

    Every read counts as filtered, and none as pruned by an index.

    Raises:
        ServerError: The server does not accept the SELECT, or could not be reached.
    """
    answer = server.rows(f"SELECT explain FROM (EXPLAIN json = 1\n{select}\n)", {**_SETTINGS, **parameters})
    plan = json.loads("\n".join(line for (line,) in answer))
    nodes = [entry for root in plan for entry in _walk(root["Plan"], False, ())]
    leaves = [entry for entry in nodes if not entry.node.get("Plans")]
    remote = any(entry.node["Node Type"] == "ReadFromRemote" for entry in leaves)
    # This plan does not show how other servers process the rows, so a SELECT with a remote read is not row-wise.
    return ScanFacts(len(leaves), len(leaves), False, not remote and _is_row_wise(nodes))


def _is_row_wise(nodes: Sequence[_Node]) -> bool:
    return all(
        entry.node["Node Type"] in _ROW_WISE_NODES or entry.node["Node Type"].startswith("ReadFrom") for entry in nodes
    )


def _uses_index(entry: _Node, column: str) -> bool:
    # A key of the index may be the column or a function of the column. If the time is an expression, a key may also be
    # a part of the expression.
    keys = (key for index in entry.node.get("Indexes", ()) for key in index.get("Keys", ()))
    return any(column in key or (is_expression(column) and (key in column or column[1:-1] in key)) for key in keys)


def _walk(node: Mapping[str, Any], filtered: bool, columns: Collection[str]) -> Iterator[_Node]:
    children = node.get("Plans", [])
    text = json.dumps({key: value for key, value in node.items() if key != "Plans"})
    here = "dditional filter" in str(node.get("Description", "")) or any(
        f"greaterOrEquals({name}, " in text for column in columns for name in (column, quote(column))
    )
    # A filter above a join or a union filters the result, not one scan.
    filtered = here or (filtered and len(children) <= 1)
    yield _Node(node, filtered)
    for child in children:
        yield from _walk(child, filtered, columns)
