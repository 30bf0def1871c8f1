"""
The Python API: plan, run and verify backfills from a script or a notebook, without Airflow.

    from airflow_provider_backfill import Client

    client = Client("http://default@localhost:8123", state_dir="state")
    run = client.plan(target="shop.orders_daily", window=("2025-01-01", "2025-02-01")).run(parallel=2)
    run.verify()

The methods call the same functions as the command line, and use the same state folder.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .backfill import Backfill, LeftoverTable
from .clickhouse.shards import read_shard_urls
from .core.chunking import AUTO
from .core.instants import parse_instant
from .core.names import parse_table
from .core.parameters import read_formats
from .core.plan import RowProof, WriteMode
from .core.query_settings import settings_as_text
from .core.request import PlanRequest
from .core.sql import parse_filter
from .core.tables import TableName
from .errors import RequestError
from .option_sources import parse_options, resolve_options

if TYPE_CHECKING:
    from .clickhouse.client import ClickHouse
    from .commands.session import Payload

_Word = TypeVar("_Word", bound=StrEnum)

_STATE_DIR = ".clickhouse-backfill"


class Client:
    """
    The entry point of the Python API: a ClickHouse server and a state folder.

    Args:
        url: ``http[s]://user@host:8123/database`` or ``chdb:///path``; the environment's ``CLICKHOUSE_URL`` if None.
            Without either, methods that need a server raise a RequestError.
        state_dir: Folder or URL of plans, runs and events. If None, the option ``stateDir``; without that option,
            ``.clickhouse-backfill``.
        password: The password, if *url* has none; the environment's ``CLICKHOUSE_PASSWORD`` if None.
        options: Options by name, such as ``{"retry_delay_ms": 100}``; they override files and environment.

    Raises:
        ConfigError: An option or the URL of the state folder is invalid.
        StateError: The object store refuses the configuration.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        state_dir: str | os.PathLike[str] | None = None,
        password: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        from .clickhouse.client import connect
        from .commands.session import Session, account_name
        from .state.store import open_store

        overrides = {**(options or {}), "--state-dir": None if state_dir is None else os.fspath(state_dir)}
        self._options = resolve_options(
            overrides=overrides, environ=os.environ, config_file=None, directory=Path.cwd(), airflow_section=None
        ).options
        address = url or os.environ.get("CLICKHOUSE_URL")
        secret = password or os.environ.get("CLICKHOUSE_PASSWORD")

        def open_server() -> "ClickHouse":
            return connect(address or "", secret, connections=self._options.defaults.max_parallel_chunks + 36)

        store = open_store(self._options.state_dir or _STATE_DIR)
        self._session = Session(store, self._options, open_server if address else None, account_name())

    def plan(
        self,
        *,
        target: str,
        window: tuple[str | datetime, str | datetime],
        chunk: str | float | None = None,
        chunk_zone: str | None = None,
        time_column: str | None = None,
        time_unit: str = "",
        source: str | None = None,
        select: str | None = None,
        write_mode: str | None = None,
        accept_at_least_once: bool = False,
        keep_outside: bool = False,
        backup: bool = False,
        proof: str = RowProof.WRITTEN,
        allow_existing_rows: bool = False,
        force_large_window: bool = False,
        force: bool = False,
        settings: Mapping[str, Any] | None = None,
        params_format: Mapping[str, str] | None = None,
        filter_table: str | Sequence[str] = (),
        whole_table: str | Sequence[str] = (),
        accept_partial_groups: str = "",
        trial: bool = True,
        one_shard: bool = False,
        staging_database: str = "",
        cluster: str = "",
        shard_url: Sequence[str] = (),
        max_chunk_rows: int | None = None,
        max_chunk_bytes: int | None = None,
        reason: str = "",
        owner: str = "",
    ) -> Backfill:
        """
        Create an immutable plan, or find the identical plan, and return its :class:`.Backfill`; nothing runs.

        Arguments that are not described here are the flags of ``plan`` with the same name.

        Args:
            target: ``database.table``.
            window: The start (included) and the end (excluded), as aware datetimes or as text such as ``2025-01-31``.
            chunk: ``"6h"``, ``"day"``, ``"month"``, ``"partition"``, a number of hours, or ``"auto"``; the option
                ``chunkHours`` if None.
            settings: ClickHouse settings for the statements that read the source and fill.
            params_format: The strftime formats of the chunk's start, by the name of a parameter of *select*.
            proof: ``written`` or ``content``: the evidence for staged rows before they are published.
            filter_table: Table of *select* to filter by the window, ``database.table`` or ``database.table=column``;
                several in a list.
            whole_table: Table of *select* to read whole in every chunk; several in a list.
            accept_partial_groups: Reason to accept that chunks cut groups of *select*.
            trial: Whether to try a few chunks, to see whether the chunks add up.
            one_shard: Whether to fill this server's local table with the rows of all shards of a Distributed source.
            staging_database: The database for staging tables, instead of the target's database.
            cluster: The cluster on whose shards the target is a local table.
            shard_url: Addresses of shards, such as ``2=http://host:8123``; other addresses come from
                ``system.clusters``.
            max_chunk_rows, max_chunk_bytes: Split chunks with more source rows or bytes, and join chunks with fewer.
            reason, owner: Reason for the backfill, and person or team responsible; shown by ``report``.

        Raises:
            RequestError: The plan is refused. The message gives the reason, and the hint suggests a change.
            ConfigError: The address of ClickHouse or a maximum is invalid.
            ServerError: ClickHouse could not be asked.
        """
        from .commands.plan import create_plan

        start, end = (_instant(bound) for bound in window)
        auto = chunk == AUTO
        chunking = self._options.defaults.chunking(None if auto else chunk, chunk_zone)
        if max_chunk_rows is not None:
            parse_options({"defaults": {"maxChunkRows": max_chunk_rows}}, "max_chunk_rows")
            chunking = replace(chunking, rows=max_chunk_rows)
        if max_chunk_bytes is not None:
            parse_options({"defaults": {"maxChunkBytes": max_chunk_bytes}}, "max_chunk_bytes")
            chunking = replace(chunking, size=max_chunk_bytes)
        request = PlanRequest(
            target=parse_table(target, "target"),
            start=start,
            end=end,
            chunking=chunking.without_limits() if auto else chunking,
            auto_chunks=auto,
            time_column=time_column or self._options.defaults.time_column,
            time_unit=time_unit,
            source=None if source is None else parse_table(source, "source"),
            select=select,
            write_mode=None if write_mode is None else _one_of(WriteMode, write_mode, "write mode"),
            accept_at_least_once=accept_at_least_once,
            keep_outside=keep_outside,
            backup=backup,
            row_proof=_one_of(RowProof, proof, "proof"),
            allow_existing_rows=allow_existing_rows,
            force_large_window=force_large_window,
            force=force,
            settings=settings_as_text({**(self._options.defaults.settings or {}), **(settings or {})}),
            formats=read_formats(params_format or {}),
            filter_tables=tuple(map(parse_filter, _listed(filter_table))),
            whole_tables=tuple(parse_table(text, "whole-table") for text in _listed(whole_table)),
            accept_partial_groups=accept_partial_groups.strip(),
            trial=trial,
            one_shard=one_shard,
            staging_database=staging_database,
            cluster=cluster,
            shard_urls=read_shard_urls(shard_url),
            reason=reason,
            owner=owner,
        )
        payload = create_plan(self._session, request)
        return Backfill(self._session, self._session.store.load_plan(payload["planId"]), payload)

    def backfill(self, name: str | None = None, *, target: str | None = None) -> Backfill:
        """
        Return a backfill of the state folder.

        Args:
            name: The plan's id, or a unique beginning of the id; None means the plan created last.
            target: Return the only open plan of this table; without an open plan, the only plan of the table. With
                *target*, *name* is ignored.

        Raises:
            PlanNotFoundError: There is no such plan.
            DamagedStateError: The plan's files are damaged, or no readable plan fits, but a damaged plan may.
            RequestError: *name* is not an id, or several plans fit.
        """
        from .commands.find_plan import find_plan_id, last_plan_id, plan_id_of_target

        if target is not None:
            plan_id = plan_id_of_target(self._session, parse_table(target, "target"))
        else:
            plan_id = last_plan_id(self._session) if name is None else find_plan_id(self._session, name)
        return Backfill(self._session, self._session.store.load_plan(plan_id))

    def backfills(self, *, target: str | None = None, status: str | None = None) -> list[Backfill]:
        """
        Return the backfills of the state folder, oldest first, without plans whose files are damaged.

        Args:
            target: Return only backfills of this table.
            status: Return only backfills with this status, such as ``completed``.
        """
        from .commands.list import list_plans

        table: TableName | None = None if target is None else parse_table(target, "target")
        plans = list_plans(self._session, target=table, status=status)["plans"]
        return [Backfill(self._session, self._session.store.load_plan(plan["planId"])) for plan in plans]

    def clean(
        self, backfill: str | None = None, *, target: str | None = None, remove: bool = False
    ) -> list[LeftoverTable]:
        """
        Return the tables that runs and trials have left on the server; with *remove*, drop the unneeded tables.

        Args:
            backfill: Search only tables of the plan with this id, or with this unique beginning of an id.
            target: Search only tables of this target.
            remove: Whether to drop the unneeded tables; otherwise they are only returned.

        Raises:
            RequestError: *backfill* is the beginning of no id or of several ids; there is neither a table *target* nor
                a plan with this target; or the client has no address of ClickHouse.
            ServerError: ClickHouse could not be asked, or refused to drop a table.
        """
        from .commands.clean import clean_up
        from .commands.find_plan import find_plan_id

        payload = clean_up(
            self._session,
            plan_id=None if backfill is None else find_plan_id(self._session, backfill),
            target=None if target is None else parse_table(target, "target"),
            remove=remove,
        )
        return [
            LeftoverTable(each["table"], each["planId"], each["kind"], each["rows"], each["fate"], each["reason"])
            for each in payload["tables"]
        ]

    def check(self, *, target: str | None = None) -> "Payload":
        """Check whether every required backfill (of *target*) is finished; return the payload of ``check --json``."""
        from .commands.check import check_backfills

        return check_backfills(self._session, None if target is None else parse_table(target, "target"))


def _instant(bound: str | datetime) -> datetime:
    if isinstance(bound, str):
        return parse_instant(bound)
    if bound.tzinfo is None:
        raise RequestError(
            f"The bound {bound.isoformat()} has no time zone.", hint="use an aware datetime, or text, which means UTC"
        )
    return bound


def _listed(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


def _one_of(kind: type[_Word], text: str, what: str) -> _Word:
    try:
        return kind(text)
    except ValueError:
        allowed = ", ".join(kind)
        raise RequestError(f"The {what} is {text!r}.", hint=f"use one of {allowed}") from None
