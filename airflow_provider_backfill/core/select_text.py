"""
Read a user's SELECT as text: its beginning, its end, its parameters and its settings.

The text is trimmed at its ends and never changed inside. Only the server interprets the SELECT. This module is pure.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from ..errors import RequestError

_TOKEN = re.compile(
    r"(?P<blank>[\s\ufeff]+|--[^\n]*|#[ !][^\n]*|/\*.*?\*/)"
    r"|(?P<text>'(?:[^'\\]|\\.|'')*'|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)"
    r"|(?P<quoted>`(?:[^`\\]|\\.|``)*`|\"(?:[^\"\\]|\\.|\"\")*\")"
    r"|(?P<template>\{[{%#])"
    r"|\{\s*(?P<name>\w+)\s*:(?P<type>(?:[^{}']|'[^']*')*)\}"
    r"|(?P<word>\w+)"
    r"|(?P<sign>.)",
    re.DOTALL,
)
_OUTPUT = frozenset({"FORMAT", "INTO"})


class Placeholder(NamedTuple):
    """A query parameter ``{name:type}`` in a SELECT."""

    name: str
    type: str


class SelectText(NamedTuple):
    """
    A SELECT, with its query parameters and the names of its settings.

    Attributes:
        select: The statement, without white space and comments around it, and without semicolons after it.
        placeholders: The query parameters of the statement, without duplicates.
        settings: The names in the statement's SETTINGS clauses, without duplicates.
    """

    select: str
    placeholders: tuple[Placeholder, ...] = ()
    settings: tuple[str, ...] = ()


class _Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int
    depth: int
    placeholder: Placeholder | None


def read_select(text: str, what: str = "the SELECT") -> SelectText:
    """
    Return the single SELECT in a text, with its query parameters and the names of its settings.

    Args:
        what: The SELECT's name for messages.

    Raises:
        RequestError: The text has no statement or several, begins with INSERT or CREATE, has FORMAT or INTO OUTFILE, or
            contains an unfilled template.
    """
    tokens = [token for token in _tokens(text) if token.kind != "blank"]
    while tokens and tokens[-1].text == ";":
        tokens.pop()
    if not tokens:
        raise RequestError(f"{what} holds no SELECT.", hint="write a SELECT that gives the target's columns by name")
    if any(token.kind == "template" for token in tokens):
        raise RequestError(
            f"{what} has a template in it that is not filled in ({{{{ }}}} or {{% %}}).",
            hint="pass the SQL that it renders to, such as a file below target/compiled of a dbt project",
        )
    if any(token.text == ";" for token in tokens):
        raise RequestError(
            f"{what} holds several statements.", hint="pass one SELECT; what the others prepare can be a CTE in it"
        )
    first = tokens[0].text.upper()
    if first in ("INSERT", "CREATE"):
        raise RequestError(
            f"{what} begins with {first}: the statement around the SELECT is built by the plan.",
            hint="pass the SELECT alone, and the table as --target",
        )
    _refuse_output(tokens, what)
    found = [token.placeholder for token in tokens if token.placeholder is not None]
    return SelectText(
        text[tokens[0].start : tokens[-1].end], tuple(dict.fromkeys(found)), tuple(dict.fromkeys(_settings(tokens)))
    )


def _tokens(text: str) -> Iterator[_Token]:
    depth = 0
    for match in _TOKEN.finditer(text):
        kind = "placeholder" if match["name"] else match.lastgroup or ""
        kind = "text" if kind == "tag" else kind
        if match["sign"] and match["sign"] in "([":
            depth += 1
        elif match["sign"] and match["sign"] in ")]":
            depth -= 1
        placeholder = Placeholder(match["name"], match["type"].strip()) if match["name"] else None
        yield _Token(kind, match.group(), match.start(), match.end(), depth, placeholder)


def _refuse_output(tokens: list[_Token], what: str) -> None:
    """
    Refuse a FORMAT clause at the end and any INTO OUTFILE, because the plan decides where the rows go.

    Raises:
        RequestError: The statement has one of these clauses outside parentheses.
    """
    for before, token, after in zip(tokens, tokens[1:], [*tokens[2:], None], strict=False):
        if token.depth or token.kind != "word" or token.text.upper() not in _OUTPUT or after is None:
            continue
        ends = after.kind == "word" and (
            after is tokens[-1] or tokens[tokens.index(after) + 1].text.upper() == "SETTINGS"
        )
        if (
            before.text != ","
            and before.text.upper() not in ("SELECT", "AS", ".")
            and (ends if token.text.upper() == "FORMAT" else after.text.upper() == "OUTFILE")
        ):
            clause = f"{token.text} {after.text}"
            raise RequestError(
                f"{what} ends with {clause}, which says where the rows go; they go into the target.",
                hint=f"leave {clause} away",
            )


def _settings(tokens: list[_Token]) -> Iterator[str]:
    """Yield the names after each SETTINGS: ``a`` and ``b`` for ``SETTINGS a = 1, b = 'x'``."""
    inside, name = False, True
    for token, after in pairwise(tokens):
        if token.kind == "word" and token.text.upper() == "SETTINGS" and after.kind == "word":
            inside, name = True, True
        elif inside and name and token.kind == "word" and after.text == "=":
            yield token.text
            name = False
        elif inside and token.text == ",":
            name = True
        elif inside and name:
            inside = False


def find_call(text: str, name: str) -> str | None:
    """
    Return the text of the first call of the function *name*, from the name to the closing parenthesis.

    The case of *name* does not matter. None if the text has no such call, or if the call is not closed.
    """
    tokens = [token for token in _tokens(text) if token.kind != "blank"]
    for index, (token, after) in enumerate(pairwise(tokens)):
        if token.kind == "word" and token.text.lower() == name.lower() and after.text == "(":
            end = next((each for each in tokens[index + 2 :] if each.text == ")" and each.depth == token.depth), None)
            return None if end is None else text[token.start : end.end]
    return None
