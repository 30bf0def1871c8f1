"""
Instants, chunk sizes, identities and boundaries: the part of a plan that other tools compute the same.

Source of every rule here: the contract's identity section (plan ids, chunk ids, tokens and
boundaries are equal to the peer's, who computes in JavaScript numbers and milliseconds).
Pure: standard library only.
"""

import hashlib
import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from ..errors import RequestError

Slice = tuple[datetime, datetime]

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
_NUMBER = re.compile(r"\+?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_RADIX = re.compile(r"0(?:[xX][0-9a-fA-F]+|[oO][0-7]+|[bB][01]+)", re.ASCII)


def parse_instant(text: str) -> datetime:
    """
    Read an ISO 8601 date or date-time as an aware UTC datetime, truncated to whole milliseconds.

    ``2025``, ``2025-03`` and ``2025-03-01`` mean 00:00 UTC of their first day. A date-time
    without an offset means UTC, whatever the machine's zone; ``24:00`` is the next midnight.

    Raises:
        RequestError: The text is no such date (``1``, ``yesterday``) or names a day that does
            not exist (``2025-02-30``).
    """
    match = _INSTANT.fullmatch(text.strip())
    if match is None:
        raise RequestError(f"{text!r} is not a date.", hint="write it as 2025-01-31 or 2025-01-31T06:00:00Z")
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
    Write an aware datetime as ``2025-01-01T00:00:00.000Z``: UTC, three digits, finer ones truncated.

    Raises:
        ValueError: The datetime is naive, so it names no instant.
    """
    if moment.tzinfo is None:
        raise ValueError(f"a naive datetime names no instant: {moment!r}")
    # isoformat is four times as fast as strftime, and pads years before 1000 by itself.
    utc = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return utc.isoformat(timespec="milliseconds")[:23] + "Z"


def to_ms(moment: datetime) -> int:
    """Whole milliseconds since 1970-01-01 UTC, rounded down."""
    return (moment - _EPOCH) // _MS


def from_ms(value: float) -> datetime:
    """The UTC datetime of *value* milliseconds since 1970, fractions cut off towards zero."""
    return _EPOCH + math.trunc(value) * _MS


def parse_chunk_hours(text: str) -> float:
    """
    Read a chunk size in hours as JavaScript's ``Number`` reads it: ``6``, ``0.25``, ``6e0``, ``0x6``.

    Raises:
        RequestError: Not a number, not finite, or not above zero.
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
    Write a number as JavaScript's ``String(number)`` does: ``6``, ``0.25``, ``1e-7``, ``1e+21``.

    Source: ECMA-262, Number::toString. Both languages print the shortest digits that read
    back the same; only the layout differs.
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


def plan_id(target: str, start: datetime, end: datetime, chunk_hours: float, time_column: str) -> str:
    """The plan's identity: 16 hex digits of a SHA-256 over target, window, chunk size and time column."""
    size = render_chunk_hours(chunk_hours)
    return _sha256(f"{target}|{render_instant(start)}|{render_instant(end)}|{size}|{time_column}")[:16]


def chunk_id(plan_id: str, start: datetime, end: datetime) -> str:
    """The identity of the chunk ``[start, end)`` of a plan: 16 hex digits."""
    return _sha256(f"chunk:{plan_id}:{render_instant(start)}:{render_instant(end)}")[:16]


def idempotency_token(plan_id: str, start: datetime, end: datetime) -> str:
    """The deduplication token of the chunk ``[start, end)`` of a plan: 64 hex digits."""
    return _sha256(f"token:{plan_id}:{render_instant(start)}:{render_instant(end)}")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def iter_chunks(
    plan_id: str, start: datetime, end: datetime, chunk_hours: float
) -> Iterator[tuple[str, datetime, datetime]]:
    """
    Yield ``(chunk id, start, end)`` of each slice of :func:`iter_window`, in constant memory.

    The ids are those of :func:`chunk_id`, at a third of its cost: each bound is rendered once,
    and what all texts begin with is hashed once.
    """
    common = hashlib.sha256(f"chunk:{plan_id}".encode())
    before = render_instant(start)
    for first, last in iter_window(start, end, chunk_hours):
        after = render_instant(last)
        digest = common.copy()
        digest.update(f":{before}:{after}".encode())
        yield digest.hexdigest()[:16], first, last
        before = after


def split_window(start: datetime, end: datetime, chunk_hours: float) -> list[Slice]:
    """
    Cut ``[start, end)`` into consecutive half-open slices of *chunk_hours*.

    Slices touch without overlapping and cover the window exactly; only the last may be
    shorter. Aligned to *start*, not to midnight. Bounds are whole milliseconds.

    Raises:
        RequestError: The window is empty or reversed, or *chunk_hours* is not above zero.
    """
    return list(iter_window(start, end, chunk_hours))


def iter_window(start: datetime, end: datetime, chunk_hours: float) -> Iterator[Slice]:
    """Yield the slices of :func:`split_window` one by one, in constant memory."""
    first, last = to_ms(start), to_ms(end)
    if first >= last:
        raise RequestError(
            f"The window is empty: from {render_instant(start)} is not before to {render_instant(end)}.",
            hint="the end is exclusive; to cover 1 January, pass --from 2026-01-01 --to 2026-01-02",
        )
    if not (math.isfinite(chunk_hours) and chunk_hours > 0):
        raise RequestError(f"The chunk size {chunk_hours!r} is not above zero.", hint="pass --chunk-hours 6")
    # The cursor is a double of milliseconds, as in the peer: it keeps the fraction that each bound cuts off.
    step = chunk_hours * MS_PER_HOUR
    cursor, stop = float(first), float(last)
    before = from_ms(cursor)
    while cursor < stop:
        following = min(cursor + step, stop)
        if following <= cursor:
            raise RequestError(
                f"The chunk size {render_chunk_hours(chunk_hours)} h is below what a timestamp can resolve.",
                hint="pass a larger --chunk-hours",
            )
        after = from_ms(following)
        yield before, after
        cursor, before = following, after
