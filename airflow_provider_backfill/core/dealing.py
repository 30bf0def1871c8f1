"""
Divide rows among the shards of a cluster where each shard reads the same source.

Every shard runs the whole SELECT and keeps the rows of its own slots. The values of a row decide its slot, and each
slot belongs to one shard, so each row is kept exactly once. This module is pure.
"""

import re
from collections.abc import Collection, Sequence

from .adding_up.lineage import UNSTABLE
from .column_types import is_comparable, unwrap_type
from .facts import Column
from .query_tree import Node

_INTEGER = re.compile(r"U?Int(8|16|32|64)")
# A pattern for the names of float types. The last digits of a sum of floats depend on the order of addition, so two
# shards may compute different hashes for the same row.
_FLOAT = re.compile(r"Float\d+|BFloat16")
_CLOCK = re.compile(r"now.*|today|yesterday|cur.*|utc_?timestamp", re.IGNORECASE)
_CONDITIONS = ("WHERE", "PREWHERE", "HAVING", "QUALIFY")
_CHOICES = ("LIMIT", "OFFSET", "LIMIT BY")


def as_number(key: str, kind: str) -> str | None:
    """
    Return SQL for the number by which a Distributed table chooses the shard of a row.

    A Distributed table reads a negative key as an unsigned number of the same width.

    Args:
        key: SQL of the sharding key.
        kind: The type of the sharding key.

    Returns:
        The SQL; None if the type is Nullable, or is not an integer type of at most 64 bits.
    """
    match = _INTEGER.fullmatch(unwrap_type(kind)) if "Nullable" not in kind else None
    return f"toUInt{match[1]}({key})" if match else None


def is_float(kind: str) -> bool:
    """Return whether values of a type are or contain floats."""
    return bool(_FLOAT.search(kind))


def hashed_columns(columns: Sequence[Column], filled: Collection[str], *, has_key: bool) -> tuple[str, ...]:
    """
    Return the names of the columns whose hash decides a row's shard; empty if there are none.

    A column is suitable if it is among *filled*, and its values can be sorted and contain no floats. If the target has
    a key, only the suitable columns of its sorting and partition keys are returned, so that rows that merge share a
    shard. Otherwise, all suitable columns are returned.

    Args:
        columns: The columns of the target.
        filled: The names of the columns that the statements fill.
        has_key: Whether the target has a sorting key.
    """
    usable = [c for c in columns if c.name in filled and is_comparable(c.type) and not is_float(c.type)]
    return tuple(c.name for c in usable if c.in_key or not has_key)


def chance(tree: Node) -> str:
    """
    Return the first part of a query tree that may choose different rows in each execution; empty if there is none.

    Such a part is a window function, a LIMIT, OFFSET or LIMIT BY clause, or an unstable function in a condition such as
    WHERE. Functions that return the current time or date are not reported.

    Returns:
        Words for a message, such as ``LIMIT BY`` or ``rand in WHERE``.
    """
    for node in tree.walk():
        if node.kind == "FUNCTION" and node.fields.get("kind") == "window":
            return f"the window function {node.name}"
        for title in _CHOICES:
            if node.sections.get(title):
                return title
        for title in _CONDITIONS:
            for below in node.sections.get(title, ()):
                for one in below.walk():
                    if one.kind == "FUNCTION" and UNSTABLE.fullmatch(one.name) and not _CLOCK.fullmatch(one.name):
                        return f"{one.name} in {title}"
    return ""
