"""Parse, show and quote the names of tables and columns. This module is pure."""

import re

from ..errors import Advice, Flag, RequestError
from .tables import TableName

_WORD = re.compile(r"[^\W\d]\w*(?:-\w+)*")
_NAME = re.compile(r"`((?:[^`\\]|\\.|``)+)`|\"((?:[^\"\\]|\\.|\"\")+)\"|([^\W\d]\w*(?:-\w+)*)")


def parse_table(text: str, what: str) -> TableName:
    """
    Return the table's name that the text ``database.table`` gives.

    A bare part has letters, digits, ``_`` and single inner ``-``, and does not begin with a digit. Other parts need
    backticks or double quotes.

    Args:
        what: The name of the table's flag without ``--``, for the message: ``target``, ``source``.

    Raises:
        RequestError: The text is not a table name of two parts.
    """
    trimmed = text.strip()
    first = _NAME.match(trimmed)
    second = (
        _NAME.fullmatch(trimmed, first.end() + 1) if first and trimmed[first.end() : first.end() + 1] == "." else None
    )
    if not (first and second):
        raise RequestError(
            f"The {what} {text!r} is not a table name.",
            remedy=Advice(
                "write {}, with backticks around a name that has other characters", Flag(f"--{what}", "database.table")
            ),
        )
    return TableName(_unquoted(first), _unquoted(second))


def _unquoted(match: re.Match[str]) -> str:
    backticked, quoted, word = match.groups()
    if word:
        return str(word)
    text = backticked if backticked is not None else quoted
    return re.sub(r"\\(.)|(`)`|(\")\"", lambda m: m.group(1) or m.group(2) or m.group(3), text)


def show_table(name: TableName) -> str:
    """Return the name as a plan stores it: parts are in backticks unless :func:`parse_table` reads them bare."""
    return ".".join(part if _WORD.fullmatch(part) else quote(part) for part in name)


def quote(name: str) -> str:
    """Return an identifier in backticks, with backslashes and backticks escaped."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def is_expression(column: str) -> bool:
    """Return whether a time column is an expression over the table's columns; an expression is in parentheses."""
    return column.startswith("(") and column.endswith(")")


def time_value(column: str) -> str:
    """Return SQL for a time column: the quoted name, or the expression."""
    return column if is_expression(column) else quote(column)
