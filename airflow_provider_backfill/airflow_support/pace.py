"""Define when the tasks of a backfill may start chunks, and their limits for load and failures."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from ..commands.lease import utc_now
from ..core.hours import Schedule, check_limits, parse_hours, read_schedule
from ..core.instants import parse_instant, render_instant
from ..errors import RequestError
from .fields import blank_to_none, is_literal

FIELDS = ("max_load", "max_failures", "hours", "stop_at", "zone")


class Pace(NamedTuple):
    """
    The pace of a task, in a form that a trigger can store.

    Attributes:
        max_load: The share of the server's limits above which the task waits.
        max_failures: The number of permanent failures in a row after which the task stops.
        hours: The hours of the day in which chunks may start, such as ``22-06``; None for all hours.
        stop_at: The stop time as the text of an instant, so that a restart of the triggerer does not shift the time;
            None for no stop time.
        zone: The time zone of *hours*; None for UTC.
    """

    max_load: float = 0.8
    max_failures: int = 10
    hours: str | None = None
    stop_at: str | None = None
    zone: str | None = None

    def arguments(self) -> dict[str, Any]:
        """Return the pace as keyword arguments of ``run_plan``."""
        return {"max_load": self.max_load, "max_failures": self.max_failures, "schedule": self._schedule()}

    def is_over(self) -> bool:
        """Return whether the stop time has passed, so that no chunk may start any more; false without a stop time."""
        return self._schedule().is_over(utc_now())

    def _schedule(self) -> Schedule:
        hours = None if self.hours is None else parse_hours(self.hours, self.zone)
        return Schedule(hours, None if self.stop_at is None else parse_instant(self.stop_at))


def read_pace(fields: Mapping[str, Any], began: datetime) -> Pace:
    """
    Return the pace from the rendered fields of an operator; blank fields have the defaults of :class:`Pace`.

    Args:
        fields: The values of ``FIELDS``, by name.
        began: The start of the DAG run. A time of day in *stop_at* means the next such time after this start, for all
            tasks and tries.

    Raises:
        RequestError: A field is invalid.
    """
    load, failures = _number(fields["max_load"], float, 0.8), _number(fields["max_failures"], int, 10)
    check_limits(load, failures)
    hours, stop, zone = (blank_to_none(fields[name]) for name in ("hours", "stop_at", "zone"))
    schedule = read_schedule(hours, stop, zone, began)
    return Pace(load, failures, hours, None if schedule.stop_at is None else render_instant(schedule.stop_at), zone)


def check_literals(fields: Mapping[str, Any]) -> None:
    """
    Check the fields before rendering; fields with a template are checked at run time.

    Raises:
        RequestError: A field is invalid.
    """
    literal = {name: value if is_literal(value) else None for name, value in fields.items()}
    if any(not is_literal(fields[name]) for name in ("hours", "stop_at")):
        literal["zone"] = None
    # Compare with 1970: a stop time before the parsing of the DAG may have been in the future when the run began.
    read_pace(literal, parse_instant("1970-01-01"))


def _number(value: Any, kind: type[float] | type[int], default: float) -> Any:
    """
    Return text as a number, *default* for a blank value, and other values unchanged for the caller to check.

    Raises:
        RequestError: The text is not a number.
    """
    given = blank_to_none(value)
    if not isinstance(given, str):
        return default if given is None else given
    try:
        return kind(given)
    except ValueError:
        raise RequestError(f"{given!r} is not a number.", hint="pass a number, or a template that gives one") from None
