"""
The errors a user can meet: what happened, what to do next, and the exit code.

Every error the product raises on purpose is a :class:`BackfillError`. The skins
(command line, operators, web) catch that one class, once, at their edge. What helps is a
value, a :data:`Remedy`, which each skin renders in its own words.
Imports nothing of the package, so every layer may raise these.
"""

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

PROGRAM = "clickhouse-backfill"


class Flag(NamedTuple):
    """
    A flag of the command line, with its value; an operator has an argument in its place.

    Attributes:
        name: As typed, with its dashes.
        value: Empty for a flag that takes none, or where any value is meant.
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
    Let every command line that is written in this context have *flags* of its verb, so that it works when pasted.

    Threads that begin meanwhile have a context of their own: what they write to a log has no such flags.
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
        """The remedy's name in JSON."""
        return "command"

    def __str__(self) -> str:
        plan = (Flag("--plan-id", self.plan_id),) if self.plan_id else ()
        return " ".join([PROGRAM, self.verb, *map(str, (*_carried.get()(self.verb), *plan, *self.flags))])


class Sql(NamedTuple):
    """A statement to paste into a ClickHouse client; ``str()`` returns its text."""

    statement: str

    @property
    def kind(self) -> str:
        """The remedy's name in JSON."""
        return "sql"

    def __str__(self) -> str:
        return self.statement


class Advice:
    """
    Advice in words; begins without a capital and ends without a full stop.

    Args:
        text: The words; ``{}`` stands for each of *parts*, in order. Without parts every brace is a brace.
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
        """The remedy's name in JSON."""
        return "advice"

    def render(self, flag: Callable[[Flag], str] = str) -> str:
        """Return the words, each flag as *flag* writes it."""
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
    """Return a remedy's command, or the first command of an advice; None without one."""
    if isinstance(remedy, Command):
        return remedy
    parts = remedy.parts if isinstance(remedy, Advice) else ()
    return next((part for part in parts if isinstance(part, Command)), None)


class BackfillError(Exception):
    """
    Something went wrong that the user can act on.

    Args:
        message: What happened, with the values, as full sentences.
        remedy: What helps; None when nothing is known to.
        hint: Short for ``remedy=Advice(hint)``.
    """

    exit_code = 1

    def __init__(self, message: str, *, remedy: Remedy | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy or (Advice(hint) if hint else None)

    @property
    def hint(self) -> str:
        """The remedy in the words of the command line; empty when there is none."""
        return "" if self.remedy is None else str(self.remedy)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.remedy else self.message


class ConfigError(BackfillError):
    """An option or a configuration file is wrong; nothing was read or written. Exit code 2."""

    exit_code = 2


class RequestError(BackfillError):
    """The request cannot be carried out: bad value, unknown plan, refused plan. Exit code 2."""

    exit_code = 2


class MisalignedError(RequestError):
    """
    A chunk bound lies where none may be. Exit code 2.

    Args:
        proposal: The flags of a plan whose bounds fit; empty when none is known.
    """

    def __init__(
        self, message: str, *, proposal: tuple[Flag, ...] = (), remedy: Remedy | None = None, hint: str = ""
    ) -> None:
        super().__init__(message, remedy=remedy, hint=hint)
        self.proposal = proposal


class InDoubtError(RequestError):
    """The target's rows of a chunk are unknown, so a person has to check. Exit code 2."""


class PlanNotFoundError(RequestError):
    """The state folder has no plan of that id. Exit code 2."""


class TransitionError(BackfillError):
    """An event that the run's present state does not allow, such as a claim that came second."""


class StateError(BackfillError):
    """The state folder cannot be read or written."""


class DamagedStateError(StateError):
    """
    A state file is damaged. Exit code 2.

    Args:
        path: The file, as shown to people; the message names it too.
        line: The line of it; None when the file as a whole is meant.
    """

    exit_code = 2

    def __init__(
        self, message: str, *, path: str, line: int | None = None, remedy: Remedy | None = None, hint: str = ""
    ) -> None:
        super().__init__(message, remedy=remedy, hint=hint)
        self.path, self.line = path, line


class StateFormatError(DamagedStateError):
    """A state file is sound, and another version or another tool wrote it. Exit code 2."""


class ServerError(BackfillError):
    """ClickHouse did not execute a statement. Raised directly where ClickHouse did not settle in time."""


class ServerUnreachableError(ServerError):
    """Nobody answers, or the connection broke: whether the statement ran is not known."""


class StatementRefusedError(ServerError):
    """
    ClickHouse answered a statement with an error.

    Args:
        code: ClickHouse's number of the error.
        name: ClickHouse's name of it, such as ``MEMORY_LIMIT_EXCEEDED``.
        reason: What ClickHouse says, without the frame that the message puts around it.
    """

    def __init__(
        self, message: str, *, code: int, name: str, reason: str = "", remedy: Remedy | None = None, hint: str = ""
    ) -> None:
        super().__init__(message, remedy=remedy, hint=hint)
        self.code, self.name, self.reason = code, name, reason


class VerificationError(BackfillError):
    """The rows that were staged are not the rows that the source answers with."""
