"""Find the row policies that hide rows from this user, in the server's plan of a SELECT."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..core.sql import quote_table
from ..core.tables import TableName
from .client import ClickHouse

# A literal with its type in the conditions of a query plan, such as 1_UInt8 or 'a'_String.
_LITERAL_TYPE = re.compile(r"(\b\d{1,80}(?:\.\d{1,80})?|'(?:[^'\\]|\\.){0,400}')_[A-Z]\w{0,80}(?:\([^()]{0,400}\))?")


def plan_nodes(server: ClickHouse, select: str) -> Iterator[Mapping[str, Any]]:
    """Yield the steps of the server's plan of a SELECT."""
    answer = server.rows(f"SELECT explain FROM (EXPLAIN json = 1, actions = 1\n{select}\n)")
    for root in json.loads("\n".join(line for (line,) in answer)):
        yield from below(root["Plan"])


def below(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a step of a plan, and the steps that it reads from."""
    yield node
    for child in node.get("Plans", ()):
        yield from below(child)


def row_filters(server: ClickHouse, table: TableName) -> tuple[str, ...]:
    """Return the conditions of row policies that hide rows of a table from this user, as the query plan shows them."""
    found = []
    for node in plan_nodes(server, f"SELECT * FROM {quote_table(table)}"):
        condition = node.get("Prewhere info", {}).get("Row level filter", {}).get("Row level filter column")
        if condition is None and "ow-level security" in str(node.get("Description", "")):
            condition = node.get("Filter Column")
        if condition is not None:
            found.append(_LITERAL_TYPE.sub(r"\1", str(condition)))
    return tuple(dict.fromkeys(found))
