"""
Decide whether a function of a part may be applied before the parts are merged.

A part is one chunk's result for a group whose rows lie in several chunks. This module is pure.
"""

import re
from collections.abc import Sequence

from ..column_types import takes_null, unwrap_type
from .lineage import Value, is_partial
from .widths import INTEGER, NUMBER_CAST, cuts_fractions

# Names of the merging functions whose result stays the same when an equal value is merged again.
IDEMPOTENT = frozenset(
    {"min", "max", "any", "anyLast", "groupBitAnd", "groupBitOr", "groupUniqArrayArray", "minMap", "maxMap"}
)
_MONOTONE = re.compile(
    r"_?CAST|to(?:U?Int\d+|Float\d+|Date|Date32|DateTime|DateTime64|Nullable)|materialize|identity"
    r"|toStartOf(?:Second|Minute|(?:Five|Ten|Fifteen)Minutes|Hour|Day|Week|Month|Quarter|Year|ISOYear|Interval)"
    r"|toMonday|toLastDayOfMonth|dateTrunc|timeSlot|toYear|toYYYYMM|toYYYYMMDD|(?:to|from)UnixTimestamp(?:64\w+)?"
    r"|toRelative\w+Num|(?:add|subtract)(?:\w*[Ss]econds|Minutes|Hours|Days|Weeks|Months|Quarters|Years)"
    r"|floor|ceil|ceiling|round|trunc|truncate"
)
_BITS = frozenset({"groupBitAnd", "groupBitOr", "groupBitXor"})


def passes(value: Value, parts: Sequence[Value], by: str) -> bool:
    """
    Return whether the outermost function of *value* may be applied before the merge.

    This holds if the function of the merged parts equals the merge of the function's results.

    Args:
        value: A call.
        parts: The arguments that are parts.
        by: The function that merges the parts, or ``state`` for aggregate states.
    """
    name, single, all_parts = value.name, len(parts) == 1, len(parts) == len(value.args)
    if name in ("if", "multiIf"):
        return _chooses_by_keys(value, parts, by)
    if by == "state":
        return single and name in ("finalizeAggregation", "CAST", "_CAST")
    if by == "sum":
        return _is_linear(value, parts)
    if by in _BITS and single and NUMBER_CAST.fullmatch(name):
        return all(INTEGER.fullmatch(unwrap_type(kind)) for kind in (value.type, parts[0].type))
    if by in ("any", "anyLast"):
        # The result of any chunk is correct, unless the function turns the NULL of a chunk without values into a value.
        return single and (takes_null(value.type) or not takes_null(parts[0].type))
    if by in ("min", "max") and single and _keeps_order(value, parts[0]):
        return True
    return all_parts and (name, by) in (("greatest", "max"), ("least", "min"))


def _chooses_by_keys(value: Value, parts: Sequence[Value], by: str) -> bool:
    """
    Return whether ``if`` or ``multiIf`` may choose among parts before the merge.

    The conditions must not depend on parts, so that all chunks choose alike. If the parts are merged by an idempotent
    function, results that are not parts are allowed. For ``sum``, such results must be 0 or NULL. For any other merge,
    each result must be a part.
    """
    conditions, results = value.args[:-1:2], [*value.args[1::2], *value.args[-1:]]
    if any(is_partial(condition) for condition in conditions):
        return False
    others = [one for one in results if one not in parts]
    return by in IDEMPOTENT or (by == "sum" and all(one.literal in ("0", "NULL") for one in others)) or not others


def _is_linear(value: Value, parts: Sequence[Value]) -> bool:
    name, single, all_parts = value.name, len(parts) == 1, len(parts) == len(value.args)
    if name in ("ifNull", "coalesce"):
        return is_partial(value.args[0]) and all(arg.literal == "0" for arg in value.args[1:])
    if single and NUMBER_CAST.fullmatch(name):
        return not cuts_fractions(parts[0].type, value.type)
    if name in ("plus", "minus"):
        # A NULL part would hide the other part of the same chunk.
        return all_parts and not any(part.type.startswith("Nullable(") for part in parts)
    return (
        name == "negate"
        or (single and name == "multiply")
        or (single and value.args[0] in parts and name == "divide" and "Decimal" not in value.type)
    )


def _keeps_order(value: Value, part: Value) -> bool:
    """Return whether a greater *part*, the only argument with parts, never gives a smaller value of the call."""
    name, first = value.name, value.args[0] == part
    given, wanted = unwrap_type(part.type), unwrap_type(value.type)
    if name in ("greatest", "least"):
        # A NULL of a chunk without values would become the other argument.
        return not takes_null(part.type)
    if first and name in ("greater", "greaterOrEquals"):
        return True
    if first and name in ("plus", "minus", "multiply", "divide", "intDiv"):
        # Only positive constants pass, because a negative factor reverses the order.
        text = value.args[1].literal or ""
        return re.fullmatch(r"0*[1-9]\d*(\.\d+)?|toInterval\w+\(\d+\)", text) is not None
    # The order of texts differs from the order of the numbers in the texts. Texts of dates and times may be converted
    # to dates and times, because the conversion keeps the order.
    return _MONOTONE.fullmatch(name) is not None and "String" not in (wanted, given if "Date" not in wanted else "")
