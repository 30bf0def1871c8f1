"""
Cut the rows of one window by their sorting key, if the window cannot be cut further by time.

A cut by key gives ranges. A range is a condition on the key's columns that is added to the time filter, and the index
prunes by both conditions. A cut by hash gives conditions that the index cannot use. In both cases, every row of the
window meets exactly one condition. This module is pure: the caller passes a sample of the keys as text, sorted by the
server.
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
        """Whether comparison with a literal follows the sort order; False for floats, Nullable and some other types."""
        return self.type.startswith(_ORDERABLE)

    @property
    def as_text(self) -> str:
        """SQL for the value as text, independent of the column's time zone; :meth:`read` reads the text."""
        if self._is_bytes:
            return f"hex({self.expression})"
        inner = unwrap_type(self.type)
        return (
            f"toString(toTimeZone({self.expression}, 'UTC'))"
            if inner.startswith("DateTime")
            else (f"toString({self.expression})")
        )

    @property
    def _is_bytes(self) -> bool:
        return unwrap_type(self.type).startswith(("String", "FixedString("))

    def read(self, text: str) -> str:
        """
        Return a sampled value from the server's answer to :attr:`as_text`.

        Bytes of a string that are not UTF-8 become lone surrogates, as Python's ``surrogateescape`` does it.
        """
        if not self._is_bytes:
            return text
        value = bytes.fromhex(text).decode(errors="surrogateescape")
        # A constant of fewer bytes is filled with zeros.
        return value.rstrip("\0") if "FixedString(" in self.type else value

    def literal(self, text: str) -> str:
        """Return a value from :meth:`read` as a typed SQL constant that the key can be compared with."""
        inner = unwrap_type(self.type)
        if self._is_bytes and not text.isprintable():
            # The constant has the bytes of the key, so that constants sort as keys sort: statements and answers are
            # sent as UTF-8, which has no text for all bytes.
            constant = f"unhex({literal(text.encode(errors='surrogateescape').hex())})"
            return constant if inner == "String" else f"CAST({constant} AS {inner})"
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
    Return conditions that cut rows into about *pieces* pieces of about the same size, as far as the key allows.

    If one value of the first column has too many sampled rows for a piece, the second column cuts them, and so on. Rows
    with the same values in all columns stay together.

    Args:
        columns: The leading elements of the sorting key that are orderable.
        sample: Keys as :meth:`KeyColumn.read` returns them, sorted as the key sorts.
        pieces: The wanted number of pieces.
        within: A condition that all rows meet; each new condition contains *within*. Empty for none.

    Returns:
        The conditions. Every row that meets *within* meets exactly one condition. A condition may match no sampled row.
        The only condition is *within* if *columns* or *sample* is empty, or if *pieces* is 1.
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
    Return conditions that cut rows into *pieces* pieces by a hash of the rows' keys.

    The query of each piece reads the rows of all pieces and keeps the rows of its own piece.

    Args:
        within: A condition that all rows meet; each new condition contains *within*. If *within* contains an earlier
            cut by hash, the new hash differs from the earlier hash. Empty for none.

    Returns:
        One condition per piece. Every row that meets *within* meets exactly one condition.
    """
    key = ", ".join(column.expression for column in columns)
    # The hash of a bare NULL is NULL; the hash of a tuple with a NULL is a number.
    share = f"cityHash64(tuple({len(within)}, {key})) % {pieces}"
    return [_all(within, f"{share} = {piece}") for piece in range(pieces)]
