"""Prepare the options, session, password and user of a command."""

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import PROGRAM, ConfigError
from .flags import Payload
from .parser import Call

if TYPE_CHECKING:
    from ..clickhouse.client import ClickHouse
    from ..commands.session import Session
    from ..options import Options


_OPTION_FLAGS = ("--state-dir", "--time-column", "--max-parallel-chunks", "--max-chunk-rows", "--max-chunk-bytes")


# The maximum length of a file that a user named, in bytes.
_LONGEST = 4 << 20


def read_options(call: Call) -> "Options":
    """
    Return the options from the flags, the environment and the files of this call, and Airflow's section if given.

    Raises:
        ConfigError: A source cannot be read, or has an unknown name or a bad value.
    """
    from ..option_sources import resolve_options

    config = call.text("--config")
    return resolve_options(
        overrides={name: call.text(name) for name in _OPTION_FLAGS},
        environ=os.environ,
        config_file=Path(config) if config else None,
        directory=Path.cwd(),
        airflow_section=call.airflow_section,
    ).options


def open_session(call: Call, options: "Options") -> "Session":
    """
    Return the session of a command: the state folder, the options, the user, and a ClickHouse to open later.

    Without an address of ClickHouse, the session has no server.

    Raises:
        ConfigError: The state folder is invalid.
        StateError: The object store refuses the configuration.
    """
    from ..commands.session import Session, account_name
    from ..state.store import open_store

    url = server_url(call)

    def open_server() -> "ClickHouse":
        from ..clickhouse.client import connect

        # Allow one connection for each parallel chunk, and four more for the watcher and as a reserve.
        return connect(url or "", read_password(call), connections=options.defaults.max_parallel_chunks + 4)

    store = open_store(options.state_dir or f".{PROGRAM}")
    return Session(store, options, open_server if url else None, account_name())


def server_url(call: Call) -> str | None:
    """Return the address of ClickHouse from the flag or ``CLICKHOUSE_URL``; None if neither is given."""
    given = call.text("--clickhouse-url")
    return os.environ.get("CLICKHOUSE_URL") or None if given is None else given


def with_page(payload: Payload) -> Payload:
    """Return a plan's payload with the address of its page; unchanged without a plan or a known address of Airflow."""
    from ..ui_urls import airflow_address, page_address

    base = airflow_address(os.environ)
    return {**payload, "page": page_address(base, payload["planId"])} if base and payload["planId"] else payload


def read_file(path: Path) -> bytes:
    """
    Return the bytes of a file that a user named: a password, a SELECT, a list of required backfills.

    Raises:
        OSError: The file cannot be read, or is longer than 4 MiB.
    """
    with path.open("rb") as file:
        data = file.read(_LONGEST + 1)
    if len(data) > _LONGEST:
        raise OSError(errno.EFBIG, f"it is longer than {_LONGEST >> 20} MiB")
    return data


def read_password(call: Call) -> str | None:
    """
    Return the password from --password-file, CLICKHOUSE_PASSWORD, or the file CLICKHOUSE_PASSWORD_FILE, in this order.

    The result is None if none of the three is given. Line breaks at the end of a file are removed.

    Raises:
        ConfigError: The file cannot be read, is not UTF-8, or is longer than 4 MiB.
    """
    path, where = call.text("--password-file"), "--password-file"
    if path is None and (given := os.environ.get("CLICKHOUSE_PASSWORD")):
        return given
    if path is None:
        path, where = os.environ.get("CLICKHOUSE_PASSWORD_FILE"), "CLICKHOUSE_PASSWORD_FILE"
    if not path:
        return None
    try:
        return read_file(Path(path)).decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"The password file {path} cannot be read: {reason}.", hint=f"check {where}") from error
