"""Read column types from their texts, and decide which conversions lose nothing. This module is pure."""

import re

from .tables import TimeKind

_WRAPPER = re.compile(r"(?:Nullable|LowCardinality)\((.*)\)")
_INTEGERS = frozenset(f"{sign}Int{bits}" for sign in ("", "U") for bits in (32, 64))
_LOW_CARDINALITY = re.compile(r"\bLowCardinality\(((?:[^()]|\((?:[^()]|\([^()]*\))*\))*)\)")
_SIMPLE_STATE = re.compile(r"\bSimpleAggregateFunction\(\w+, ((?:[^()]|\((?:[^()]|\([^()]*\))*\))*)\)")
_ZONE = re.compile(r"\b(DateTime64\(\d+|DateTime)(?:, |\()'[^']*'\)")
_ENUM = re.compile(r"Enum(?:8|16)\((.*)\)", re.DOTALL)
_ENUM_VALUE = re.compile(r"('(?:[^'\\]|\\.){0,400}') = (-?\d{1,9})")
# Pairs of types. Every value of the first type can be converted to the second type and back without loss.
_EXACT = frozenset({("UUID", "String"), ("IPv4", "String"), ("IPv6", "String"), ("IPv4", "IPv6"), ("Bool", "UInt8")})


def unwrap_type(text: str) -> str:
    """Return a column's type without the outer ``Nullable`` and ``LowCardinality``."""
    while match := _WRAPPER.fullmatch(text):
        text = match.group(1)
    return text


def time_kind(column_type: str, unit: str = "") -> TimeKind | None:
    """
    Return how a column of this type stores instants; None for a type that stores none.

    An integer stores instants only if a *unit* (s, ms, us, ns) is given and the integer has 32 or 64 bits.
    """
    name = unwrap_type(column_type)
    if name in ("Date", "Date32"):
        return TimeKind(name.lower())
    if name.startswith("DateTime64("):
        return TimeKind.DATETIME64
    if name == "DateTime" or name.startswith("DateTime("):
        return TimeKind.DATETIME
    return TimeKind(f"epoch-{unit}") if unit and name in _INTEGERS else None


def widens(given: str, wanted: str, common: str) -> bool:
    """
    Return whether a conversion from type *given* to type *wanted* keeps every value.

    The result does not consider NULL: if *wanted* cannot store NULL, an INSERT stores the default instead.

    Args:
        common: The smallest common type of both types; empty if there is none.
    """
    source, target = _plain(given), _plain(wanted)
    if target in (source, _plain(common)) or (source, target) in _EXACT:
        return True
    if target.startswith("Dynamic"):
        return True
    if target.startswith("Variant("):
        return source in _arguments(target)
    given_enum, wanted_enum = _ENUM.fullmatch(source), _ENUM.fullmatch(target)
    if given_enum and wanted_enum:
        return set(_ENUM_VALUE.findall(given_enum[1])) <= set(_ENUM_VALUE.findall(wanted_enum[1]))
    return False


def is_comparable(column_type: str) -> bool:
    """Return whether values can be sorted: the type contains no aggregate state, Variant, Dynamic, JSON or Object."""
    return not re.search(r"\b(?:AggregateFunction\(|Variant\(|Dynamic|JSON|Object\()", column_type)


def takes_null(column_type: str) -> bool:
    """Return whether a column of this type can store a NULL."""
    name = column_type.removeprefix("LowCardinality(")
    return name.startswith(("Nullable(", "Variant(", "Dynamic", "JSON"))


def _plain(text: str) -> str:
    """
    Return a type without its outer Nullable.

    At any depth, LowCardinality and SimpleAggregateFunction are replaced by the types of their values, time zones are
    removed, and line breaks become spaces.
    """
    text = " ".join(text.split())
    for pattern in (_LOW_CARDINALITY, _SIMPLE_STATE):
        while (inner := pattern.sub(r"\1", text)) != text:
            text = inner
    text = _ZONE.sub(lambda match: match[1] + (")" if "(" in match[1] else ""), text)
    return text[len("Nullable(") : -1] if text.startswith("Nullable(") else text


def _arguments(text: str) -> list[str]:
    """Return the types between the outer parentheses of *text*."""
    parts, depth, part = [], 0, ""
    for sign in text[text.index("(") + 1 : -1]:
        depth += (sign == "(") - (sign == ")")
        if sign == "," and not depth:
            parts.append(part.strip())
            part = ""
        else:
            part += sign
    return [*parts, part.strip()]
