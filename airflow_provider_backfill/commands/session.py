"""Define the context of a command: the state store, the options, a ClickHouse to open, and the user."""

import os
import pwd
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import Advice, Flag, RequestError
from ..options import Options
from ..state.store import StateStore

if TYPE_CHECKING:
    from ..clickhouse.client import ClickHouse

Payload = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Session:
    """
    The context of a command.

    Attributes:
        server: A function that connects to ClickHouse; None if no ClickHouse is configured.
        user: The user for the event log.
    """

    store: StateStore
    options: Options
    server: "Callable[[], ClickHouse] | None"
    user: str

    @contextmanager
    def connected(self) -> "Iterator[ClickHouse]":
        """
        Yield a connection to the ClickHouse of this session, and close the connection at the end.

        Raises:
            RequestError: No ClickHouse is configured.
            ConfigError: The address is invalid, or the embedded engine is not installed.
            ServerError: The server does not answer, or refuses the user.
        """
        if self.server is None:
            raise RequestError(
                "This needs a ClickHouse, and none was named.",
                remedy=Advice(
                    "pass {}, or set CLICKHOUSE_URL", Flag("--clickhouse-url", "http://user@host:8123/database")
                ),
            )
        server = self.server()
        try:
            yield server
        finally:
            server.close()

    @contextmanager
    def connected_to_one(self) -> "Iterator[ClickHouse]":
        """
        Yield a connection to one of the servers behind the address, so that all answers agree.

        Raises:
            BackfillError: As :meth:`connected`.
        """
        # Imported here: commands that only read the state folder start without this module.
        from ..clickhouse.cluster import one_server

        with self.connected() as server:
            yield one_server(server)


def account_name() -> str:
    """Return ``account@host`` of this process, or ``uid-N@host`` without an account; ignore the environment."""
    number = os.getuid()
    try:
        name = pwd.getpwuid(number).pw_name
    except KeyError:
        # A container may run under a user id that has no account.
        name = f"uid-{number}"
    return f"{name}@{os.uname().nodename}"
