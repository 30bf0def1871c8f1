"""Parse the command line into a :class:`Call`."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from .. import __version__
from ..errors import PROGRAM, RequestError
from .console import print_line
from .flags import ALL_FLAGS, COMMANDS, COMMON, EXAMPLES, PLAN_ID, POSITIONAL, Flag


class _Parser(argparse.ArgumentParser):
    """A parser that raises argparse's errors as RequestError, instead of printing them."""

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message[:1].upper()}{message[1:]}.", hint=f"{self.prog} --help shows what it takes")


class Call(NamedTuple):
    """One command as typed; an omitted flag is None, or False for a switch."""

    command: str
    values: Mapping[str, Any]
    airflow_section: Mapping[str, str] | None = None

    def text(self, name: str) -> str | None:
        """Return the value of a flag; None if it is omitted."""
        value: str | None = self.values[ALL_FLAGS[name].key]
        return value

    def texts(self, name: str) -> list[str]:
        """Return the values of a repeatable flag, in the order given."""
        return list(self.values[ALL_FLAGS[name].key] or ())

    def on(self, name: str) -> bool:
        """Return whether a switch was given."""
        return bool(self.values[ALL_FLAGS[name].key])

    def given(self, flags: Sequence[Flag]) -> list[str]:
        """Return the names of those of *flags* that the user has given."""
        return [flag.name for flag in flags if self.values[flag.key] not in (None, False)]

    def need(self, name: str, hint: str) -> str:
        """Return the value of a required flag; without a value, raise a RequestError with *hint*."""
        value = self.text(name)
        if value is None:
            raise RequestError(f"{name} is missing.", hint=hint)
        return value


def parse(words: Sequence[str]) -> Call:
    """
    Parse the command line. The command is the first word that is neither a flag nor a flag's value.

    Raises:
        RequestError: The command is missing, a word is unknown or not allowed, a flag has no value, or a switch has a
            value.
        SystemExit: Help or the version was asked for, and printed on stdout.
    """
    index = 0
    while index < len(words) and words[index].startswith("-"):
        flag = ALL_FLAGS.get(words[index])
        if words[index] in ("--version", "-V"):
            print_line(sys.stdout, f"{PROGRAM} {__version__}")
            raise SystemExit(0)
        if words[index] in ("-h", "--help") and not any(word in COMMANDS for word in words):
            print_line(sys.stdout, overview())
            raise SystemExit(0)
        index += 2 if flag and flag.value else 1
    if index >= len(words):
        if unknown := next((word for word in words if word.startswith("-") and flag_name(word) not in ALL_FLAGS), None):
            raise _unknown(unknown, "")
        raise RequestError("No command was given.", hint=f"one of {', '.join(COMMANDS)}; {PROGRAM} --help explains")
    command = words[index]
    if command not in COMMANDS:
        from .suggestions import nearest_command

        near = nearest_command(command, COMMANDS)
        hint = f"did you mean {PROGRAM} {near}?" if near else f"one of {', '.join(COMMANDS)}"
        raise RequestError(f"{command!r} is not a command.", hint=hint)
    rest = [*words[:index], *words[index + 1 :]]
    if command == "version":
        print_line(sys.stdout, f"{PROGRAM} {__version__}")
        raise SystemExit(0)
    if command == "help":
        subject = next((word for word in rest if word in COMMANDS), None)
        print_line(sys.stdout, build_parser(subject).format_help().rstrip() if subject else overview())
        raise SystemExit(0)
    defaults = {flag.key: None if flag.value else False for flag in ALL_FLAGS.values()}
    try:
        found, extra = build_parser(command).parse_known_args(rest, argparse.Namespace(**defaults))
    except argparse.ArgumentError as error:
        raise _misused(error, command) from None
    values = vars(found)
    # argparse takes the value of `--target=--` for the end of the flags, and returns an empty list.
    given = ((flag, values[flag.key]) for flag in flags_of(command).values())
    if lost := next((f for f, v in given if isinstance(v, list) and (not f.many or [] in v)), None):
        raise RequestError(f"{lost.name} needs a value.", hint=f"write {lost.name} {lost.value}: {lost.help}")
    if named := _positional(command, extra, values):
        extra = []
        values.update(named)
    if extra:
        raise _unknown(extra[0], command)
    return Call(command, values)


def _positional(command: str, extra: Sequence[str], values: Mapping[str, Any]) -> dict[str, str]:
    """
    Return the positional words as flag values, by the key of the flag whose name was omitted.

    If there are fewer words than flags to fill, the words belong to the last of these flags. The result is empty if the
    command has no such flag, or if a word looks like a flag.

    Raises:
        RequestError: There are too many words, or a word clearly means something other than a plan.
    """
    slots = [flag for flag in COMMANDS[command].flags if flag in POSITIONAL]
    if not slots or any(word.startswith("-") for word in extra):
        return {}
    if len(extra) > len(slots):
        raise RequestError(f"{' and '.join(map(repr, extra))} name {len(extra)} things.", hint="keep one")
    free = [flag for flag in slots if values[flag.key] is None]
    if len(extra) > len(free):
        given = next(flag for flag in slots if flag not in free)
        raise RequestError(f"{extra[0]!r} and {given.name} {values[given.key]} name two things.", hint="keep one")
    if PLAN_ID in slots and extra:
        _refuse_no_plan(extra[-1], command)
    return dict(zip((flag.key for flag in free[len(free) - len(extra) :]), extra, strict=True))


def _refuse_no_plan(word: str, command: str) -> None:
    """Raise a RequestError for a word that cannot name a plan, if the intended meaning is clear."""
    known = flags_of(command)
    # Editors replace two hyphens by a dash.
    bare = "--" + word.strip("-\u2013\u2014")
    if bare in known and not known[bare].value:
        raise RequestError(f"{word!r} is not a plan id.", hint=f"did you mean {bare}?")
    if "." in word and word.count(".") == 1 and not word.endswith(".json") and "--target" in known:
        raise RequestError(f"{word!r} is not a plan id.", hint=f"did you mean --target {word}?")


def flag_name(word: str) -> str:
    """Return the name of a flag, without a value after ``=``."""
    return word.partition("=")[0]


def build_parser(command: str) -> _Parser:
    """
    Return the parser of one command.

    The parser has the command's own flags and the common flags; for ``run``, also the flags that create a plan.
    """
    about = COMMANDS[command]
    parser = _Parser(
        prog=f"{PROGRAM} {command}",
        description=f"{about.help[0].upper()}{about.help[1:]}.",
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
        argument_default=argparse.SUPPRESS,
        usage=f"{PROGRAM} {command} [options]",
        epilog="\n".join(["examples:", *(f"  {PROGRAM} {example}" for example in EXAMPLES[command])]),
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=34, width=120),
    )
    own = parser.add_argument_group("options")
    more = parser.add_argument_group("to plan first, when policy.requireDryRunBeforeRun is false")
    common = parser.add_argument_group("common options, before or after the command")
    for group, flags in ((own, about.flags), (more, about.more), (common, COMMON)):
        for flag in flags:
            if flag.many:
                group.add_argument(
                    flag.name, dest=flag.key, metavar=flag.value, help=flag.help.replace("%", "%%"), action="append"
                )
            elif flag.value:
                group.add_argument(flag.name, dest=flag.key, metavar=flag.value, help=flag.help.replace("%", "%%"))
            else:
                group.add_argument(flag.name, dest=flag.key, action="store_true", help=flag.help.replace("%", "%%"))
    common.add_argument("-h", "--help", action="help", help="show this")
    return parser


def overview() -> str:
    """Return the help that lists all commands."""
    lines = [
        f"usage: {PROGRAM} COMMAND [options]",
        "",
        "Plan, run and watch time-windowed ClickHouse backfills, each row written exactly once.",
        "",
        "commands:",
        *(f"  {name:<12} {about.help}" for name, about in COMMANDS.items()),
        "",
        "common options, before or after the command:",
        *(f"  {f'{flag.name} {flag.value}':<24} {flag.help}" for flag in COMMON),
        "  --version                show the version",
        "  -h, --help               show this, or a command's options",
        "",
        "exit codes: 0 success, 1 runtime error or a no, 2 configuration or usage error, 3 verify cannot say,",
        "            130 Ctrl-C",
    ]
    return "\n".join(lines)


def flags_of(command: str) -> dict[str, Flag]:
    """Return the flags of a command by name, with the common flags; for ``run``, also the flags that create a plan."""
    about = COMMANDS[command]
    return {flag.name: flag for flag in (*COMMON, *about.more, *about.flags)}


def _misused(error: argparse.ArgumentError, command: str) -> RequestError:
    name = (error.argument_name or "").rpartition("/")[2]
    flag = flags_of(command).get(name)
    if flag is None:
        return RequestError(f"{name}: {error.message}.", hint=f"{PROGRAM} --help shows what it takes")
    if flag.value:
        return RequestError(f"{name} needs a value.", hint=f"write {name} {flag.value}: {flag.help}")
    return RequestError(f"{name} takes no value.", hint=f"write {name} alone: {flag.help}")


def _unknown(word: str, command: str) -> RequestError:
    known = flags_of(command) if command else {flag.name: flag for flag in COMMON}
    where = f"{PROGRAM} {command}".rstrip()
    what = command or PROGRAM
    if not word.startswith("-"):
        return RequestError(f"Unexpected argument {word!r}.", hint=_meant(word, known) or f"{where} --help shows all")
    from .suggestions import nearest_flag

    near = nearest_flag(flag_name(word), known)
    owners = [name for name, about in COMMANDS.items() if flag_name(word) in [flag.name for flag in about.flags]]
    hints = [f"did you mean {near}?"] if near else []
    if owners:
        hints.append(f"{flag_name(word)} belongs to {', '.join(owners)}")
    if command == "clean" and flag_name(word) == "--dry-run":
        hints = ["without --yes nothing is dropped"]
    return RequestError(
        f"{what} has no flag {flag_name(word)}.", hint="; ".join(hints) or f"{where} --help shows what it takes"
    )


def _meant(word: str, known: Mapping[str, Flag]) -> str:
    """Return a hint with the flag that a stray word was likely meant for; empty without a guess."""
    name, sign, value = word.partition("=")
    if sign and f"--{name}" in known:
        return f"did you mean --{name} {value}?"
    return f"did you mean --target {word}?" if "." in word and "--target" in known else ""
