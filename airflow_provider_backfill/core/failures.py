"""Shorten the errors of failed chunks, and group chunks with the same error. This module is pure."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from .plan import Chunk

_NOISE_BEHIND = (": while executing ", ": While executing ", ": in scope ", ": In scope ")
# A pattern for the code of an error, with or without the error's name, in parentheses at the end of a message.
_CODE = re.compile(r"\(\d{1,6}(?: [A-Z0-9_]+)?\)$")
_PREFIX = "ClickHouse refused the statement: "


class FailureGroup(NamedTuple):
    """One short error and the chunks that failed with it."""

    error: str
    chunks: tuple[Chunk, ...]


def short_error(message: str) -> str:
    """
    Return the part of an error that a person acts on.

    Remove the product's prefix, and the server's remarks on the place in the query. Keep the code and the name in
    parentheses at the end.
    """
    text = message.removeprefix(_PREFIX)
    cut = min((at for mark in _NOISE_BEHIND if (at := text.find(mark)) > 0), default=-1)
    if cut < 0:
        return text
    tail = _CODE.search(text, cut)
    return f"{text[:cut]} {tail[0]}" if tail else text[:cut]


def group_failures(failed: Iterable[tuple[Chunk, str]]) -> list[FailureGroup]:
    """
    Return failed chunks in groups with the same short error; the most frequent error comes first.

    The chunks of a group keep the order of *failed*.

    Args:
        failed: Each failed chunk with its error message.
    """
    groups: dict[str, list[Chunk]] = {}
    for chunk, error in failed:
        groups.setdefault(short_error(error), []).append(chunk)
    by_size = sorted(groups.items(), key=lambda item: -len(item[1]))
    return [FailureGroup(error, tuple(chunks)) for error, chunks in by_size]
