"""Write harmless lines to a terminal, pipe or file, in colours where possible, even if the reader has gone."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

from ..core.plain_text import plain_line, plain_text

_COLOURS = {"error": "31", "failed": "31", "warn": "33", "paused": "33", "cancelled": "33", "completed": "32"}
_PAINTED = re.compile(r"(\x1b\[(?:0|3[1-3])m)")


def is_terminal(out: IO[str]) -> bool:
    """Return whether *out* is a terminal that can be redrawn, rather than written line by line."""
    return out.isatty() and os.environ.get("TERM") != "dumb"


def write(out: IO[str], line: str) -> None:
    """Write one harmless line of progress immediately. If the reader has gone, discard this and all further output."""
    with muted_when_broken(out):
        out.write(f"{plain_line(line)}\n")
        out.flush()


def columns_of(out: IO[str]) -> int | None:
    """Return the width of a terminal in columns; None for pipes, files and terminals that cannot be redrawn."""
    if not is_terminal(out):
        return None
    with suppress(OSError, ValueError):
        return os.get_terminal_size(out.fileno()).columns or None
    return None


def mute(out: IO[str]) -> None:
    """Discard further output to *out*, including Python's own output at exit."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, out.fileno())
        os.close(nowhere)


@contextmanager
def muted_when_broken(out: IO[str]) -> Iterator[None]:
    """Suppress an OSError and then :func:`mute` *out*, so that a run survives the end of its terminal or pipe."""
    try:
        yield
    except OSError:
        mute(out)


def paint(text: str, kind: str, out: IO[str]) -> str:
    """Return *text* in the colour of *kind* (a status or severity), if *out* shows colours and the user wants them."""
    code = _COLOURS.get(kind)
    return f"\x1b[{code}m{text}\x1b[0m" if code and is_terminal(out) and not os.environ.get("NO_COLOR") else text


def print_line(out: IO[str], text: str) -> None:
    """
    Write a text of one or more lines, followed by a line break.

    Only the colours of :func:`paint` stay; other terminal control and CI commands become harmless.
    """
    parts = _PAINTED.split(text)
    # split() puts the colours, which stay unchanged, at odd indexes.
    out.write("".join(part if index % 2 else plain_text(part) for index, part in enumerate(parts)) + "\n")
