"""
The store's interface to a file system or an object store.

Two things: named files that are written as a whole, and logs that grow by one line at a
time, each line durable before it is acknowledged. A position in a log counts from 0; what
it counts (bytes, segments) only the log knows.
"""

from contextlib import AbstractContextManager
from typing import Protocol

LOG_CLOSED = b'{"type":"LogClosed"}\n'
"""The last line of a log whose plan was planned again."""


class ConflictError(Exception):
    """Somebody else has appended at this position; look again and decide again."""


class EventLog(Protocol):
    """
    One thread's view of a plan's log.

    Attributes:
        optimistic: Whether a commit is tried from what is known, and told of others by
            :class:`ConflictError`; otherwise the lock keeps others out.
    """

    optimistic: bool

    def locked(self) -> AbstractContextManager[None]:
        """Keep other writers out, where the log uses a lock."""
        ...

    def read(self, position: int, last: bytes) -> list[bytes] | None:
        """
        Whole lines that follow *position*, in order, not necessarily all of them; none at the end.

        Returns:
            None when *last* is not the line that ends at *position*: the log is not the one
            that was read before, or what was read was never acknowledged and is gone.
        """
        ...

    def advance(self, position: int, line: bytes) -> int:
        """Return the position after *line*, which begins at *position*."""
        ...

    def append(self, position: int, line: bytes) -> None:
        """
        Append *line* at *position*, the end of the bytes read so far; the line is durable on return.

        Raises:
            ConflictError: The log has grown beyond *position*.
            StateError: The line may not be there, such as when the disk is full.
        """
        ...

    def sync(self) -> None:
        """Make the bytes that were read durable."""
        ...

    def publish(self, position: int) -> None:
        """Show the lines up to *position* to people as ``events/<planId>.ndjson``, where that takes a step."""
        ...

    def set_aside(self, tag: str) -> None:
        """Move an older plan's log out of the way, to its name with *tag*. Call this under the lock."""
        ...

    def close(self) -> None:
        """Let nobody append any more, as the plan is planned again."""
        ...


class Backend(Protocol):
    """
    Named files and logs below one folder, safe for many processes on many hosts.

    Attributes:
        parallel: How many reads at once are worth while.
    """

    parallel: int

    def where(self, name: str) -> str:
        """Return the path of *name* for messages."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return the bytes of *name*, or None when there is no such file."""
        ...

    def stamp(self, name: str) -> object:
        """Return a value that changes whenever *name* is written; None when there is no such file."""
        ...

    def names(self, folder: str, suffix: str) -> list[str]:
        """Return the stems of the files *folder*/…*suffix*, sorted."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Write *name* unless it exists; False when somebody else was first."""
        ...

    def replace(self, name: str, data: bytes) -> None:
        """Write *name* as a whole; a reader sees the old bytes or the new ones."""
        ...

    def retire(self, name: str, tag: str) -> None:
        """Rename *name* by adding *tag*, so that the name is free; do nothing when it does not exist."""
        ...

    def locked(self, name: str) -> AbstractContextManager[None]:
        """Hold the lock *name* against every thread, process and host; freed when the holder dies."""
        ...

    def log(self, plan_id: str, generation: str) -> EventLog:
        """
        Return the log of a plan.

        Args:
            generation: Tells plans apart that had the same id one after the other.
        """
        ...
