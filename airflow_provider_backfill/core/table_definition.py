"""Read constraints and column TTLs from a table's definition. This module is pure."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from .sql import expressions, first_parentheses

_CHECK = re.compile(r"CONSTRAINT (?P<name>`(?:[^`\\]|\\.)+`|\w+) CHECK (?P<text>.+)", re.DOTALL)
_TTL = re.compile(
    r"(?P<name>`(?:[^`\\]|\\.)+`) (?:'(?:[^'\\]|\\.)*'|[^'])*? TTL (?P<text>.+?)(?: SETTINGS \(.*)?", re.DOTALL
)


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


def _matching(definition: str, pattern: re.Pattern[str]) -> Iterator[Named]:
    for element in expressions(first_parentheses(definition)):
        if (match := pattern.fullmatch(element)) is not None:
            yield Named(match["name"].strip("`"), match["text"])
