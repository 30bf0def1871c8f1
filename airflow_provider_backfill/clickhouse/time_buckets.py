"""
Where a function of time takes a new value: the edges of buckets and partitions.

The server evaluates the expression (it knows its functions, zones and calendars); an edge is an
instant at which the value differs from that of the column's previous representable instant.
"""

from datetime import datetime, timedelta

from ..core.facts import TimeKind
from ..core.instants import MS_PER_DAY, MS_PER_HOUR, from_ms, to_ms
from ..core.sql import quote
from ..errors import ServerError
from .client import ClickHouse

_PER_MS = {TimeKind.EPOCH_S: (1, 1000), TimeKind.EPOCH_MS: (1, 1), TimeKind.EPOCH_US: (1000, 1)}
_DATES = (TimeKind.DATE, TimeKind.DATE32)
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

    def usable(self) -> bool:
        """Whether the expression can be evaluated from the time column alone, and depends on it."""
        if self._column not in self._expression:
            return False
        try:
            self._server.rows(self._edges("SELECT toInt64(0) AS ms"))
        except ServerError as error:
            if error.code is None:
                raise
            return False
        return True

    def first_misfit(self, start: datetime, end: datetime, chunk_hours: float) -> datetime | None:
        """The first chunk bound of the window, both ends included, that is not on an edge; None when all are."""
        first, last, step = to_ms(start), to_ms(end), chunk_hours * MS_PER_HOUR
        bounds = (
            f"SELECT least(toInt64(floor({first} + number * {step!r})), toInt64({last})) AS ms"
            f" FROM numbers({int((last - first) / step) + 2})"
        )
        count, ms = self._server.rows(f"SELECT count(), min(ms) FROM ({self._edges(bounds)}) WHERE at = before")[0]
        return from_ms(ms) if count else None

    def around(self, moment: datetime) -> tuple[datetime | None, datetime | None]:
        """The last edge at or before *moment*, the first at or after it; on a grid of quarter hours (a Date: days)."""
        step = MS_PER_DAY if self._kind in _DATES else _GRID_MS
        middle = to_ms(moment) // step * step
        steps = int(timedelta(days=_REACH_DAYS) / timedelta(milliseconds=step))
        grid = f"SELECT toInt64({middle} + (toInt64(number) - {steps}) * {step}) AS ms FROM numbers({2 * steps})"
        exact = to_ms(moment)
        low, high = self._server.rows(
            f"SELECT maxIf(ms, ms <= {exact}), minIf(ms, ms >= {exact}) FROM ({self._edges(grid)}) WHERE at != before"
        )[0]
        return from_ms(low) if low else None, from_ms(high) if high else None

    def _edges(self, instants: str) -> str:
        """A SELECT of ``ms, at, before``: the value at each instant, and at the column's last instant before it."""
        tick = MS_PER_DAY if self._kind in _DATES else 1
        times, per = _PER_MS.get(self._kind, (1, 1))
        shifted = f"(ms - {tick} * (1 - side))"
        value = f"fromUnixTimestamp64Milli({shifted}, 'UTC')"
        if self._kind in _PER_MS:
            value = f"floor({shifted} * {times} / {per})"
        typed = f"SELECT ms, side, CAST({value} AS {self._type}) AS {quote(self._column)}"
        return (
            "SELECT ms, anyIf(value, side = 1) AS at, anyIf(value, side = 0) AS before FROM"
            f" (SELECT ms, side, ({self._expression}) AS value"
            f" FROM ({typed} FROM ({instants}) ARRAY JOIN [0, 1] AS side))"
            " GROUP BY ms"
        )
