"""Read constraints and TTLs from a table's definition. This module is pure."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from .sql import expressions, first_parentheses

_CHECK = re.compile(r"CONSTRAINT (?P<name>`(?:[^`\\]|\\.)+`|\w+) CHECK (?P<text>.+)", re.DOTALL)
_TTL = re.compile(
    r"(?P<name>`(?:[^`\\]|\\.)+`) (?:'(?:[^'\\]|\\.)*'|[^'])*? TTL (?P<text>.+?)(?: SETTINGS \(.*)?", re.DOTALL
)
# The text after a comma within the GROUP BY clause of a TTL: a further key, or a further assignment after SET.
_OF_GROUP = re.compile(r"(?:\w+|`[^`]+`)(?:$| SET | = )")
_MOVES = re.compile(r"\b(?:TO DISK|TO VOLUME|RECOMPRESS)\b")


class Named(NamedTuple):
    """An expression, with the name of its constraint or column."""

    name: str
    expression: str


def checks(definition: str) -> Iterator[Named]:
    """Yield the CHECK constraints of a table, which inserted rows must meet."""
    return _matching(definition, _CHECK)


def column_ttls(definition: str) -> Iterator[Named]:
    """Yield the TTL of each column with a TTL; a merge resets expired values to the column's default."""
    return _matching(definition, _TTL)


def row_ttls(engine_full: str) -> list[str]:
    """Return those TTLs in a table's engine clause that delete or roll up rows."""
    _, found, rest = engine_full.partition(" TTL ")
    if not found:
        return []
    elements: list[str] = []
    for part in re.split(r",\s{0,8}(?![^(]{0,400}\))", re.split(r"\sSETTINGS\s", rest)[0]):
        if elements and " GROUP BY " in elements[-1] and _OF_GROUP.match(part):
            elements[-1] += f", {part}"
        else:
            elements.append(part.strip())
    return [element for element in elements if not _MOVES.search(element)]


def _matching(definition: str, pattern: re.Pattern[str]) -> Iterator[Named]:
    for element in expressions(first_parentheses(definition)):
        if (match := pattern.fullmatch(element)) is not None:
            yield Named(match["name"].strip("`"), match["text"])
