"""
When a run may start chunks: hours of the day in a time zone, and a time at which it stops.

Pure: the time comes in.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from ..errors import RequestError
from .chunking import load_zone
from .instants import parse_instant

_CLOCK = re.compile(r"(?P<hour>\d{1,2})(?::(?P<minute>\d\d))?", re.ASCII)
_DAY = 24 * 60


class AllowedHours(NamedTuple):
    """
    Hours of every day, half-open: from *first* up to *last*, over midnight where *last* is the smaller one.

    Attributes:
        first: Minutes after midnight.
        last: Minutes after midnight; never *first*.
        zone: A name of the IANA database, whose clocks they are of.
    """

    first: int
    last: int
    zone: str = "UTC"

    def allows(self, moment: datetime) -> bool:
        """Whether a chunk may start at *moment*, by the clocks of the zone, summer time included."""
        local = moment.astimezone(UTC if self.zone == "UTC" else load_zone(self.zone))
        minute = local.hour * 60 + local.minute
        if self.first < self.last:
            return self.first <= minute < self.last
        return minute >= self.first or minute < self.last

    @property
    def text(self) -> str:
        """As a person reads it: ``22:00 to 06:00 Europe/Berlin``."""
        return f"{_clock(self.first)} to {_clock(self.last)} {self.zone}"


class Schedule(NamedTuple):
    """
    When a worker starts chunks; those that run are left to end.

    Attributes:
        hours: Only in these hours; at any time when None.
        stop_at: None from then on; never when None.
    """

    hours: AllowedHours | None = None
    stop_at: datetime | None = None

    def reason_to_wait(self, now: datetime) -> str:
        """Why no chunk may start now, though one may later; empty when one may."""
        if self.hours is None or self.hours.allows(now):
            return ""
        return f"chunks start from {self.hours.text} only"

    def is_over(self, now: datetime) -> bool:
        """Whether no chunk may start any more."""
        return self.stop_at is not None and now >= self.stop_at


ANY_TIME = Schedule()


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def parse_hours(text: str, zone: str | None = None) -> AllowedHours:
    """
    Read ``22-06`` or ``22:30-06:00``.

    Raises:
        RequestError: No such hours, hours that are empty, or no such zone.
    """
    first, dash, last = text.strip().partition("-")
    bounds = [_minutes(part.strip()) for part in (first, last)]
    if not dash or bounds[0] is None or bounds[1] is None:
        raise RequestError(f"{text!r} is not hours of a day.", hint="write them as 22-06 or 22:30-06:00")
    if bounds[0] % _DAY == bounds[1] % _DAY:
        raise RequestError(f"The hours {text.strip()} begin when they end.", hint="write them as 22-06")
    name = (zone or "UTC").strip()
    if name != "UTC":
        load_zone(name)
    return AllowedHours(bounds[0] % _DAY, bounds[1] % _DAY, name)


def _minutes(text: str) -> int | None:
    match = _CLOCK.fullmatch(text)
    if match is None:
        return None
    hour, minute = int(match["hour"]), int(match["minute"] or 0)
    return hour * 60 + minute if minute < 60 and hour * 60 + minute <= _DAY else None


def parse_stop(text: str, now: datetime, zone: str | None = None) -> datetime:
    """
    Read when a run is to stop: an instant (``2025-01-31T06:00:00Z``), or a time of day (``06:00``) that comes next.

    Args:
        zone: Whose clocks a time of day is of; UTC when None.

    Raises:
        RequestError: No such time, or one that has passed.
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
            hint="pass a time that is yet to come, or leave --stop-at away",
        )
    return moment


def _at(local: datetime, minutes: int, days: int) -> datetime:
    day = (local + timedelta(days=days)).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    # The clock's time of that day, which may be more or fewer minutes after its midnight.
    return (day + timedelta(minutes=minutes)).astimezone(UTC)
