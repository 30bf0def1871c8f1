"""A small laboratory: a session on a real engine and a state folder, with shortcuts for common steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_provider_backfill.clickhouse.client import ClickHouse, connect
from airflow_provider_backfill.commands.plan import create_plan
from airflow_provider_backfill.commands.run import RunFlags, run_plan
from airflow_provider_backfill.commands.session import Payload, Session
from airflow_provider_backfill.core.chunking import parse_length
from airflow_provider_backfill.core.instants import parse_instant
from airflow_provider_backfill.core.request import PlanRequest, TableFilter
from airflow_provider_backfill.core.tables import TableName
from airflow_provider_backfill.errors import ServerError
from airflow_provider_backfill.option_sources import parse_options
from airflow_provider_backfill.options import Options
from airflow_provider_backfill.state.posix import FileBackend
from airflow_provider_backfill.state.store import StateStore
from tests.conftest import Engine


def once(name: str, error: ServerError, nth: int = 1) -> Callable[[str], None]:
    """A ``step`` of a run that raises *error* when the step of that name is done for the *nth* time."""
    left = itertools.count(nth, -1)

    def step(at: str) -> None:
        if at == name and next(left) == 1:
            raise error

    return step


FAST = {"defaults": {"retryDelayMs": 1}, "limits": {"maxWindowHours": 100_000}}


@dataclass
class Lab:
    """
    One engine, one fresh database, one fresh state folder.

    Attributes:
        options: An options document; short delays by default.
    """

    engine: Engine
    folder: Path
    options: dict[str, Any] = field(default_factory=lambda: dict(FAST))

    @property
    def session(self) -> Session:
        """A session such as the command line makes."""
        store = StateStore(FileBackend(self.folder))
        return Session(store, self._options(), self.server, "test")

    def _options(self) -> Options:
        return parse_options(self.options)

    def server(self) -> ClickHouse:
        """A connection to the engine."""
        return connect(self.engine.url)

    def table(self, name: str) -> TableName:
        """A table of the database."""
        return TableName(self.engine.database, name)

    def with_two_days(self, columns: str) -> Lab:
        """Make a source ``src`` of two days with a row a minute, and an empty target ``dst`` like it."""
        self.sql(
            f"CREATE TABLE src {columns}",
            "INSERT INTO src SELECT toDateTime('2025-01-01', 'UTC') + number * 60, number % 7 FROM numbers(2880)",
            f"CREATE TABLE dst {columns}",
        )
        return self

    def sql(self, *statements: str) -> None:
        """Run statements; names without a database belong to the test's."""
        for statement in statements:
            self.engine.client.command(statement)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        return [tuple(row) for row in self.engine.client.query(query).result_rows]

    def value(self, query: str) -> Any:
        """The one value of a query."""
        return self.rows(query)[0][0]

    def content(self, table: str, columns: str = "*", tail: str = "") -> tuple[int, int]:
        """Content sums of a table."""
        rows, checksum = self.rows(f"SELECT count(), sum(cityHash64(tuple({columns}))) FROM {table} {tail}")[0]
        return rows, checksum

    def plan(self, target: str, start: str, end: str, hours: float | str = 6, **wanted: Any) -> Payload:
        """Plan a backfill of one table of the database; *hours* is a length as a user types it."""
        source, filtered = wanted.pop("source", None), wanted.pop("filter_table", None)
        if filtered is not None:
            wanted["filter_tables"] = (TableFilter(filtered),)
        request = PlanRequest(
            target=self.table(target),
            start=parse_instant(start),
            end=parse_instant(end),
            chunking=wanted.pop("chunking", None) or parse_length(str(hours)),
            source=self.table(source) if source else None,
            **wanted,
        )
        return create_plan(self.session, request)

    def run(self, plan: Payload, **wanted: Any) -> Payload:
        """Run a plan to its end."""
        flags = RunFlags(**{name: wanted.pop(name) for name in list(wanted) if name in RunFlags.__slots__})
        return run_plan(self.session, plan["planId"], flags=flags, **wanted)

    def fill(self, target: str, start: str, end: str, hours: float | str = 6, **wanted: Any) -> Payload:
        """Plan and run, and hold that it completed."""
        payload = self.run(self.plan(target, start, end, hours, **wanted))
        assert payload["status"] == "completed", payload
        return payload

    def leftovers(self) -> list[str]:
        """Tables of ours that are still there."""
        query = "SELECT name FROM system.tables WHERE database = currentDatabase() AND startsWith(name, 'backfill_')"
        return [name for (name,) in self.rows(query)]
