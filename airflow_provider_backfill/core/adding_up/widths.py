"""Find conversions that lose digits of numbers before the parts of a value are merged. This module is pure."""

import re

from ..column_types import unwrap_type
from .lineage import Value, is_partial

INTEGER = re.compile(r"(U?)Int(\d+)")
_DECIMAL_TYPE = re.compile(r"Decimal\((\d+), (\d+)\)")
NUMBER_CAST = re.compile(
    r"_?CAST|accurateCast|to(?:U?Int\d+|Float\d+|Decimal\d+|Nullable|LowCardinality)|materialize|identity|assumeNotNull"
)


def cuts_fractions(given: str, wanted: str) -> bool:
    """
    Return whether a conversion from type *given* to type *wanted* may cut off digits after the point.

    Parts without these digits do not add up to the sum without these digits. Return True also if *wanted* is not a type
    of numbers.
    """
    one, other = unwrap_type(given), unwrap_type(simple_type(wanted))
    if "Float" in other:
        return False
    if (scale := _DECIMAL_TYPE.fullmatch(other)) is not None:
        has = _DECIMAL_TYPE.fullmatch(one)
        return "Float" in one or (has is not None and int(has[2]) > int(scale[2]))
    return not INTEGER.fullmatch(other) or re.search(r"Float|Decimal", one) is not None


def simple_type(kind: str) -> str:
    """Return the type of the values of a SimpleAggregateFunction; any other type stays unchanged."""
    return match[1] if (match := re.fullmatch(r"SimpleAggregateFunction\(\w+, (.*)\)", kind)) else kind


def too_narrow(value: Value, by: str, kind: str) -> int | None:
    """
    Return the smallest width, in bits, at which numbers may overflow before the column merges them.

    Numbers that overflow wrap around. For ``sum``, only widths below the column's width and below 64 bits matter,
    because sums that wrap at the same width still agree. For ``min`` and ``max``, only conversions to a type that
    cannot store all numbers matter.

    Args:
        by: How the column merges its parts.
        kind: The column's type.

    Returns:
        The width; None if there is no such width, or if *by* is not ``sum``, ``min`` or ``max``.
    """
    wanted = INTEGER.fullmatch(unwrap_type(simple_type(kind)))
    steps, todo, seen = [], [value], set[int]()
    while todo:
        one = todo.pop()
        if id(one) in seen or not is_partial(one):
            continue
        seen.add(id(one))
        if (cast := INTEGER.fullmatch(unwrap_type(one.type))) is not None:
            steps.append((int(cast[2]), cast[1], one))
        todo += one.args
    if by == "sum":
        most = int(wanted[2]) if wanted is not None else 64
        return min((bits for bits, _, _ in steps if bits < min(most, 64)), default=None)
    if by not in ("min", "max"):
        return None
    casts = [
        (one.type, one.args[0].type) for _, _, one in steps if one.what == "call" and NUMBER_CAST.fullmatch(one.name)
    ]
    casts += [(kind, value.type)] if wanted is not None else []
    return min((bits for into, given in casts if (bits := _loses(given, into))), default=None)


def _loses(given: str, wanted: str) -> int:
    """Return the width of *wanted* in bits if some integer of type *given* does not fit; otherwise 0."""
    one, other = (INTEGER.fullmatch(unwrap_type(simple_type(kind))) for kind in (given, wanted))
    if one is None or other is None or one[0] == other[0]:
        return 0
    widens = int(one[2]) < int(other[2]) and (one[1] == "U" or other[1] == "")
    return 0 if widens else int(other[2])
