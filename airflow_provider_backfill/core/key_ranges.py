"""
Cut the rows of one window by their sorting key, where time cannot cut them further.

A range is a condition on the key's columns, added to the time filter, and the index prunes by both. The ranges of a
window are disjoint, and every row lies in one range. Pure: the caller passes a sample of keys, sorted by the server, as
text.
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
        """Whether a literal can be compared as the column sorts. A column with NULL or NaN has no such literals."""
        return self.type.startswith(_ORDERABLE)

    @property
    def as_text(self) -> str:
        """SQL for the value as text, independent of the column's time zone; :meth:`literal` reads the text."""
        inner = unwrap_type(self.type)
        return (
            f"toString(toTimeZone({self.expression}, 'UTC'))"
            if inner.startswith("DateTime")
            else (f"toString({self.expression})")
        )

    def literal(self, text: str) -> str:
        """Return a sampled value as a typed SQL constant that the key can be compared with."""
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
    Return conditions that cut the sampled rows into at least *pieces* of about the same size.

    Where one value of the first column has too many rows for a piece, the second column cuts them, and so on.

    Args:
        columns: The leading elements of the sorting key that are orderable.
        sample: Keys as text, sorted as the key sorts.
        pieces: The number of pieces.
        within: A condition that all rows meet; it is part of each new condition.

    Returns:
        The conditions; only *within* if the sample has a single key.
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
            # Keep ranges without sampled rows, since the source may have rows there.
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
    Return conditions that cut rows into *pieces* by a hash of their key. Each piece reads all rows and keeps its share.

    Args:
        within: A condition that all rows meet. It may contain an earlier cut by hash; the new hash is a different one.
    """
    key = ", ".join(column.expression for column in columns)
    # The hash of a bare NULL is NULL; the hash of a tuple is not.
    share = f"cityHash64(tuple({len(within)}, {key})) % {pieces}"
    return [_all(within, f"{share} = {piece}") for piece in range(pieces)]
