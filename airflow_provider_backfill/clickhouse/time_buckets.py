"""
Find the instants at which a function of time changes its value: the edges of buckets and partitions.

The server evaluates the expression, because only the server knows the functions, zones and calendars. At an edge, the
value differs from the value one millisecond before, or one day before for a date column.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from ..core.adding_up.case import BucketFacts, BucketKey
from ..core.facts import TimeColumn
from ..core.instants import MS_PER_DAY, from_ms, to_ms
from ..core.names import quote
from ..core.sql import instant_sql, instants, literal, milliseconds
from ..core.tables import TableName, TimeKind
from ..errors import StatementRefusedError
from .client import LONG_TEXT, ClickHouse

_REACH_DAYS = 400
_GRID_MS = 60_000 * 15
# The approximate maximum number of grid instants in a window at which values are compared.
_GRID_POINTS = 50_000
# The number of days after a window in which a value of the window is searched: four years and a leap day.
_AGAIN_DAYS = 1461


def bucket_facts(
    server: ClickHouse, key: BucketKey, times: Mapping[TableName, TimeColumn], bounds: Sequence[int]
) -> BucketFacts:
    """
    Return how the values of a time key lie in relation to the chunk *bounds* (in milliseconds).

    The facts name the first bound with the same value on both sides, and a value that several chunks share. The values
    are taken at the bounds, right before the bounds, and on a grid over the window. If the server refuses to evaluate
    the key, the facts are not usable.
    """
    first = bounds[0]
    moments = f"SELECT toInt64(ms) AS ms, 1 AS bound FROM ({instants(bounds)}) UNION ALL {_grid(first, bounds[-1])}"
    # A bucket with an origin has no value right before a window that begins at the origin. So if the server refuses the
    # first query, the second query omits the value right before the window.
    for after in (None, first):
        with suppress(StatementRefusedError):
            return _facts_at(server, key, times, bounds, moments, after)
    return BucketFacts(usable=False)


def _grid(first: int, last: int) -> str:
    """Return a SELECT of instants, as ``ms`` and ``bound`` (0), from *first* to *last*, all in milliseconds."""
    step = max(_GRID_MS, -(-(last - first) // _GRID_POINTS))
    return f"SELECT toInt64({first} + number * {step}) AS ms, 0 AS bound FROM numbers({(last - first) // step + 1})"


def returning_values(
    server: ClickHouse, key: BucketKey, times: Mapping[TableName, TimeColumn], start: datetime, end: datetime
) -> str:
    """
    Return a SELECT of the values of *key* in ``[start, end)``, if the first of these values returns after the window.

    The values are taken on a grid of the window. The first value is compared with the values at the same time of the
    days after the window, over four years. Return an empty text if the value does not return, as for a month with its
    year, or if the server refuses to evaluate the key.
    """
    first, last, day = to_ms(start), to_ms(end), MS_PER_DAY
    days = -((first - last) // day)
    later = f"SELECT toInt64({first} + number * {day}) AS ms, 0 AS bound FROM numbers({days}, {_AGAIN_DAYS})"
    inside, after, at_start = (
        " UNION ALL ".join(f"SELECT {one.sql} AS value FROM ({_typed(times[one.table], moments)})" for one in key)
        for moments in (_grid(first, last - 1), later, _grid(first, first))
    )
    with suppress(StatementRefusedError):
        if server.value(f"SELECT count() FROM ({after}) WHERE value IN ({at_start})"):
            return inside
    return ""


def _facts_at(
    server: ClickHouse,
    key: BucketKey,
    times: Mapping[TableName, TimeColumn],
    bounds: Sequence[int],
    moments: str,
    after: int | None,
) -> BucketFacts:
    """
    Return the facts from the values of *key* at *moments* and right before the bounds.

    Args:
        moments: A SELECT of instants as ``ms`` (in milliseconds) and ``bound`` (1 for a chunk bound, else 0).
        after: The bound without a value right before it, in milliseconds; None if all bounds have such a value.

    Raises:
        ServerError: The server refused to evaluate the key, or could not be reached.
    """
    values = " UNION ALL ".join(
        f"SELECT {number} AS branch, ms, side, bound, chunk, ({expression.sql}) AS value"
        f" FROM ({_typed(times[expression.table], moments, after)})"
        for number, expression in enumerate(key)
    )
    same = (
        f"SELECT branch, ms FROM ({values}) WHERE bound GROUP BY branch, ms"
        " HAVING count() = 2 AND uniqExact(tuple(value)) = 1"
    )
    again = (
        f"SELECT toString(any(value)) FROM ({values}) WHERE chunk BETWEEN 1 AND {len(bounds) - 1}"
        " GROUP BY tuple(value) HAVING uniqExact(chunk) > 1 ORDER BY min(ms) LIMIT 1"
    )
    count, cut = server.rows(f"SELECT count(), min(ms) FROM ({same})", LONG_TEXT)[0]
    found = server.rows(again, LONG_TEXT)
    return BucketFacts(from_ms(cut) if count else None, str(found[0][0]) if found else "")


def labels_leave_chunk(
    server: ClickHouse, key: BucketKey, times: Mapping[TableName, TimeColumn], bounds: Sequence[int], kind: TimeKind
) -> bool:
    """
    Return whether a row's label may lie outside the row's chunk.

    Args:
        key: The expressions that compute the label from the time.
        bounds: The chunk bounds in milliseconds; labels are compared at the bounds and right before the bounds.
        kind: How the label is stored.

    Raises:
        ServerError: The server refused to evaluate an expression, or could not be reached.
    """
    moments = f"SELECT toInt64(ms) AS ms, 1 AS bound FROM ({instants(bounds)})"
    label = milliseconds("value", kind)
    for expression in key:
        values = f"SELECT ms, side, ({expression.sql}) AS value FROM ({_typed(times[expression.table], moments)})"
        leaving = f"SELECT count() FROM ({values}) WHERE if(side = 1, {label} < ms, {label} >= ms)"
        if server.rows(leaving, LONG_TEXT)[0][0]:
            return True
    return False


def value_at(server: ClickHouse, key: BucketKey, times: Mapping[TableName, TimeColumn], moment: datetime) -> str:
    """Return the values of a key at an instant, as string literals separated by commas."""
    moments = f"SELECT toInt64({to_ms(moment)}) AS ms, 1 AS bound"
    found = [
        server.rows(
            f"SELECT toString({expression.sql}) FROM ({_typed(times[expression.table], moments)}) WHERE side = 1"
        )[0][0]
        for expression in key
    ]
    return ", ".join(literal(str(value)) for value in found)


def _typed(time: TimeColumn, moments: str, after: int | None = None) -> str:
    """
    Return a SELECT of the time column at each of *moments*, and right before each bound except the bound *after*.

    In each result row, ``ms`` is a moment. The time column has the time at ``ms`` if ``side`` is 1, and the time right
    before ``ms`` if ``side`` is 0. ``chunk`` is the number of the time's chunk, from 1; 0 before the first bound.
    """
    tick = MS_PER_DAY if time.kind.is_date else 1
    return (
        "SELECT ms, side, bound, sum(bound AND side = 1) OVER (ORDER BY at) AS chunk,"
        f" CAST({instant_sql('at', time.kind)} AS {time.type}) AS {quote(time.name)}"
        f" FROM (SELECT ms, bound, side, toInt64(ms - {tick} * (1 - side)) AS at FROM ({moments})"
        f" ARRAY JOIN if(bound{'' if after is None else f' AND ms != {after}'}, [0, 1], [1]) AS side)"
    )


class TimeBuckets:
    """
    The buckets that *expression* forms over a time column.

    Args:
        expression: SQL over the column, such as ``toStartOfHour(ts)`` or a partition key.
        time: The time column.
    """

    def __init__(self, server: ClickHouse, expression: str, time: TimeColumn) -> None:
        self._server, self._expression = server, expression
        self._column, self._type, self._kind = time

    @property
    def zones(self) -> list[str]:
        """The time zones with a name such as ``Europe/Berlin`` in the expression and in the column's type."""
        return list(dict.fromkeys(re.findall(r"'([A-Z][A-Za-z_]+/[A-Za-z_/+-]+)'", f"{self._expression} {self._type}")))

    def between(self, start: int, end: int) -> list[int]:
        """
        Return the edges between *start* and *end*, both excluded, in milliseconds.

        Only edges on a grid of 15 minutes (of days for a date column) are found.
        """
        step = MS_PER_DAY if self._kind.is_date else _GRID_MS
        first, last = start // step + 1, -(-end // step)
        if first >= last:
            return []
        grid = f"SELECT (toInt64({first}) + number) * {step} AS ms FROM numbers({last - first})"
        found = self._server.rows(f"SELECT ms FROM ({self._edges(grid)}) WHERE at != before ORDER BY ms")
        return [int(ms) for (ms,) in found]

    def around(self, moment: datetime) -> tuple[datetime | None, datetime | None]:
        """
        Return the last edge at or before *moment*, and the first edge at or after *moment*; None for an edge not found.

        Only edges on a grid of 15 minutes (of days for a date column), within 400 days of *moment*, are found.
        """
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
        """
        Return a SELECT of ``ms, at, before``: the instant, the value at the instant, and the value right before.

        For a date column, the value right before is the value on the previous day; otherwise, the value one millisecond
        earlier.
        """
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
