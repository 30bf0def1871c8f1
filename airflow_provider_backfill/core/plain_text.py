"""
Text of others as text: it moves no cursor, turns no reading direction, and commands no CI.

Names of views, columns and tables, errors and reasons may hold any character. What is shown of them, on a
terminal, in a log, a report or the page, goes through here; what is dangerous becomes visible instead. Pure.
"""

import re
from typing import Any

# Control characters, marks that turn the reading direction or are not seen, what XML cannot hold, and lone halves of
# a pair. The joiners U+200C and U+200D stay: words of several scripts need them.
_DANGEROUS = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u115f\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff"
    "\ufeff\ufff9-\uffff\U000e0000-\U000e0fff]"
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
# GitHub reads a command where a line begins, older ones and Azure's anywhere in it, TeamCity's as well.
_COMMAND = re.compile(r"^([ \t]*):(?=:)", re.MULTILINE)
_OLD_COMMAND = re.compile(r"##(?=\[|vso\[|teamcity\[)")
# Of a payload, texts of several lines: statements, and the script of a completion.
_MULTILINE = frozenset({"select", "insert", "sql", "script", "markdown"})


def plain_line(text: str) -> str:
    r"""
    Return the text as one line that is nothing but text.

    What was dangerous in it is shown as ``\x1b`` or ``\n``.
    """
    return _inert(_DANGEROUS.sub(_visible, text))


def plain_text(text: str) -> str:
    """Clean a text, keeping lines and tabs."""
    return _inert(_DANGEROUS.sub(lambda match: match[0] if match[0] in "\n\t" else _visible(match), text))


def plain_values(value: Any, *, lines: bool = False) -> Any:
    """
    Return a JSON value with every text in it made plain.

    Args:
        lines: Whether all texts may have several lines, and not only those that are statements or scripts.
    """
    if isinstance(value, str):
        plain = plain_text(value) if lines else plain_line(value)
        # An enum's value stays one.
        return value if plain == value else plain
    if isinstance(value, dict):
        return {key: plain_values(inner, lines=lines or key in _MULTILINE) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(inner, lines=lines) for inner in value]
    return value


def plain_json(text: str) -> str:
    """
    Return a JSON document, of ASCII only and in one line, with no command of a CI in its texts.

    Its values are the same.
    """
    return text.replace("##", "#\\u0023")


def _visible(match: re.Match[str]) -> str:
    letter = match[0]
    code = ord(letter)
    width = 2 if code < 0x100 else 4 if code < 0x10000 else 8
    return _SHORT.get(letter) or "\\" + {2: "x", 4: "u", 8: "U"}[width] + f"{code:0{width}x}"


def _inert(text: str) -> str:
    return _OLD_COMMAND.sub("# #", _COMMAND.sub(r"\1\\x3a", text))


def show_bytes(count: float) -> str:
    """Return a number of bytes in the unit that keeps it short."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
