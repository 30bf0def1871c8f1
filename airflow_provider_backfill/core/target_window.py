"""Render the condition that the time of a row of the target belongs to a chunk. This module is pure."""

import re

from ..errors import RequestError
from .instants import MS_PER_DAY, to_ms
from .names import quote
from .plan import Chunk, Plan, TimeLabel
from .sql import instant_sql, time_filter
from .tables import TimeKind


def window_filter(plan: Plan, chunk: Chunk) -> str:
    """
    Return the condition that the time of a row of the target belongs to the chunk; the key range is not considered.

    Raises:
        RequestError: The target has no time column, or the chunk cuts a day of a date column.
    """
    time = plan.target_time
    if time is None:
        raise RequestError(f"{plan.target} has no time column, so its window is unknown.")
    if time.label is not None:
        name, label = quote(time.column), time.label
        first = _labelled(label, instant_sql(f"toInt64({to_ms(chunk.start)})", label.kind))
        last = _labelled(label, _right_before(to_ms(chunk.end), label))
        return f"{name} >= {first} AND {name} <= {last}"
    return time_filter(time.column, time.kind, chunk.start, chunk.end)


def _right_before(ms: int, label: TimeLabel) -> str:
    """Return SQL for the last instant that the label's time column can store before *ms*, milliseconds since 1970."""
    kind = label.kind
    if kind.per_second and kind is not TimeKind.EPOCH_S:
        return f"{instant_sql(f'toInt64({ms})', kind)} - 1"
    if re.fullmatch(r".*DateTime64\([4-9]\b.*", label.type):
        return f"fromUnixTimestamp64Nano(toInt64({ms}) * 1000000 - 1, 'UTC')"
    return instant_sql(f"toInt64({ms - (MS_PER_DAY if kind.is_date else 1)})", kind)


def _labelled(label: TimeLabel, instant: str) -> str:
    """Return SQL for the label's value at *instant*, SQL for a value of the time column."""
    return f"arrayMap({quote(label.column)} -> ({label.expression}), [CAST({instant} AS {label.type})])[1]"
