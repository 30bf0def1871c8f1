"""
Where a function of time takes a new value: the edges of buckets and partitions.

The server evaluates the expression (it knows its functions, zones and calendars); an edge is an
instant at which the value differs from that of the column's previous representable instant.
"""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from ..core.facts import TimeKind
from ..core.instants import MS_PER_DAY, from_ms, to_ms
from ..core.sql import instant_sql, instants, quote
from ..errors import StatementRefusedError
from .client import LONG_TEXT, ClickHouse

_REACH_DAYS = 400
_GRID_MS = 60_000 * 15


class TimeBuckets:
    """
    The buckets that *expression* makes of a time column.

    Args:
        expression: SQL over the column, such as ``toStartOfHour(ts)`` or a partition key.
        column: The time column's name.
        column_type: Its type.
    """

    def __init__(self, server: ClickHouse, expression: str, column: str, column_type: str, kind: TimeKind) -> None:
        self._server, self._expression, self._column = server, expression, column
        self._type, self._kind = column_type, kind

    @property
    def zones(self) -> list[str]:
        """The time zones that the expression and the column's type name."""
        return list(dict.fromkeys(re.findall(r"'([A-Z][A-Za-z_]+/[A-Za-z_/+-]+)'", f"{self._expression} {self._type}")))

    def usable(self) -> bool:
        """Whether the expression can be evaluated from the time column alone, and depends on it."""
        if self._column not in self._expression:
            return False
        try:
            self._server.rows(self._edges("SELECT toInt64(0) AS ms"))
        except StatementRefusedError:
            return False
        return True

    def first_misfit(self, bounds: Sequence[int]) -> datetime | None:
        """The first of *bounds*, in milliseconds, that is not on an edge; None when all are."""
        count, ms = self._server.row(
            f"SELECT count(), min(ms) FROM ({self._edges(instants(bounds))}) WHERE at = before", LONG_TEXT
        )
        return from_ms(ms) if count else None

    def between(self, start: int, end: int) -> list[int]:
        """Every edge after *start* and before *end*, in milliseconds; on a grid of quarter hours (a Date: days)."""
        step = MS_PER_DAY if self._kind.is_date else _GRID_MS
        first, last = start // step + 1, -(-end // step)
        if first >= last:
            return []
        grid = f"SELECT (toInt64({first}) + number) * {step} AS ms FROM numbers({last - first})"
        found = self._server.rows(f"SELECT ms FROM ({self._edges(grid)}) WHERE at != before ORDER BY ms")
        return [int(ms) for (ms,) in found]

    def around(self, moment: datetime) -> tuple[datetime | None, datetime | None]:
        """The last edge at or before *moment*, the first at or after it; on a grid of quarter hours (a Date: days)."""
        step = MS_PER_DAY if self._kind.is_date else _GRID_MS
        middle = to_ms(moment) // step * step
        steps = int(timedelta(days=_REACH_DAYS) / timedelta(milliseconds=step))
        grid = f"SELECT toInt64({middle} + (toInt64(number) - {steps}) * {step}) AS ms FROM numbers({2 * steps})"
        exact = to_ms(moment)
        low, high = self._server.row(
            f"SELECT maxIf(ms, ms <= {exact}), minIf(ms, ms >= {exact}) FROM ({self._edges(grid)}) WHERE at != before"
        )
        return from_ms(low) if low else None, from_ms(high) if high else None

    def _edges(self, instants: str) -> str:
        """A SELECT of ``ms, at, before``: the value at each instant, and at the column's last instant before it."""
        tick = MS_PER_DAY if self._kind.is_date else 1
        shifted = f"(ms - {tick} * (1 - side))"
        value = instant_sql(shifted, self._kind)
        typed = f"SELECT ms, side, CAST({value} AS {self._type}) AS {quote(self._column)}"
        return (
            "SELECT ms, anyIf(value, side = 1) AS at, anyIf(value, side = 0) AS before FROM"
            f" (SELECT ms, side, ({self._expression}) AS value"
            f" FROM ({typed} FROM ({instants}) ARRAY JOIN [0, 1] AS side))"
            " GROUP BY ms"
        )
