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
# The names of float types. The last digits of a sum of floats, and so a hash of the sum, depend on the floats' order.
_FLOAT = re.compile(r"Float\d+|BFloat16")
_CLOCK = re.compile(r"now.*|today|yesterday|cur.*|utc_?timestamp", re.IGNORECASE)
_CONDITIONS = ("WHERE", "PREWHERE", "HAVING", "QUALIFY")
_CHOICES = ("LIMIT", "OFFSET", "LIMIT BY")


def as_number(key: str, kind: str) -> str | None:
    """
    Return SQL for a sharding key of type *kind* as the number from which a Distributed table chooses the shard.

    A Distributed table reads a negative key as an unsigned number of the same width.

    Returns:
        The SQL; None if the type is Nullable or not an integer of at most 64 bits.
    """
    match = _INTEGER.fullmatch(unwrap_type(kind)) if "Nullable" not in kind else None
    return f"toUInt{match[1]}({key})" if match else None


def is_float(kind: str) -> bool:
    """Return whether values of a type are or contain floats."""
    return bool(_FLOAT.search(kind))


def hashed_columns(columns: Sequence[Column], filled: Collection[str], *, has_key: bool) -> tuple[str, ...]:
    """
    Return the columns whose hash decides a row's shard; empty if no column is suitable.

    They are the columns of the target's keys, so that rows that merge share a shard. Without a key, they are all
    columns. Only *filled* columns whose values can be compared exactly are suitable.
    """
    usable = [c for c in columns if c.name in filled and is_comparable(c.type) and not is_float(c.type)]
    return tuple(c.name for c in usable if c.in_key or not has_key)


def chance(tree: Node) -> str:
    """Return the name of the first part of a SELECT that may choose different rows in each run; empty if none may."""
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
