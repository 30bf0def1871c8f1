"""
Define the name of a table, and how its time column stores an instant.

This module is pure, and separate from the other facts. Stored plans need only these types, and an import of all facts
would slow the start.
"""

from enum import StrEnum
from typing import NamedTuple


class TimeKind(StrEnum):
    """The way in which a time column stores an instant; the kind decides how bounds are written."""

    DATE = "date"
    DATE32 = "date32"
    DATETIME = "datetime"
    DATETIME64 = "datetime64"
    EPOCH_S = "epoch-s"
    EPOCH_MS = "epoch-ms"
    EPOCH_US = "epoch-us"
    EPOCH_NS = "epoch-ns"

    @property
    def is_date(self) -> bool:
        """Whether the column stores days without a time, so that chunk bounds must be midnights."""
        return self in (TimeKind.DATE, TimeKind.DATE32)

    @property
    def per_second(self) -> int | None:
        """The number of units per second; None for kinds other than an integer epoch."""
        return _PER_SECOND.get(self)

    @property
    def unit(self) -> str:
        """The unit of an integer epoch as a user writes it; otherwise empty."""
        return self.removeprefix("epoch-") if self.per_second else ""


_PER_SECOND = {
    TimeKind.EPOCH_S: 1,
    TimeKind.EPOCH_MS: 1_000,
    TimeKind.EPOCH_US: 1_000_000,
    TimeKind.EPOCH_NS: 1_000_000_000,
}
# The units of integer epochs, as a user writes them.
TIME_UNITS = tuple(kind.unit for kind in _PER_SECOND)


# The name that stands for the database of a table function, as in the keys of additional_table_filters.
TABLE_FUNCTION = "_table_function"


class TableName(NamedTuple):
    """A table's name in two unquoted parts, as the server stores them."""

    database: str
    table: str

    def __str__(self) -> str:
        return f"{self.database}.{self.table}"
