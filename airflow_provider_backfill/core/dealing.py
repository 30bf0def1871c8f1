"""
Divide rows among the shards of a cluster where each shard reads the same source.

Every shard runs the whole SELECT and keeps the rows of its own slots. The values of a row decide its slot, and each
slot belongs to one shard, so each row is kept exactly once. Pure.
"""

import re
from collections.abc import Collection, Sequence

from .adding_up.lineage import UNSTABLE
from .column_types import is_comparable, unwrap_type
from .facts import Column
from .query_tree import Node

_INTEGER = re.compile(r"U?Int(8|16|32|64)")
# The sum of floats depends on their order; its last digits, and so the hash, may change.
_FLOAT = re.compile(r"Float\d+|BFloat16")
_CLOCK = re.compile(r"now.*|today|yesterday|cur.*|utc_?timestamp", re.IGNORECASE)
_CONDITIONS = ("WHERE", "PREWHERE", "HAVING", "QUALIFY")
_CHOICES = ("LIMIT", "OFFSET", "LIMIT BY")


def as_number(key: str, kind: str) -> str | None:
    """
    Return a sharding key of type *kind* as the integer that a Distributed table takes it for; None for other types.

    A Distributed table reads a negative key as an unsigned number of the same width.
    """
    match = _INTEGER.fullmatch(unwrap_type(kind)) if "Nullable" not in kind else None
    return f"toUInt{match[1]}({key})" if match else None


def is_float(kind: str) -> bool:
    """Return whether values of a type are or contain floats."""
    return bool(_FLOAT.search(kind))


def hashed_columns(columns: Sequence[Column], filled: Collection[str], *, has_key: bool) -> tuple[str, ...]:
    """
    Return the columns whose hash decides a row's shard: the columns of the target's keys, so that rows that merge share
    a shard.

    For a target without a key, return all columns whose values can be compared exactly; possibly none.
    """
    usable = [c for c in columns if c.name in filled and is_comparable(c.type) and not is_float(c.type)]
    return tuple(c.name for c in usable if c.in_key or not has_key)


def chance(tree: Node) -> str:
    """Return the part of a SELECT that may choose other rows in each run; empty if there is none."""
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
