"""
Make text from outside harmless: no cursor control, no change of reading direction, no CI command.

Names of views, columns and tables, errors and reasons may contain any character. All output (terminal, logs, reports,
page) passes through this module, which makes dangerous characters visible. This module is pure.
"""

import re
from typing import Any

# Control characters, invisible marks, marks that change the reading direction, characters that XML cannot contain, and
# lone surrogates. The joiners U+200C and U+200D stay, because several scripts need them.
_DANGEROUS = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u115f\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff"
    "\ufeff\ufff9-\uffff\U000e0000-\U000e0fff]"
)
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
# The beginnings of CI commands. GitHub reads ``::`` at the beginning of a line. GitHub's older commands and those of
# Azure and TeamCity begin with ``##`` anywhere in a line.
_COMMAND = re.compile(r"^([ \t]*):(?=:)", re.MULTILINE)
_OLD_COMMAND = re.compile(r"##(?=\[|vso\[|teamcity\[)")
# The keys of payloads whose texts may have several lines: statements, completion scripts and Markdown.
_MULTILINE = frozenset({"select", "insert", "sql", "script", "markdown"})


def plain_line(text: str) -> str:
    r"""
    Return the text as one harmless line.

    Dangerous characters become escapes, such as ``\x1b`` and ``\n``.
    """
    return _inert(_DANGEROUS.sub(_visible, text))


def plain_text(text: str) -> str:
    """Return the text in harmless form: as :func:`plain_line`, but line breaks and tabs stay."""
    return _inert(_DANGEROUS.sub(lambda match: match[0] if match[0] in "\n\t" else _visible(match), text))


def plain_values(value: Any, *, lines: bool = False) -> Any:
    """
    Return a JSON value with harmless texts; keys are unchanged, and tuples become lists.

    Args:
        lines: Whether all texts may have several lines; otherwise, only statements, scripts and Markdown may.
    """
    if isinstance(value, str):
        plain = plain_text(value) if lines else plain_line(value)
        # Return an unchanged text as it came, so that an enum stays an enum.
        return value if plain == value else plain
    if isinstance(value, dict):
        return {key: plain_values(inner, lines=lines or key in _MULTILINE) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(inner, lines=lines) for inner in value]
    return value


def plain_json(text: str) -> str:
    """
    Return a JSON document without CI commands that begin with ``##``: the second ``#`` becomes an escape.

    The parsed values stay the same.
    """
    return text.replace("##", "#\\u0023")


def _visible(match: re.Match[str]) -> str:
    letter = match[0]
    code = ord(letter)
    width = 2 if code < 0x100 else 4 if code < 0x10000 else 8
    return _SHORT.get(letter) or "\\" + {2: "x", 4: "u", 8: "U"}[width] + f"{code:0{width}x}"


def _inert(text: str) -> str:
    return _OLD_COMMAND.sub("# #", _COMMAND.sub(r"\1\\x3a", text))


def show_number(number: int, noun: str) -> str:
    """Return a number with its noun, which takes an s in the plural: ``1 row``, ``1,200 rows``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def state_words(status: str, shown: str = "") -> str:
    """Return a predicate, such as ``has failed`` or ``is running``; *shown* is the status in colour, if it has one."""
    return f"{'has' if status == 'failed' else 'is'} {shown or status}"


def show_bytes(count: float) -> str:
    """Return a number of bytes in whole B, KiB, MiB or GiB, or in TiB with one decimal."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
