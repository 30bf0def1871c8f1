"""
Define the errors that a user can see, each with its values, its remedy and its exit code.

Every error that a user can act on is a :class:`BackfillError`. The command line, the operators and the web page each
catch this class at one place. A :data:`Remedy` is the advice of an error; each interface renders it in its own words.
This module imports nothing of the package, so every layer may raise these errors.
"""

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

PROGRAM = "clickhouse-backfill"


class Flag(NamedTuple):
    """
    A flag of the command line, with its value; operators have an argument instead.

    Attributes:
        name: The name as typed, with its dashes.
        value: The value; empty for a switch, or if any value is meant.
    """

    name: str
    value: str = ""

    def __str__(self) -> str:
        return f"{self.name} {shlex.quote(self.value)}" if self.value else self.name


def _nothing(_: str) -> tuple[Flag, ...]:
    return ()


_carried: ContextVar[Callable[[str], Sequence[Flag]]] = ContextVar("carried", default=_nothing)


@contextmanager
def carrying(flags: Callable[[str], Sequence[Flag]]) -> Iterator[None]:
    """
    Add flags to every :class:`Command` that becomes text in this context, so that the command line works when pasted.

    Threads that start meanwhile have their own context. A command that becomes text in such a thread lacks these flags.

    Args:
        flags: Returns the flags to add to a command with the given verb.
    """
    token = _carried.set(flags)
    try:
        yield
    finally:
        _carried.reset(token)


class Command(NamedTuple):
    """A command line to paste into a shell; ``str()`` returns its text."""

    verb: str
    plan_id: str = ""
    flags: tuple[Flag, ...] = ()

    @property
    def kind(self) -> str:
        """The kind of the remedy in JSON: ``command``."""
        return "command"

    def __str__(self) -> str:
        plan = (Flag("--plan-id", self.plan_id),) if self.plan_id else ()
        return " ".join([PROGRAM, self.verb, *map(str, (*_carried.get()(self.verb), *plan, *self.flags))])


class Sql(NamedTuple):
    """A statement to paste into a ClickHouse client; ``str()`` returns its text."""

    statement: str

    @property
    def kind(self) -> str:
        """The kind of the remedy in JSON: ``sql``."""
        return "sql"

    def __str__(self) -> str:
        return self.statement


class Advice:
    """
    Advice in words, with neither a capital at the beginning nor a full stop at the end.

    Args:
        text: The words; each ``{}`` is replaced by the next of *parts*. Without parts, braces stay unchanged.
        parts: Flags, commands, statements and other values.
    """

    def __init__(self, text: str, *parts: object) -> None:
        self.text, self.parts = text, parts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Advice) and (self.text, self.parts) == (other.text, other.parts)

    def __hash__(self) -> int:
        return hash((self.text, self.parts))

    @property
    def kind(self) -> str:
        """The kind of the remedy in JSON: ``advice``."""
        return "advice"

    def render(self, flag: Callable[[Flag], str] = str) -> str:
        """Return the words, with each flag as *flag* renders it."""
        if not self.parts:
            return self.text
        return self.text.format(*(self._word(part, flag) for part in self.parts))

    @staticmethod
    def _word(part: object, flag: Callable[[Flag], str]) -> str:
        if isinstance(part, Flag):
            return flag(part)
        return part.render(flag) if isinstance(part, Advice) else str(part)

    def __str__(self) -> str:
        return self.render()


Remedy = Command | Sql | Advice


def command_of(remedy: Remedy | None) -> Command | None:
    """Return the remedy if it is a command, or the first command among the parts of an advice; None otherwise."""
    if isinstance(remedy, Command):
        return remedy
    parts = remedy.parts if isinstance(remedy, Advice) else ()
    return next((part for part in parts if isinstance(part, Command)), None)


class BackfillError(Exception):
    """
    The base of all errors that a user can act on. The exit code is 1, unless a subclass sets a different code.

    Args:
        message: The problem in full sentences, with the values.
        remedy: The advice to the user; None if no remedy is known.
        hint: Shorthand for ``remedy=Advice(hint)``; ignored if there is a *remedy*.
    """

    exit_code = 1

    def __init__(self, message: str, *, remedy: Remedy | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy or (Advice(hint) if hint else None)

    @property
    def hint(self) -> str:
        """The remedy in the words of the command line; empty without a remedy."""
        return "" if self.remedy is None else str(self.remedy)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.remedy else self.message


class ConfigError(BackfillError):
    """An option, an address, or a file that the user named is invalid. The exit code is 2."""

    exit_code = 2


class RequestError(BackfillError):
    """The request has a bad value or an unknown plan, or is refused. The exit code is 2."""

    exit_code = 2


class MisalignedError(RequestError):
    """
    A chunk bound lies at a time that a parameter or a group of the query does not allow. The exit code is 2.

    Args:
        proposal: The flags of a plan whose bounds fit; empty if none is known.
    """

    def __init__(
        self, message: str, *, proposal: tuple[Flag, ...] = (), remedy: Remedy | None = None, hint: str = ""
    ) -> None:
        super().__init__(message, remedy=remedy, hint=hint)
        self.proposal = proposal


class InDoubtError(RequestError):
    """It is unknown which of a chunk's rows the target has, so a person has to check. The exit code is 2."""


class PlanNotFoundError(RequestError):
    """The state folder has no plan with the given id or target, or no plan at all. The exit code is 2."""


class TransitionError(BackfillError):
    """The run's state does not allow an event, such as a second claim."""


class StateError(BackfillError):
    """The state folder cannot be read or written, or a report cannot be written."""


class DamagedStateError(StateError):
    """
    A state file is damaged. The exit code is 2.

    Args:
        path: The path of the file for messages.
        line: The line number; None if the whole file is concerned.
    """

    exit_code = 2

    def __init__(
        self, message: str, *, path: str, line: int | None = None, remedy: Remedy | None = None, hint: str = ""
    ) -> None:
        super().__init__(message, remedy=remedy, hint=hint)
        self.path, self.line = path, line


class StateFormatError(DamagedStateError):
    """A state file is intact, but another version or another tool wrote it. The exit code is 2."""


class ServerError(BackfillError):
    """ClickHouse did not execute a statement, gave no usable answer, or did not reach a required state in time."""


class ServerUnreachableError(ServerError):
    """The server does not answer, or the connection broke. It is unknown whether the statement ran."""


class StatementRefusedError(ServerError):
    """
    ClickHouse answered a statement with an error.

    Args:
        code: ClickHouse's error number.
        name: ClickHouse's error name, such as ``MEMORY_LIMIT_EXCEEDED``.
        reason: ClickHouse's own text, without the words that the message adds.
    """

    def __init__(
        self, message: str, *, code: int, name: str, reason: str = "", remedy: Remedy | None = None, hint: str = ""
    ) -> None:
        super().__init__(message, remedy=remedy, hint=hint)
        self.code, self.name, self.reason = code, name, reason


class VerificationError(BackfillError):
    """The staged rows differ from the source's rows, or their staging table was dropped before publication."""
