"""
Cut the rows of one window by their sorting key, where time cannot cut them any further.

A range is a condition on the key's columns that is added to the time filter; the index prunes by
it. The ranges of a window are disjoint, and every row lies in one of them.
Pure: a sample of keys, sorted by the server, comes in as text.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from .column_types import unwrap_type
from .sql import literal


class KeyColumn(NamedTuple):
    """An element of a sorting key: an expression over the source's columns, and its type."""

    expression: str
    type: str

    @property
    def orderable(self) -> bool:
        """Whether a value can be written as a literal that compares as the column sorts: no NULL, no NaN."""
        return self.type.startswith(_ORDERABLE)

    @property
    def as_text(self) -> str:
        """SQL for the value as text that :meth:`literal` reads back, whatever the column's time zone is."""
        inner = unwrap_type(self.type)
        return (
            f"toString(toTimeZone({self.expression}, 'UTC'))"
            if inner.startswith("DateTime")
            else (f"toString({self.expression})")
        )

    def literal(self, text: str) -> str:
        """Return a value as a typed constant."""
        inner = unwrap_type(self.type)
        if inner.startswith("DateTime64("):
            inner = f"DateTime64({inner[len('DateTime64(')]}, 'UTC')"
        elif inner.startswith("DateTime"):
            inner = "DateTime('UTC')"
        return literal(text) if inner == "String" else f"CAST({literal(text)} AS {inner})"


_ORDERABLE = (
    *("Int", "UInt", "Date", "String", "FixedString(", "Decimal", "Enum", "UUID", "IPv", "Bool"),
    *("LowCardinality(String", "LowCardinality(FixedString(", "LowCardinality(Date", "LowCardinality(Int"),
    "LowCardinality(UInt",
)


def cut_by_key(
    columns: Sequence[KeyColumn], sample: Sequence[Sequence[str]], pieces: int, within: str = ""
) -> list[str]:
    """
    Conditions that cut the rows a sample was drawn from into at least *pieces* of about the same size.

    A value of the first column that has more rows than a piece may have is cut by the second, and so on.

    Args:
        columns: The leading elements of the sorting key that are orderable.
        sample: Keys as text, sorted as the key sorts.
        pieces: How many pieces are wanted.
        within: The condition that the rows meet already; it is part of each of the new ones.

    Returns:
        The conditions; just *within* when the sample has one key only.
    """
    return list(_ranges(columns, sample, len(sample) / pieces, within))


def _ranges(columns: Sequence[KeyColumn], sample: Sequence[Sequence[str]], most: float, prefix: str) -> Iterator[str]:
    if not columns:
        yield prefix
        return
    column, rest = columns[0], columns[1:]
    lower, count = "", 0
    for value, group in groupby(sample, key=lambda key: key[0]):
        keys = list(group)
        at = column.literal(value)
        if len(keys) > most and rest:
            # Also where the sample has nothing: the source may have rows there.
            yield _all(prefix, lower, f"({column.expression}) < {at}")
            yield from _ranges(rest, [key[1:] for key in keys], most, _all(prefix, f"({column.expression}) = {at}"))
            lower, count = f"({column.expression}) > {at}", 0
            continue
        if count and count + len(keys) > most:
            yield _all(prefix, lower, f"({column.expression}) < {at}")
            lower, count = f"({column.expression}) >= {at}", 0
        count += len(keys)
    yield _all(prefix, lower)


def _all(*conditions: str) -> str:
    return " AND ".join(condition for condition in conditions if condition)


def cut_by_hash(columns: Sequence[KeyColumn], pieces: int, within: str = "") -> list[str]:
    """
    Conditions that cut rows into *pieces* by a hash of their key: each reads all of them, and keeps its share.

    Args:
        within: The condition that the rows meet already. A hash in it is another one, so that it can be cut again.
    """
    key = ", ".join(column.expression for column in columns)
    # The hash of a bare NULL is NULL, that of a tuple is not.
    share = f"cityHash64(tuple({len(within)}, {key})) % {pieces}"
    return [_all(within, f"{share} = {piece}") for piece in range(pieces)]
