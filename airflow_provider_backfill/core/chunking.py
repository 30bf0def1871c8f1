"""
Cut a window into chunks: by hours, by the calendar of a time zone, or at bounds computed from data.

A :class:`Chunking` is a rule. Examples of the rule's text are ``6``, ``month``, ``day@Europe/Berlin``, ``partition``
and ``6|rows=5000000``; the plan id is a hash over this text and other values. Bounds of hours and calendars follow from
the rule. If bounds depend on partitions, or on limits of rows and bytes, the plan stores the bounds in the form of
:func:`encode_bounds`.

This module is pure. Pendulum is slow to import, so only the functions that need a zone or a calendar import it.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, NamedTuple

from ..errors import Advice, Flag, RequestError
from .instants import MS_PER_DAY, MS_PER_HOUR, from_ms, to_ms
from .plain_text import show_number
from .window import Slice, iter_ends_ms, iter_window, parse_chunk_hours, render_chunk_hours, require_order

if TYPE_CHECKING:
    from pendulum import Timezone

AUTO = "auto"
"""The word for an automatic chunk length: the target's partitions (in ``replace``) or the source's rows decide."""
UTC_ZONE = "UTC"
_SAME_AS_UTC = frozenset({"utc", "z", "etc/utc", "gmt", "etc/gmt", "zulu", "etc/zulu", "universal", "etc/universal"})
_LENGTH = re.compile(r"(?P<count>\d+(?:\.\d+)?)\s*(?P<unit>min|h|d|w|mo)", re.ASCII | re.IGNORECASE)
_HOURS_OF = {"min": 1 / 60, "h": 1.0, "d": 24.0, "w": 168.0}
# The first Monday after 1970-01-01, and the length of a week, both in milliseconds.
_MONDAY = 4 * MS_PER_DAY
_WEEK = 7 * MS_PER_DAY


class Unit(StrEnum):
    """A unit by which chunks are cut: a unit of the calendar (weeks begin on Monday), or the target's partitions."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    PARTITION = "partition"


_NOMINAL_HOURS = {Unit.HOUR: 1.0, Unit.DAY: 24.0, Unit.WEEK: 168.0, Unit.MONTH: 730.5, Unit.PARTITION: 0.0}


@dataclass(frozen=True, slots=True)
class Chunking:
    """
    A rule by which a window is cut.

    Attributes:
        hours: Length of a chunk in hours, counted from the start of the window; None for a chunking by *unit*.
        unit: The unit of the chunks; None for a chunking by *hours*. The window may cut the first and the last chunk.
        months: Months per chunk, counted from January, if *unit* is a month; otherwise 1.
        zone: The time zone of the calendar, by its name in the IANA database.
        rows: Maximum number of source rows per chunk; None means no limit. Larger chunks are cut, and small
            neighbouring chunks are joined.
        size: Maximum number of uncompressed source bytes per chunk, with the effect of *rows*; None means no limit.
    """

    hours: float | None = None
    unit: Unit | None = None
    months: int = 1
    zone: str = UTC_ZONE
    rows: int | None = None
    size: int | None = None

    @property
    def text(self) -> str:
        """The rule as the text that the plan stores and the plan id hashes; :func:`parse_chunking` reads the text."""
        limits = (("rows", self.rows), ("bytes", self.size))
        return self.length + "".join(f"|{name}={most}" for name, most in limits if most is not None)

    @property
    def length(self) -> str:
        """The rule as :attr:`text`, without the limits on rows and bytes."""
        if self.hours is not None:
            return render_chunk_hours(self.hours)
        unit = f"{self.months}mo" if self.months > 1 else str(self.unit)
        return unit if self.zone == UTC_ZONE else f"{unit}@{self.zone}"

    @property
    def from_data(self) -> bool:
        """Whether the bounds depend on the data in tables; a plan has to store such bounds."""
        return self.unit is Unit.PARTITION or self.limited

    @property
    def limited(self) -> bool:
        """Whether chunks have a maximum of rows or bytes."""
        return self.rows is not None or self.size is not None

    @property
    def nominal_hours(self) -> float:
        """The approximate length of a chunk in hours, ignoring limits on rows and bytes; 0 for chunks by partition."""
        if self.hours is not None:
            return self.hours
        return _NOMINAL_HOURS[self.unit or Unit.DAY] * self.months

    @property
    def words(self) -> str:
        """The length and the limits for people: ``of 6 h, at most 10 rows``, ``by month in Europe/Berlin``."""
        if self.hours is not None:
            words = f"of {render_chunk_hours(self.hours)} h"
        else:
            words = f"by {self.months} months" if self.months > 1 else f"by {self.unit}"
            words += "" if self.zone == UTC_ZONE else f" in {self.zone}"
        if self.rows is not None:
            words += f", at most {show_number(self.rows, 'row')}"
        if self.size is not None:
            words += f", at most {show_number(self.size, 'byte')}"
        return words

    @property
    def flags(self) -> tuple[Flag, ...]:
        """The command-line flags that ask for this chunking."""
        if self.hours is not None:
            flags = [Flag("--chunk-hours", render_chunk_hours(self.hours))]
        else:
            flags = [Flag("--chunk-by", f"{self.months}mo" if self.months > 1 else str(self.unit))]
            flags += [] if self.zone == UTC_ZONE else [Flag("--chunk-zone", self.zone)]
        flags += [] if self.rows is None else [Flag("--max-chunk-rows", str(self.rows))]
        flags += [] if self.size is None else [Flag("--max-chunk-bytes", str(self.size))]
        return tuple(flags)

    def without_limits(self) -> "Chunking":
        """Return a chunking of the same length without limits on rows and bytes."""
        return replace(self, rows=None, size=None)

    def slices(self, start: datetime, end: datetime) -> Iterator[Slice]:
        """
        Yield the slices of ``[start, end)``, cut by the length alone, without the limits on rows and bytes.

        The slices are adjacent and cover the window exactly. The iteration raises the errors, not the call.

        Raises:
            RequestError: The window is empty or reversed, the number of hours is not finite, not positive or too
                small, or the time zone does not exist.
            ValueError: The chunks are partitions, whose bounds follow from the target.
        """
        if self.hours is not None:
            yield from iter_window(start, end, self.hours)
            return
        require_order(start, end)
        if self.unit is Unit.PARTITION:
            raise ValueError("the bounds of partitions follow from the target, not from a rule")
        first, last = to_ms(start), to_ms(end)
        before = start
        for ms in self._edges(first):
            if ms >= last:
                break
            after = from_ms(ms)
            yield before, after
            before = after
        yield before, end

    def ends_ms(self, start: datetime, end: datetime) -> Iterator[int]:
        """Yield the ends of :meth:`slices` in milliseconds since 1970; raise the same errors."""
        if self.hours is not None:
            return iter_ends_ms(start, end, self.hours)
        return (to_ms(until) for _, until in self.slices(start, end))

    def _edges(self, first: int) -> Iterator[int]:
        """
        Yield the instants after *first*, in milliseconds, at which a calendar unit begins.

        The iteration does not end by itself.
        """
        if self.zone == UTC_ZONE and self.unit is not Unit.MONTH:
            origin = _MONDAY if self.unit is Unit.WEEK else 0
            step = {Unit.HOUR: MS_PER_HOUR, Unit.DAY: MS_PER_DAY}.get(self.unit or Unit.DAY, _WEEK)
            edge = (first - origin) // step * step + origin
            while True:
                edge += step
                yield edge
        zone = load_zone(self.zone)
        if self.unit is Unit.HOUR:
            yield from _hours(first, zone)
        for day in _days(self.unit, self.months, from_ms(first).astimezone(zone).date()):
            edge = to_ms(datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC))
            if edge > first:
                yield edge


def _hours(first: int, zone: "Timezone") -> Iterator[int]:
    """
    Yield the instants after *first*, in milliseconds, at which an hour of the zone's local time begins.

    A clock change may shift these instants, for example by half an hour. The iteration does not end by itself.
    """
    edge = _floor_hour(first, first, zone)
    while True:
        following = edge + MS_PER_HOUR
        # Use the UTC offset just before *following*, so that a clock change at *following* begins an hour.
        edge = _floor_hour(following, following - 1, zone)
        if edge > first:
            yield edge


def _floor_hour(ms: int, clock_at: int, zone: "Timezone") -> int:
    offset = from_ms(clock_at).astimezone(zone).utcoffset() or timedelta()
    shift = offset // timedelta(milliseconds=1)
    return (ms + shift) // MS_PER_HOUR * MS_PER_HOUR - shift


def _days(unit: Unit | None, months: int, day: date) -> Iterator[date]:
    """
    Yield the first day of each calendar unit, beginning with the unit that contains *day*.

    Every day is a unit if *unit* is a day or None. The iteration does not end by itself.
    """
    from pendulum import Date

    moment = Date(day.year, day.month, day.day)
    if unit is Unit.MONTH:
        ordinal = moment.year * 12 + moment.month - 1
        ordinal -= ordinal % months
        moment = Date(ordinal // 12, ordinal % 12 + 1, 1)
    elif unit is Unit.WEEK:
        moment = moment.start_of("week")
    # Chunking.slices() stops the iteration at the end of the window.
    while True:
        yield moment
        if unit is Unit.MONTH:
            moment = moment.add(months=months)
        else:
            moment = moment.add(weeks=1) if unit is Unit.WEEK else moment.add(days=1)


def load_zone(name: str) -> "Timezone":
    """
    Return a time zone by its IANA name.

    If midnight is ambiguous or missing on a day, the zone resolves midnight to the first instant of that day.

    Raises:
        RequestError: The zone does not exist.
    """
    import pendulum
    from pendulum.tz.exceptions import InvalidTimezone

    try:
        return pendulum.timezone(name)
    except (InvalidTimezone, ValueError, OSError):
        raise RequestError(
            f"{name!r} is not a time zone.", hint="pass a name of the IANA database, such as Europe/Berlin, or UTC"
        ) from None


def parse_length(text: str, zone: str | None = None) -> Chunking:
    """
    Read the length of a chunk as a user types it.

    The text is a number of hours (``6``, ``0.25``), a length (``30min``, ``12h``, ``1d``, ``1w``, ``1mo``), or a unit
    (``hour``, ``day``, ``week``, ``month``, ``partition``). The time zone is *zone*, or is part of the text
    (``day@Europe/Berlin``). Without a zone, or in UTC, ``1h``, ``1d`` and ``1w`` are 1, 24 and 168 hours, counted from
    the start of the window. In other zones, ``1h``, ``1d`` and ``1w`` are an hour, a day and a week of the calendar.

    Raises:
        RequestError: The length is invalid, the zone does not exist, two zones are given, or a zone other than UTC is
            given for partitions or for a length that does not follow the calendar, such as ``6`` or ``2d``.
    """
    word, at, own = text.strip().partition("@")
    if at and zone:
        raise RequestError(f"{text.strip()} names a time zone, and so does {zone}.", hint="name it once")
    word = word.strip().lower()
    name = (own if at else zone or UTC_ZONE).strip()
    name = UTC_ZONE if name.lower() in _SAME_AS_UTC else name
    match = _LENGTH.fullmatch(word)
    if match and match["unit"] == "mo":
        found = _months(text, match["count"])
    elif match:
        count = float(match["count"])
        unit = {"d": Unit.DAY, "w": Unit.WEEK, "h": Unit.HOUR}.get(match["unit"])
        # In a zone other than UTC, a length of exactly one hour, day or week follows the calendar.
        calendar = count == 1 and unit is not None and name != UTC_ZONE
        found = Chunking(unit=unit) if calendar else Chunking(hours=_positive(text, count * _HOURS_OF[match["unit"]]))
    elif word in {unit.value for unit in Unit}:
        found = Chunking(unit=Unit(word))
    else:
        found = Chunking(hours=_number(word, text))
    if name == UTC_ZONE:
        return found
    if found.unit is None or found.unit is Unit.PARTITION:
        what = "partitions are those of the target" if found.unit else "a number of hours is the same in every zone"
        raise RequestError(
            f"The chunk length {text.strip()} does not go with the time zone {name}: {what}.",
            remedy=Advice(
                "omit {}, or pass {} {}",
                Flag("--chunk-zone"),
                Flag("--chunk-by", "day"),
                Flag("--chunk-zone", name),
            ),
        )
    load_zone(name)
    return replace(found, zone=name)


def _months(text: str, count: str) -> Chunking:
    months = int(count) if count.isdigit() else 0
    if not 1 <= months <= 12 or 12 % months:
        raise RequestError(
            f"{text!r} is not a chunk length: months are counted from January, so they must divide the year.",
            hint="pass 1mo, 2mo, 3mo, 4mo, 6mo or 12mo",
        )
    return Chunking(unit=Unit.MONTH, months=months)


def _positive(text: str, hours: float) -> float:
    if not (math.isfinite(hours) and hours > 0):
        raise RequestError(f"{text!r} is not a chunk length: it is not above zero.", hint="pass 6, 12h, 1d or month")
    return hours


def _number(word: str, text: str) -> float:
    try:
        return parse_chunk_hours(word)
    except RequestError:
        raise RequestError(
            f"{text!r} is not a chunk length.",
            hint="pass a number of hours above zero, such as 6 or 0.25; a length such as 12h, 1d, 1w or 1mo; "
            "or hour, day, week, month or partition",
        ) from None


def parse_chunking(text: str) -> Chunking:
    """
    Return the chunking whose :attr:`Chunking.text` a plan has stored.

    The existence of the time zone is not checked.

    Raises:
        RequestError: The length or a limit is not valid.
    """
    length, *limits = text.split("|")
    word, _, zone = length.partition("@")
    found = replace(parse_length(word), zone=zone or UTC_ZONE)
    for limit in limits:
        name, _, value = limit.partition("=")
        if name not in ("rows", "bytes") or not value.isdigit():
            raise RequestError(f"{text!r} is not how chunks are cut.", hint="the plan was written by a newer version")
        found = replace(found, rows=int(value)) if name == "rows" else replace(found, size=int(value))
    return found


def encode_bounds(bounds: Sequence[int]) -> str:
    """
    Return bounds in milliseconds as the text that a plan stores: ``3600000: 6*4 1 5*2``.

    The text begins with the unit in milliseconds. The distances between the bounds follow, in units; ``n*times``
    repeats a distance. The first bound is the start of the window and is not written.
    """
    steps = [after - before for before, after in pairwise(bounds)]
    unit = math.gcd(*steps) or 1
    runs = ((step // unit, sum(1 for _ in run)) for step, run in groupby(steps))
    return f"{unit}: " + " ".join(str(step) if times == 1 else f"{step}*{times}" for step, times in runs)


def decode_bounds(text: str, first: int) -> Iterator[int]:
    """
    Yield the bounds after *first* that :func:`encode_bounds` has written, in milliseconds.

    Raises:
        ValueError: The text is not in the form of :func:`encode_bounds`, or a distance is not positive.
    """
    head, _, steps = text.partition(":")
    unit, bound = int(head), first
    for word in steps.split():
        step, _, times = word.partition("*")
        width = int(step) * unit
        if width <= 0:
            raise ValueError(f"bounds must rise, and {word!r} does not")
        for _ in range(int(times or 1)):
            bound += width
            yield bound


def slices_between(bounds: Iterable[int]) -> Iterator[Slice]:
    """Yield the slices between consecutive bounds in milliseconds."""
    return pairwise(map(from_ms, bounds))


class Cell(NamedTuple):
    """
    The rows of the sources between two neighbouring instants at which the plan may have a chunk bound.

    Attributes:
        start: The first of the two instants, in milliseconds since 1970.
        weight: The rows or bytes of the cell, as a share of the maximum of a chunk.
    """

    start: int
    weight: float


def pack(base: Sequence[int], cells: Sequence[Cell]) -> list[int]:
    """
    Return the bounds of chunks with a weight of at most 1 each, as far as the cells allow.

    Neighbouring slices of *base* are joined while their total weight is at most 1. A slice with a weight above 1 is cut
    into pieces of about the same weight, which are not joined with neighbours.

    Args:
        base: The bounds by length alone, in milliseconds, including both ends of the window.
        cells: Cells in time order. No cell extends across a bound of *base*. Cells without rows may be missing.

    Returns:
        Bounds from the first to the last of *base*. The weight between two neighbouring bounds exceeds 1 only if
        exactly one cell between these bounds has a weight above 0.
    """
    bounds, open_weight = [base[0]], 0.0
    place = 0
    for start, end in pairwise(base):
        inside = []
        while place < len(cells) and cells[place].start < end:
            inside.append(cells[place])
            place += 1
        weight = sum(cell.weight for cell in inside)
        if open_weight + weight > 1 and bounds[-1] != start:
            bounds.append(start)
            open_weight = 0.0
        if weight <= 1:
            open_weight += weight
            continue
        bounds += _cut(inside, weight)
        # Close the last piece here. A piece of a cut slice is never joined with a neighbour, even if their total
        # weight is at most 1.
        bounds.append(end)
        open_weight = 0.0
    if bounds[-1] != base[-1]:
        bounds.append(base[-1])
    return bounds


def _cut(cells: Sequence[Cell], weight: float) -> list[int]:
    """Return the inner bounds that cut *cells* into pieces of about the same weight; *weight* is the total."""
    share = weight / math.ceil(weight)
    cuts, piece = [], 0.0
    for cell in cells:
        if piece and (piece + cell.weight > 1 or piece + cell.weight / 2 > share):
            cuts.append(cell.start)
            piece = 0.0
        piece += cell.weight
    return cuts
