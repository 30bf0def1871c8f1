"""
Decide when a run may start chunks: hours of the day in a time zone, and a stop time.

This module is pure: the caller passes the time.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from ..errors import Advice, Flag, RequestError
from .chunking import load_zone
from .instants import parse_instant

_CLOCK = re.compile(r"(?P<hour>\d{1,2})(?::(?P<minute>\d\d))?", re.ASCII)
_DAY = 24 * 60


class AllowedHours(NamedTuple):
    """
    A half-open period of every day. If *last* is smaller than *first*, the period ends on the next day.

    Attributes:
        first: The start of the period, in minutes after midnight.
        last: The end of the period, excluded, in minutes after midnight, at least 1; never equal to *first*.
        zone: The IANA name of the time zone of *first* and *last*.
    """

    first: int
    last: int
    zone: str = "UTC"

    def allows(self, moment: datetime) -> bool:
        """Return whether the period contains the local time of *moment* in the zone, with regard to summer time."""
        local = moment.astimezone(UTC if self.zone == "UTC" else load_zone(self.zone))
        minute = local.hour * 60 + local.minute
        if self.first < self.last:
            return self.first <= minute < self.last
        return minute >= self.first or minute < self.last

    @property
    def text(self) -> str:
        """The hours for people: ``22:00 to 06:00 Europe/Berlin``."""
        return f"{_clock(self.first)} to {_clock(self.last)} {self.zone}"


class Schedule(NamedTuple):
    """
    The times at which a worker may start chunks. Running chunks are not stopped.

    Attributes:
        hours: The allowed hours; None for any time.
        stop_at: The instant at which the run stops: no chunk starts then or later. None for no such limit.
    """

    hours: AllowedHours | None = None
    stop_at: datetime | None = None

    def reason_to_wait(self, now: datetime) -> str:
        """Return the reason if the allowed hours forbid a start at *now*; otherwise an empty text. Ignore *stop_at*."""
        if self.hours is None or self.hours.allows(now):
            return ""
        return f"chunks start from {self.hours.text} only"

    def is_over(self, now: datetime) -> bool:
        """Return whether the stop time has come, so that no chunk may start any more."""
        return self.stop_at is not None and now >= self.stop_at


ANY_TIME = Schedule()


def read_schedule(hours: str | None, stop_at: str | None, zone: str | None, now: datetime) -> Schedule:
    """
    Read the schedule of a run from a user's texts; a text that was not given is None.

    Raises:
        RequestError: A text is invalid, the stop time has passed, or a zone is given with neither hours nor stop time.
    """
    if zone is not None and hours is None and stop_at is None:
        raise RequestError(
            f"The time zone {zone} belongs to no time of day.",
            remedy=Advice("pass {} or {} as well", Flag("--hours", "22-06"), Flag("--stop-at", "06:00")),
        )
    return Schedule(
        None if hours is None else parse_hours(hours, zone),
        None if stop_at is None else parse_stop(stop_at, now, zone),
    )


def check_limits(max_load: object, max_failures: object) -> None:
    """
    Check that the limits of load and failures have valid types and values.

    Raises:
        RequestError: *max_load* is not a number above 0 and up to 1, or *max_failures* is not an integer above 0.
    """
    if isinstance(max_load, bool) or not isinstance(max_load, int | float) or not 0 < max_load <= 1:
        raise RequestError(f"The maximum load is {max_load!r}.", hint="pass a share above 0 and up to 1, such as 0.8")
    if isinstance(max_failures, bool) or not isinstance(max_failures, int) or max_failures < 1:
        raise RequestError(
            f"The maximum number of failures is {max_failures!r}.", hint="pass a whole number above 0, such as 10"
        )


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def parse_hours(text: str, zone: str | None = None) -> AllowedHours:
    """
    Read hours of the day, such as ``22-06`` or ``22:30-06:00``, in a time zone; UTC if *zone* is None.

    ``00-24`` is the whole day.

    Raises:
        RequestError: The hours are invalid, or begin when they end (``22-22``), or the zone does not exist.
    """
    first, dash, last = text.strip().partition("-")
    bounds = [_minutes(part.strip()) for part in (first, last)]
    if not dash or bounds[0] is None or bounds[1] is None:
        raise RequestError(f"{text!r} is not hours of a day.", hint="write them as 22-06 or 22:30-06:00")
    if bounds[0] % _DAY == bounds[1] % _DAY and bounds != [0, _DAY]:
        raise RequestError(f"The hours {text.strip()} begin when they end.", hint="write them as 22-06")
    name = (zone or "UTC").strip()
    if name != "UTC":
        load_zone(name)
    return AllowedHours(bounds[0] % _DAY, bounds[1] % _DAY or _DAY, name)


def _minutes(text: str) -> int | None:
    match = _CLOCK.fullmatch(text)
    if match is None:
        return None
    hour, minute = int(match["hour"]), int(match["minute"] or 0)
    return hour * 60 + minute if minute < 60 and hour * 60 + minute <= _DAY else None


def parse_stop(text: str, now: datetime, zone: str | None = None) -> datetime:
    """
    Return the instant at which a run stops.

    The text is an instant (``2025-01-31T06:00:00Z``), or a time of day (``06:00``) for its next occurrence after *now*.

    Args:
        zone: The zone of a time of day; UTC if None. An instant does not use the zone.

    Raises:
        RequestError: The text is invalid, the zone of a time of day does not exist, or the instant has passed.
    """
    minutes = _minutes(text.strip()) if ":" in text and "-" not in text else None
    if minutes is None:
        moment = parse_instant(text)
    else:
        local = now.astimezone(UTC if zone in (None, "UTC") else load_zone(zone))
        moment = _at(local, minutes, 0)
        if moment <= now:
            moment = _at(local, minutes, 1)
    if moment <= now:
        raise RequestError(
            f"The run is to stop at {text.strip()}, and it is {now:%Y-%m-%dT%H:%M:%SZ}.",
            remedy=Advice("pass a time in the future, or omit {}", Flag("--stop-at")),
        )
    return moment


def _at(local: datetime, minutes: int, days: int) -> datetime:
    day = (local + timedelta(days=days)).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    # Add to the local time: on a day with a clock change, elapsed minutes since midnight give a different time of day.
    return (day + timedelta(minutes=minutes)).astimezone(UTC)
