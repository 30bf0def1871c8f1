"""Suggest the intended word for a mistyped one, by its letters and by names in other tools."""

import difflib
from collections.abc import Iterable, Mapping

# By command: words with a similar meaning in other tools.
_COMMANDS = {
    "run": ("start", "execute", "exec", "go", "launch"),
    "resume": ("retry", "continue", "restart", "rerun", "unpause"),
    "plan": ("create", "new", "make", "add"),
    "status": ("show", "info", "get", "progress", "describe", "state"),
    "events": ("log", "logs", "history"),
    "pause": ("stop", "halt", "suspend"),
    "cancel": ("kill", "abort", "terminate"),
    "clean": ("cleanup", "delete", "remove", "rm", "drop", "purge", "prune", "gc"),
    "list": ("ls", "plans", "ps"),
    "undo": ("rollback", "revert", "restore"),
    "verify": ("validate", "compare", "diff", "test"),
    "doctor": ("diagnose", "debug", "health"),
    "waive": ("skip", "ignore", "dismiss"),
    "repair": ("fix", "recover"),
    "set-parallel": ("pace", "parallel", "scale"),
    "report": ("cost", "summary"),
    "coverage": ("gaps", "windows"),
}
# By flag: flags with a similar meaning in other tools.
_FLAGS = {
    "--target": ("--table", "--to-table", "--into", "-t"),
    "--from": ("--start", "--since", "--begin", "--window-from", "--after"),
    "--to": ("--end", "--until", "--stop", "--window-to", "--before"),
    "--chunk-hours": ("--chunk", "--chunk-size", "--chunks", "--step", "--interval"),
    "--write-mode": ("--mode",),
    "--select": ("--sql", "--query", "-q"),
    "--source": ("--from-table",),
    "--max-parallel-chunks": ("--parallel", "--parallelism", "--workers", "--threads", "--concurrency", "--jobs", "-j"),
    "--clickhouse-url": ("--url", "--host", "--server", "--connection", "--dsn"),
    "--plan-id": ("--id", "--plan", "--planid", "-p"),
    "--state-dir": ("--dir", "--folder", "--statedir", "-d"),
    "--yes": ("-y", "--force", "--confirm", "--no-dry-run"),
    "--verbose": ("-v", "-vv", "--debug"),
    "--config": ("-c", "--config-file", "--options"),
    "--json": ("-o", "--output"),
}
# A table for str.translate(): an underscore becomes a hyphen; a dash becomes the two hyphens that an editor replaced.
_SPELLED_OTHERWISE = str.maketrans({"_": "-", "\u2013": "--", "\u2014": "--"})


def nearest_command(word: str, commands: Iterable[str]) -> str:
    """Return the command that *word* was likely meant to be; empty if none is close."""
    return _nearest(word.lower().translate(_SPELLED_OTHERWISE), list(commands), _COMMANDS)


def nearest_flag(word: str, flags: Iterable[str]) -> str:
    """Return the one of *flags* that *word* was likely meant to be; empty if none is close."""
    known = list(flags)
    if word in _ALIASES and _ALIASES[word] in known:
        return _ALIASES[word]
    # chunkHours, chunk_hours, -target and Target are probably flags.
    spelled = "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in word)
    bare = spelled.translate(_SPELLED_OTHERWISE).strip("-").replace("--", "-")
    return f"--{bare}" if f"--{bare}" in known else _nearest(f"--{bare}", known, _FLAGS)


def _nearest(word: str, known: list[str], others: Mapping[str, Iterable[str]]) -> str:
    if word in known:
        return word
    if (meant := _ALIASES.get(word, "")) in known and meant in others:
        return meant
    return next(iter(difflib.get_close_matches(word, known, 1)), "")


_ALIASES = {word: name for table in (_COMMANDS, _FLAGS) for name, words in table.items() for word in words}
