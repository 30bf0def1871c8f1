"""
The errors a user can meet: what happened, what to type next, and the exit code.

Every error the product raises on purpose is a :class:`BackfillError`. The skins
(command line, operators, web) catch that one class, once, at their edge.
Imports nothing, so every layer may raise these.
"""


class BackfillError(Exception):
    """
    Something went wrong that the user can act on.

    Args:
        message: What happened, with the values, as full sentences.
        hint: What to type or change next; empty when there is nothing to do.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(BackfillError):
    """An option or a configuration file is wrong; nothing was read or written. Exit code 2."""

    exit_code = 2


class RequestError(BackfillError):
    """What was asked for cannot be done as asked: bad value, unknown plan, refused plan. Exit code 2."""

    exit_code = 2


class PlanNotFoundError(RequestError):
    """The state folder has no plan of that id. Exit code 2."""


class TransitionError(BackfillError):
    """An event that the run's present state does not allow, such as a claim that came second."""


class StateError(BackfillError):
    """The state folder cannot be read or written."""


class DamagedStateError(StateError):
    """A state file does not hold what it must; names the file and the line. Exit code 2."""

    exit_code = 2


class StateFormatError(DamagedStateError):
    """A state file is sound, and another version or another tool wrote it. Exit code 2."""


class ServerError(BackfillError):
    """
    ClickHouse could not be reached or refused a statement.

    Args:
        code: ClickHouse's error code, or None for a transport error.
        name: ClickHouse's name of the code, such as ``MEMORY_LIMIT_EXCEEDED``.
    """

    def __init__(self, message: str, *, hint: str = "", code: int | None = None, name: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.name = name


class VerificationError(BackfillError):
    """The rows that were staged are not the rows that the source answers with."""
