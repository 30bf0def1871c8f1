"""
Read and write instants, and convert them to milliseconds.

This module is pure.
"""

import math
import re
from datetime import UTC, date, datetime, timedelta

from ..errors import RequestError

MS_PER_HOUR = 3_600_000
MS_PER_DAY = 24 * MS_PER_HOUR
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)

_INSTANT = re.compile(
    r"(?P<year>\d{4})(?:-(?P<month>\d\d)(?:-(?P<day>\d\d)"
    r"(?:[Tt ](?P<hour>\d\d):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:\.(?P<fraction>\d+))?)?"
    r"(?P<offset>[Zz]|[+-]\d\d(?::?\d\d)?)?)?)?)?",
    re.ASCII,
)


_OTHER_DATES = (
    re.compile(r"(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})", re.ASCII),
    re.compile(r"(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)", re.ASCII),
    re.compile(r"(?P<day>\d{1,2})\.(?P<month>\d{1,2})\.(?P<year>\d{4})", re.ASCII),
)


def _spelled_otherwise(text: str) -> str:
    """Return the ISO form of a date in one of :data:`_OTHER_DATES`; empty for other texts and nonexistent dates."""
    for pattern in _OTHER_DATES:
        if match := pattern.fullmatch(text):
            try:
                return f"{date(*(int(match[part]) for part in ('year', 'month', 'day')))}"
            except ValueError:
                return ""
    return ""


def parse_instant(text: str) -> datetime:
    """
    Read an ISO 8601 date or date-time as an aware UTC datetime, truncated to whole milliseconds.

    ``2025``, ``2025-03`` and ``2025-03-01`` mean 00:00 UTC of their first day. A date-time without an offset is in UTC,
    whatever the machine's time zone. ``24:00`` is the next midnight.

    Raises:
        RequestError: The text is not an ISO date (``1``, ``yesterday``), or the day, time or offset does not exist
            (``2025-02-30``).
    """
    match = _INSTANT.fullmatch(text.strip())
    if match is None:
        meant = _spelled_otherwise(text.strip())
        hint = f"did you mean {meant}?" if meant else "write it as 2025-01-31 or 2025-01-31T06:00:00Z"
        raise RequestError(f"{text!r} is not a date.", hint=hint)
    part = match.groupdict()
    hour, minute, second = (int(part[name] or 0) for name in ("hour", "minute", "second"))
    micros = int((part["fraction"] or "0")[:6].ljust(6, "0"))
    end_of_day = hour == 24 and not (minute or second or micros)
    try:
        moment = datetime(
            int(part["year"]),
            int(part["month"] or 1),
            int(part["day"] or 1),
            0 if end_of_day else hour,
            minute,
            second,
            micros // 1000 * 1000,
            tzinfo=UTC,
        )
        return moment + timedelta(days=end_of_day) - _offset(part["offset"])
    except (ValueError, OverflowError) as error:
        raise RequestError(
            f"{text!r} names a moment that does not exist: {error}.",
            hint="write a calendar date such as 2025-02-28 or a time such as 2025-02-28T23:59:59Z",
        ) from None


def _offset(text: str | None) -> timedelta:
    if text is None or text in "Zz":
        return timedelta()
    digits = text[1:].replace(":", "").ljust(4, "0")
    hours, minutes = int(digits[:2]), int(digits[2:])
    if hours > 23 or minutes > 59:
        raise ValueError(f"offset {text} is out of range")
    offset = timedelta(hours=hours, minutes=minutes)
    return -offset if text[0] == "-" else offset


def render_instant(moment: datetime) -> str:
    """
    Write an aware datetime as ``2025-01-01T00:00:00.000Z``: UTC, milliseconds, finer digits truncated.

    Raises:
        ValueError: The datetime is naive and so names no instant.
    """
    if moment.tzinfo is None:
        raise ValueError(f"a naive datetime names no instant: {moment!r}")
    # isoformat is four times as fast as strftime, and pads years before 1000.
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return utc.isoformat(timespec="milliseconds")[:23] + "Z"


def to_ms(moment: datetime) -> int:
    """Return the whole milliseconds from 1970-01-01 UTC to an aware datetime, rounded down."""
    return (moment - _EPOCH) // _MS


def from_ms(value: float) -> datetime:
    """Return the UTC datetime of *value* milliseconds since 1970; *value* is truncated towards zero."""
    return _EPOCH + math.trunc(value) * _MS


def short_instant(moment: datetime) -> str:
    """Return an instant in UTC as a person types it: without a time of 00:00, and without milliseconds of 000."""
    return render_instant(moment).removesuffix("T00:00:00.000Z").replace(".000Z", "Z")
