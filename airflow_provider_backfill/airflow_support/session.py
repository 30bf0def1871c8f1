"""
Open a session in Airflow: options, state folder, connection, and errors in an operator's words.

Operators, sensors and triggers share these functions. Only the official provider's hook opens connections, and only
when a command needs one. A sensor never needs a connection to ClickHouse.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

from airflow.sdk import Context
from jinja2 import UndefinedError

from ..clickhouse.address import Address
from ..clickhouse.client import ClickHouse, from_client
from ..commands.session import Session
from ..core.plain_text import plain_line
from ..core.retry import RetryDecision, classify_error
from ..errors import Advice, BackfillError, ConfigError, Flag, Remedy, ServerError
from ..option_sources import resolve_options
from ..options import Options, describe_options
from ..state.store import open_store
from .compat import AirflowException, AirflowFailException, AirflowNotFoundException, BaseHook, conf

SECTION = "clickhouse_backfill"

# The user part of a URL names an Airflow connection; a password is not allowed.
_CONNECTION_IN_URL = re.compile(r"((?:s3a?|gs|az)://)([\w.-]+)@([^/@:]+(?:/.*)?)")
# For each type of an Airflow connection, the object store's options for the login and the password.
_STORE_LOGIN = {"aws": ("access_key_id", "secret_access_key"), "wasb": ("account_name", "account_key")}
# For each key in the extra of an Airflow connection, the object store's option.
_STORE_EXTRA = {
    "endpoint_url": "endpoint",
    "region_name": "region",
    "aws_session_token": "session_token",
    "keyfile_dict": "service_account_key",
    "key_path": "service_account_path",
}

# The name of the operator argument for a flag, if the two names differ.
_RENAMED = {"--from": "window_from", "--to": "window_to", "--select-file": "select"}
# The flags of the command line without an operator argument.
_NOT_ARGUMENTS = frozenset({"--clickhouse-url", "--plan-id", "--config", "--json", "--verbose", "--password-file"})


def airflow_home() -> Path:
    """Return Airflow's home folder: ``AIRFLOW_HOME``, or ``~/airflow`` if it is not set."""
    return Path(os.environ.get("AIRFLOW_HOME") or "~/airflow").expanduser()


def load_airflow_options(arguments: Mapping[str, Any], document: Mapping[str, Any] | None = None) -> Options:
    """
    Load an operator's options from *arguments*, *document* and the weaker sources, in this order of strength.

    An argument that is None counts as omitted. The weaker sources are the environment, ``clickhouse-backfill.toml`` in
    Airflow's home, and Airflow's ``[clickhouse_backfill]`` section.

    Raises:
        ConfigError: A source cannot be read, or has an unknown name or a bad value, even if a stronger source sets the
            same option.
    """
    return resolve_options(
        overrides={**(document or {}), **{name: value for name, value in arguments.items() if value is not None}},
        environ=os.environ,
        config_file=None,
        directory=airflow_home(),
        airflow_section=airflow_section(),
    ).options


def airflow_section() -> dict[str, str]:
    """Return the options of Airflow's ``[clickhouse_backfill]`` section by key, as text; empty for an unset option."""
    keys = {info.key for info in describe_options()} | set(conf.getsection(SECTION) or {})
    # Read each key: getsection() converts types and omits false values.
    return {key: conf.get(SECTION, key, fallback="") for key in sorted(keys)}


def open_session(options: Options, user: str, clickhouse_conn_id: str | None = None) -> Session:
    """
    Return a session on the state folder of *options*; relative folders start at Airflow's home.

    A URL may name an Airflow connection with the credentials, as Airflow's own object paths may:
    ``s3://connection_id@bucket/prefix``.

    Args:
        user: The user for the event log.
        clickhouse_conn_id: The ClickHouse connection, opened when a command needs it; None for commands without
            ClickHouse.

    Raises:
        ConfigError: :func:`.open_store` refuses the state folder, or the connection in its URL does not exist.
        StateError: The object store refuses the configuration.
    """
    folder = options.state_dir or "clickhouse-backfill"
    server = None if clickhouse_conn_id is None else _opener(clickhouse_conn_id)
    found = _CONNECTION_IN_URL.fullmatch(folder)
    if found is not None:
        return Session(open_store(found[1] + found[3], config=_store_config(found[2])), options, server, user)
    where = folder if "://" in folder else str(airflow_home() / Path(folder).expanduser())
    return Session(open_store(where), options, server, user)


def _store_config(conn_id: str) -> dict[str, str]:
    """
    Return an Airflow connection's credentials, address and region, by the names of an object store's options.

    Raises:
        ConfigError: There is no such connection.
    """
    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise _no_connection(conn_id) from None
    extra: dict[str, Any] = connection.extra_dejson
    config: dict[str, Any] = {}
    if connection.conn_type in _STORE_LOGIN:
        login, password = _STORE_LOGIN[connection.conn_type]
        config = {login: connection.login, password: connection.password}
    config |= {name: extra[key] for key, name in _STORE_EXTRA.items() if extra.get(key)}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in config.items() if value}


def _opener(conn_id: str) -> Callable[[], ClickHouse]:
    def open_server() -> ClickHouse:
        from airflow.providers.clickhousedb.hooks.clickhouse import ClickHouseHook

        # In a ClickHouse session, the server would refuse a second statement during the first, such as a KILL QUERY.
        hook = ClickHouseHook(clickhouse_conn_id=conn_id, client_kwargs={"autogenerate_session_id": False})

        def open_at(place: Address) -> Any:
            class HookAt(ClickHouseHook):
                """A hook for the same connection, with the address of a different server of the cluster."""

                @classmethod
                def get_connection(cls, conn_id: str) -> Any:
                    connection = copy(super().get_connection(conn_id))
                    connection.host, connection.port = place.host, place.port
                    return connection

            there = HookAt(clickhouse_conn_id=conn_id, client_kwargs={"autogenerate_session_id": False})
            return there.get_client()

        try:
            return from_client(hook.get_client, f"connection {conn_id}", open_at)
        except AirflowNotFoundException:
            raise _no_connection(conn_id) from None

    return open_server


def _no_connection(conn_id: str) -> ConfigError:
    return ConfigError(
        f"There is no Airflow connection {conn_id!r}.",
        hint=f"add it under Admin, Connections, or set AIRFLOW_CONN_{conn_id.upper()}",
    )


def task_name(context: Context) -> str:
    """Return a task instance's name for the event log: DAG, run, task, map index and try."""
    ti = context["ti"]
    index = f"[{ti.map_index}]" if ti.map_index is not None and ti.map_index >= 0 else ""
    return f"airflow:{ti.dag_id}/{ti.run_id}/{ti.task_id}{index}#{ti.try_number}"


@contextmanager
def airflow_errors() -> Iterator[None]:
    """
    Raise the product's errors as Airflow's exceptions, with operator arguments in place of flags in remedies.

    Errors that a retry cannot fix become AirflowFailException, which uses no retries: refused requests, wrong options,
    damaged state, statements that ClickHouse always refuses. All other errors of the product become AirflowException,
    to which Airflow's ``retries`` apply.
    """
    try:
        yield
    except BackfillError as error:
        kind = AirflowFailException if _is_final(error) else AirflowException
        remedy = in_operator_words(error.remedy)
        raise kind(plain_line(f"{error.message} ({remedy})" if remedy else error.message)) from error


def _is_final(error: BackfillError) -> bool:
    if isinstance(error, ServerError):
        return classify_error(error) is RetryDecision.FINAL
    return error.exit_code == 2


@contextmanager
def operator_words() -> Iterator[None]:
    """Raise errors with operator arguments in their remedies; for checks while Airflow parses a DAG."""
    try:
        yield
    except BackfillError as error:
        text = in_operator_words(error.remedy)
        error.remedy = Advice(text) if text else None
        raise


@contextmanager
def undefined_named(context: Context) -> Iterator[None]:
    """
    Explain an undefined name in a template by an AirflowFailException, if the run has no logical date.

    In a run with a logical date, the UndefinedError is raised unchanged.
    """
    try:
        yield
    except UndefinedError as error:
        if context["dag_run"].logical_date is not None:
            raise
        raise AirflowFailException(
            f"{error.message}. A run without a logical date has no data interval, and this run has none. Trigger it "
            "with one, or take the window from a form: BackfillTaskGroup() with params=backfill_params()."
        ) from error


def in_operator_words(remedy: Remedy | None) -> str:
    """
    Return a remedy in an operator's words: ``--write-mode replace`` becomes ``write_mode='replace'``.

    A shell command and an SQL statement stay unchanged. The text is empty without a remedy.
    """
    if isinstance(remedy, Advice):
        return remedy.render(_argument)
    return "" if remedy is None else str(remedy)


def _argument(flag: Flag) -> str:
    if flag.name in _NOT_ARGUMENTS:
        return str(flag)
    name = _RENAMED.get(flag.name, flag.name.removeprefix("--").replace("-", "_"))
    return f"{name}={str(flag.value)!r}" if flag.value else name
