"""
Define the store's interface to a file system or an object store.

A backend has named files, written as a whole, and logs that grow line by line. Each line is durable before it is
acknowledged. Positions in a log start at 0; their unit (bytes or lines) is private to the log.
"""

from contextlib import AbstractContextManager
from typing import Protocol

LOG_CLOSED = b'{"type":"LogClosed"}\n'
"""The closing line of a log, written when the plan is planned again. Only logs in object stores have this line."""


class ConflictError(Exception):
    """Another writer has appended at this position; read the new lines and decide again."""


class EventLog(Protocol):
    """
    One thread's view of a plan's log.

    Attributes:
        optimistic: Whether commits run without a lock, so that :class:`ConflictError` reports concurrent writers.
    """

    optimistic: bool

    def locked(self) -> AbstractContextManager[None]:
        """Return a context that keeps other writers out; for an optimistic log, return a context that does nothing."""
        ...

    def read(self, position: int, last: bytes) -> list[bytes] | None:
        """
        Return whole lines after *position*, in order; one call may return only the first of them.

        Returns:
            The lines; empty at the end of the log. None if the line *last* does not end at *position*, because the log
            was replaced or cut, or because an unacknowledged line is gone. An object store checks only in the first
            read, and only whether a line ends at *position*.

        Raises:
            StateError: The log cannot be read, or the next line of a log in an object store is gone.
        """
        ...

    def advance(self, position: int, line: bytes) -> int:
        """Return the position after *line*, which begins at *position*."""
        ...

    def append(self, position: int, line: bytes) -> None:
        """
        Append *line* at *position*, the end of the lines read so far; the line is durable on return.

        Raises:
            ConflictError: The log is optimistic and has grown beyond *position*.
            StateError: The line may be missing, for example on a full disk.
        """
        ...

    def sync(self) -> None:
        """Make all lines that were read durable. Call this under the lock."""
        ...

    def publish(self, position: int) -> None:
        """Make the lines up to *position* readable as ``events/<planId>.ndjson``, if the log is not that file."""
        ...

    def set_aside(self, tag: str) -> None:
        """Add *tag* to the name of an older plan's log. Call this under the lock."""
        ...

    def close(self) -> None:
        """Make later writers stop, because the plan is planned again. Call this before the log is renamed."""
        ...


class Backend(Protocol):
    """
    Named files and logs below one folder, safe for many processes on many hosts.

    Attributes:
        parallel: The number of reads to make in parallel; 1 if parallel reads are not faster.
    """

    parallel: int

    def where(self, name: str) -> str:
        """Return the path of *name* for messages."""
        ...

    def read(self, name: str) -> bytes | None:
        """
        Return the bytes of *name*; None if there is no such file.

        Raises:
            StateError: The file cannot be read.
        """
        ...

    def stamp(self, name: str) -> object:
        """Return a value that changes with every write of *name*; None if there is no such file."""
        ...

    def names(self, folder: str, suffix: str) -> list[str]:
        """Return the names of the files in *folder* that end with *suffix*, sorted and without the suffix."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Write *name* and return True; return False without writing if another writer's file exists."""
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Write *name* as a whole; readers see the old bytes or the new bytes."""
        ...

    def retire(self, name: str, tag: str) -> None:
        """Rename *name* to ``name.tag``; do nothing if it does not exist."""
        ...

    def locked(self, name: str) -> AbstractContextManager[None]:
        """
        Return a context that holds the lock *name* against every thread, process and host.

        The lock of a dead holder becomes free: at once on a file system, after half a minute on an object store.
        """
        ...

    def log(self, plan_id: str, generation: str) -> EventLog:
        """
        Return the log of a plan.

        Args:
            generation: Distinguishes successive plans with the same id.
        """
        ...
