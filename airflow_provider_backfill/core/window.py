"""
Check half-open windows in UTC and cut them into slices; read and write the length of a slice.

This module is pure.
"""

import math
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from ..errors import Advice, Flag, RequestError
from .instants import MS_PER_HOUR, from_ms, render_instant, short_instant, to_ms


class Window(NamedTuple):
    """A half-open window ``[start, end)`` of aware UTC instants."""

    start: datetime
    end: datetime


Slice = tuple[datetime, datetime]
_NUMBER = re.compile(r"\+?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_RADIX = re.compile(r"0(?:[xX][0-9a-fA-F]+|[oO][0-7]+|[bB][01]+)", re.ASCII)


def parse_chunk_hours(text: str) -> float:
    """
    Return a chunk size in hours, read as JavaScript's ``Number`` reads it: ``6``, ``0.25``, ``6e0``, ``0x6``.

    Raises:
        RequestError: The text is not a number, or the number is not finite or not positive.
    """
    trimmed = text.strip()
    value = math.nan
    if _RADIX.fullmatch(trimmed):
        value = float(int(trimmed, 0))
    elif _NUMBER.fullmatch(trimmed):
        value = float(trimmed)
    if not (math.isfinite(value) and value > 0):
        raise RequestError(
            f"{text!r} is not a chunk size.", hint="pass a number of hours above zero, such as 6 or 0.25"
        )
    return value


def render_chunk_hours(value: float) -> str:
    """
    Return a number as text, as JavaScript's ``String(number)`` does: ``6``, ``0.25``, ``1e-7``, ``1e+21``.

    Source: ECMA-262, Number::toString. Both languages print the shortest digits that give the same number when read;
    only the layout differs.
    """
    number = float(value)
    if not math.isfinite(number):
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(number, "NaN")
    if number == 0:
        return "0"
    sign = "-" if number < 0 else ""
    mantissa, exponent = f"{abs(number)!r}e0".split("e")[:2]
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(exponent) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    if len(digits) <= point <= 21:
        return sign + digits.ljust(point, "0")
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    tail = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{tail}e{point - 1:+d}"


def require_order(start: datetime, end: datetime) -> None:
    """
    Refuse a window that is empty or reversed.

    Raises:
        RequestError: In whole milliseconds, *start* is not before *end*.
    """
    if to_ms(start) >= to_ms(end):
        raise RequestError(
            f"The window is empty: from {render_instant(start)} is not before to {render_instant(end)}.",
            remedy=_other_order(start, end),
        )


def _other_order(start: datetime, end: datetime) -> Advice:
    """Return advice for a reversed window (to swap the bounds) or for an empty window (the end is exclusive)."""
    if start > end:
        flags = (Flag("--from", short_instant(end)), Flag("--to", short_instant(start)))
        return Advice("the bounds may be swapped: pass {} {}", *flags)
    day = timedelta(days=1)
    if start > datetime.max.replace(tzinfo=start.tzinfo) - day:
        return Advice("the end is exclusive")
    return Advice("the end is exclusive; to cover a day, pass {}", Flag("--to", short_instant(start + day)))


def split_window(start: datetime, end: datetime, chunk_hours: float) -> list[Slice]:
    """
    Cut ``[start, end)`` into consecutive half-open slices of *chunk_hours*.

    Slices touch without overlapping and cover the window exactly; only the last may be shorter. Slices begin at
    *start*, not at midnight. Bounds are whole milliseconds.

    Raises:
        RequestError: The window is empty or reversed, or *chunk_hours* is not finite, not positive or too small.
    """
    return list(iter_window(start, end, chunk_hours))


def iter_window(start: datetime, end: datetime, chunk_hours: float) -> Iterator[Slice]:
    """Yield the slices of :func:`split_window`, in constant memory; raise the same errors as that function."""
    before = from_ms(to_ms(start))
    for ms in iter_ends_ms(start, end, chunk_hours):
        after = from_ms(ms)
        yield before, after
        before = after


def iter_ends_ms(start: datetime, end: datetime, chunk_hours: float) -> Iterator[int]:
    """
    Yield the ends of the slices of :func:`split_window`, in milliseconds since 1970.

    Computing the ends as numbers takes a third of the time that computing the slices as datetimes takes.

    Raises:
        RequestError: The window is empty or reversed, or *chunk_hours* is not finite, not positive or too small.
    """
    require_order(start, end)
    first, last = to_ms(start), to_ms(end)
    if not (math.isfinite(chunk_hours) and chunk_hours > 0):
        raise RequestError(
            f"The chunk size {chunk_hours!r} is not above zero.", remedy=Advice("pass {}", Flag("--chunk-hours", "6"))
        )
    # The cursor is a double of milliseconds, as in the JavaScript tools. The cursor keeps the fraction of a millisecond
    # that each bound cuts off.
    step = chunk_hours * MS_PER_HOUR
    cursor, stop = float(first), float(last)
    while cursor < stop:
        following = min(cursor + step, stop)
        if following <= cursor:
            raise RequestError(
                f"The chunk size {render_chunk_hours(chunk_hours)} h is below what a timestamp can resolve.",
                remedy=Advice("pass a larger {}", Flag("--chunk-hours")),
            )
        yield math.trunc(following)
        cursor = following


def whole_days(start: datetime, end: datetime) -> Slice:
    """Return the smallest window of whole UTC days that contains ``[start, end)``."""
    first = start.replace(hour=0, minute=0, second=0, microsecond=0)
    last = (end + timedelta(days=1, microseconds=-1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return first, last
