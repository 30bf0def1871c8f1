"""
Bind the query parameters by which a user places the window in a SELECT.

``{chunk_from:T}`` and ``{chunk_to:T}`` (or ``{from:T}`` and ``{to:T}``) are a chunk's bounds, in type T.
``{name:String}`` is the chunk's start in a strftime format, if the plan has a format for that name. Values are sent
separately, so that the statement's text stays unchanged. This module is pure.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from ..errors import Advice, Flag, MisalignedError, RequestError
from .column_types import time_kind, unwrap_type
from .instants import MS_PER_DAY, from_ms, render_instant, to_ms
from .plan import Parameter
from .query_tree import Node
from .select_text import Placeholder
from .tables import TimeKind
from .window import Slice

# The names of the parameters for bounds, each with True for the chunk's start or False for the chunk's end.
_BOUNDS = {"chunk_from": True, "chunk_to": False, "from": True, "to": False}
_TICK = timedelta(milliseconds=1)
_COMPARISONS = frozenset({"equals", "notEquals", "less", "lessOrEquals", "greater", "greaterOrEquals"})
_ZONE = re.compile(r"DateTime(?:64\(\d+(?:, '(?P<fine>[^']+)')?\)|\('(?P<whole>[^']+)'\))?")


class ComparedZones(NamedTuple):
    """
    A comparison of a column with a value whose time zone differs from the column's.

    Attributes:
        source: The id of the node that the column comes from; empty if the server does not show it.
        zones: The zones of column and value; empty text for the server's zone.
    """

    column: str
    source: str
    column_type: str
    value_type: str
    zones: tuple[str, str]


def read_formats(formats: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """
    Return the pairs of name and format of ``--param NAME=FORMAT``, checked and sorted by name.

    Raises:
        RequestError: A name is not an identifier, or a format gives the same text for the first second of 2025 and the
            last second of 2026.
    """
    first, other = datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)
    for name, text in formats.items():
        if not name.isidentifier():
            raise RequestError(
                f"{name!r} is no name of a parameter.", remedy=Advice("write {}", Flag("--param", "day=%Y-%m-%d"))
            )
        if first.strftime(text) == other.strftime(text):
            raise RequestError(
                f"The format {text!r} of {name} gives the same text for every chunk.",
                remedy=Advice("use the codes of strftime: {}", Flag("--param", f"{name}=%Y-%m-%d")),
            )
    return tuple(sorted(formats.items()))


def read_parameters(
    found: Sequence[Placeholder], formats: Mapping[str, str], unit: str, what: str
) -> tuple[Parameter, ...]:
    """
    Return a :class:`.Parameter` for each placeholder of a SELECT; empty for a SELECT without placeholders.

    Args:
        formats: The strftime format of the chunk's start, by parameter name.
        unit: The unit of integer bounds: ``s``, ``ms``, ``us`` or ``ns``.
        what: The SELECT's name for messages.

    Raises:
        RequestError: A placeholder has no value, a format is not used, the placeholder of a format is not a String, the
            type of a bound holds no instant or is Nullable or LowCardinality, or only one of the two bounds is used.
    """
    unused = [name for name in formats if name not in {one.name for one in found}]
    if unused:
        raise RequestError(
            f"{what} has no parameter {{{unused[0]}:String}}.",
            remedy=Advice("use it in the SELECT, or omit {}", Flag("--param", f"{unused[0]}={formats[unused[0]]}")),
        )
    parameters = tuple(_parameter(one, formats, unit, what) for one in found)
    bounds = {_BOUNDS[one.name] for one in parameters if not one.format}
    if len(bounds) == 1:
        missing = "chunk_to" if True in bounds else "chunk_from"
        raise RequestError(
            f"{what} uses only one end of the chunk, so each chunk would read rows of others as well.",
            hint=f"use {{{missing}:DateTime64(3)}} too: the start is included, the end is not",
        )
    return parameters


def _parameter(found: Placeholder, formats: Mapping[str, str], unit: str, what: str) -> Parameter:
    if found.name in formats:
        if found.type != "String":
            raise RequestError(
                f"{{{found.name}:{found.type}}} of {what} has a format, which gives text.",
                hint=f"write {{{found.name}:String}}, and convert it in the SELECT",
            )
        return Parameter(name=found.name, format=formats[found.name])
    if found.name not in _BOUNDS:
        raise RequestError(
            f"{what} has a parameter {{{found.name}:{found.type}}}, which nothing gives a value.",
            remedy=Advice(
                "the chunk's bounds are {chunk_from:DateTime64(3)} and {chunk_to:DateTime64(3)}".replace(
                    "{", "{{"
                ).replace("}", "}}")
                + "; its start as text is given by {}",
                Flag("--param", f"{found.name}=%Y-%m-%d"),
            ),
        )
    kind = time_kind(found.type, unit)
    if kind is None or found.type.startswith(("Nullable(", "LowCardinality(")):
        integer = found.type.lstrip("U").startswith("Int")
        raise RequestError(
            f"{{{found.name}:{found.type}}} of {what} holds no instant.",
            remedy=Advice("for an integer epoch pass {} with s, ms, us or ns", Flag("--time-unit"))
            if integer
            else Advice("write it as a Date, DateTime, DateTime64(3), or an Int64 with a time unit"),
        )
    scale = int(found.type.removeprefix("DateTime64(").split(",")[0].rstrip(")")) if kind is TimeKind.DATETIME64 else 0
    return Parameter(name=found.name, kind=kind, scale=scale)


def has_bounds(parameters: Sequence[Parameter]) -> bool:
    """Return whether at least one of *parameters* is a bound of the chunk; False without parameters."""
    return any(not one.format for one in parameters)


def tell_chunks_by_text(parameters: Sequence[Parameter], bounds: Sequence[int]) -> bool:
    """
    Return whether the formats give each chunk a different text, so that no two chunks run the same SELECT.

    False if there is no format. *bounds* are the bounds of the chunks, in milliseconds.
    """
    formats = [one for one in parameters if one.format]
    if not formats:
        return False
    texts = [_texts(formats, from_ms(start)) for start in bounds[:-1]]
    return len(set(texts)) == len(texts)


def of_one_text(
    parameters: Sequence[Parameter], bounds: Sequence[int], slices: Sequence[Slice]
) -> list[Sequence[Slice]]:
    """
    Return groups of slices such that one execution of the SELECT can read a whole group.

    Without formats, all slices are one group. With formats, the slices are cut at the chunk bounds, and each group is
    one slice. Adjacent slices with the same texts of all formats are joined if the parameters include bounds.

    Args:
        bounds: The bounds of the chunks, in milliseconds.
    """
    formats = [one for one in parameters if one.format]
    if not formats:
        return [slices]
    found: list[Slice] = []
    for first, last in slices:
        inside = [at for ms in bounds if first < (at := from_ms(ms)) < last]
        for start, end in pairwise([first, *inside, last]):
            before = found[-1] if found and has_bounds(parameters) and found[-1][1] == start else None
            if before is not None and _texts(formats, before[0]) == _texts(formats, start):
                found[-1] = (before[0], end)
            else:
                found.append((start, end))
    return [[each] for each in found]


def _texts(formats: Sequence[Parameter], at: datetime) -> str:
    return " ".join(at.strftime(one.format) for one in formats)


def compared_zones(tree: Node) -> Iterator[ComparedZones]:
    """Yield the comparisons of a query tree between a column and a value, if their time zones differ by name."""
    for node in tree.walk():
        sides = node.list("ARGUMENTS") if node.name in _COMPARISONS else ()
        columns = [side for side in sides if side.kind == "COLUMN"]
        for column, value in ((column, side) for column in columns[:1] for side in sides if side.kind != "COLUMN"):
            found = [_ZONE.fullmatch(unwrap_type(side.type)) for side in (column, value)]
            zones = [match["fine"] or match["whole"] or "" for match in found if match is not None]
            if len(set(zones)) == 2:
                source = column.fields.get("source", "")
                yield ComparedZones(column.name, source, column.type, value.type, (zones[0], zones[1]))


def parameter_settings(parameters: Sequence[Parameter], start: datetime, end: datetime) -> dict[str, str]:
    """Return the parameter values for the chunk ``[start, end)``, as settings ``param_NAME`` for the server."""
    return {f"param_{one.name}": _value(one, start, end) for one in parameters}


def _value(parameter: Parameter, start: datetime, end: datetime) -> str:
    if parameter.format:
        return start.astimezone(UTC).strftime(parameter.format)
    at = (start if _BOUNDS[parameter.name] else end).astimezone(UTC)
    kind = parameter.kind
    if kind in (TimeKind.DATE, TimeKind.DATE32):
        return f"{at:%Y-%m-%d}"
    seconds, rest = divmod(to_ms(at), 1000)
    if kind is not None and kind.per_second:
        return str(to_ms(at) * kind.per_second // 1000)
    if seconds < 0 and rest:
        # The sign of a number applies to its fraction, too.
        return f"-{-seconds - 1}.{1000 - rest:03d}" if kind is TimeKind.DATETIME64 else str(seconds)
    return f"{seconds}.{rest:03d}" if kind is TimeKind.DATETIME64 else str(seconds)


def check_parameters(parameters: Sequence[Parameter], bounds: Sequence[int], what: str) -> None:
    """
    Check that the parameters can express the chunk bounds, given in milliseconds.

    Raises:
        MisalignedError: A bound lies between two values of a parameter's type, a chunk spans several values of the
            formats, or, without parameters for bounds, a chunk is only a part of the time of one value.
        RequestError: Without parameters for bounds, two chunks have the same texts of all formats.
    """
    formats = [parameter for parameter in parameters if parameter.format]
    if formats:
        _check_formats(formats, bounds, what, alone=not has_bounds(parameters))
    for parameter in parameters:
        if not parameter.format and (cut := next((at for at in bounds if at % _grain(parameter)), None)):
            grain = _grain(parameter)
            length = Flag("--chunk-by", "day") if grain == MS_PER_DAY else Flag("--chunk-hours")
            raise MisalignedError(
                f"The chunk bound {render_instant(from_ms(cut))} is none that {{{parameter.name}}} of {what} can hold.",
                proposal=(length,) if length.value else (),
                remedy=Advice("use a finer type, or pass {} and whole days as the window", length)
                if grain == MS_PER_DAY
                else Advice("use a finer type, such as DateTime64(3), or bounds of whole seconds"),
            )


def slices_at(parameters: Sequence[Parameter], at: int) -> list[Slice]:
    """
    Return the shortest slices before and after *at* that the parameters can express; empty if a bound is a date.

    Args:
        parameters: Parameters of which at least one is a bound.
        at: Milliseconds since 1970. The slices meet at this instant, rounded down to a value that the bounds can
            express.
    """
    grain = max(_grain(parameter) for parameter in parameters if not parameter.format)
    at -= at % grain
    middle = from_ms(at)
    return [] if grain == MS_PER_DAY else [(from_ms(at - grain), middle), (middle, from_ms(at + grain))]


def _grain(parameter: Parameter) -> int:
    """Return the milliseconds between two adjacent values of a bound; at least 1."""
    if parameter.kind in (TimeKind.DATE, TimeKind.DATE32):
        return MS_PER_DAY
    if parameter.kind is TimeKind.DATETIME64:
        return int(10 ** max(3 - parameter.scale, 0))
    if parameter.kind is not None and parameter.kind.per_second:
        return max(1000 // parameter.kind.per_second, 1)
    return 1000


def _check_formats(parameters: Sequence[Parameter], bounds: Sequence[int], what: str, *, alone: bool) -> None:
    """
    Check that the formats have one value for each chunk.

    If they are *alone*, without parameters for bounds, each value must also belong to exactly one chunk.

    Raises:
        MisalignedError: A chunk spans several values, or, if *alone*, is only a part of the time of one value.
        RequestError: If *alone*, two chunks have the same value.
    """
    finest = min(parameters, key=lambda one: _length_of(one.format)[0])
    names = " ".join(f"{{{parameter.name}}}" for parameter in parameters)

    proposal = (_length_of(finest.format)[1],)
    seen: dict[str, datetime] = {}
    for start, end in pairwise(map(from_ms, bounds)):
        value, last = (_texts(parameters, at) for at in (start, end - _TICK))
        if value != last:
            raise MisalignedError(
                f"The chunk {render_instant(start)} to {render_instant(end)} has several values of "
                f"{names} ({value} to {last}), and {what} would read only the first.",
                proposal=proposal,
                remedy=Advice("pass {}", *proposal),
            )
        if alone and value in (_texts(parameters, start - _TICK), _texts(parameters, end)):
            raise MisalignedError(
                f"The chunk {render_instant(start)} to {render_instant(end)} is only a part of {names} = "
                f"{value}, and {what} would read all of it in every such chunk.",
                proposal=proposal,
                remedy=Advice(
                    "pass {}, or limit the rows by {{chunk_from:DateTime}} and {{chunk_to:DateTime}}", *proposal
                ),
            )
        if alone and value in seen:
            raise RequestError(
                f"The chunks that begin at {render_instant(seen[value])} and {render_instant(start)} have the same "
                f"{names} = {value}, and {what} would read its rows in both.",
                remedy=Advice("use a format that does not come again within the window, such as %Y-%m-%d"),
            )
        seen[value] = start


def _length_of(text: str) -> tuple[float, Flag]:
    """
    Return a chunk length at which each chunk has one value of a format.

    Returns:
        The approximate hours, and the flag that sets the length. For a format that changes neither from hour to hour,
        from day to day nor from month to month, the hours of a year and the flag for an automatic length.
    """
    first, next_month = datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 2, 1, tzinfo=UTC)
    for hours in (1, 24):
        if (first + timedelta(hours=hours)).strftime(text) != first.strftime(text):
            return hours, Flag("--chunk-hours", "1") if hours == 1 else Flag("--chunk-by", "day")
    month = next_month.strftime(text) != first.strftime(text)
    return (744, Flag("--chunk-by", "month")) if month else (8760, Flag("--chunk-hours", "auto"))
