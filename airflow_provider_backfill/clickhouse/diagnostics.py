"""
Collect facts about a server and its tables, for the rules to judge.

Each check is independent. A check can fail for want of rights, on an old version, or after a timeout. A failed check
is named in :attr:`ServerFacts.unseen`, and the other checks continue. The checks change nothing on the server.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from ..core.facts import EpochFacts, Nondeterminism, PolicyFacts, ServerFacts, StatementScan, TableFacts
from ..core.names import quote
from ..core.plan import Plan, Statement
from ..core.sql import chunk_filter, literal, quote_table, table_condition
from ..core.tables import TableName, TimeKind
from ..errors import ServerError, ServerUnreachableError, StatementRefusedError
from . import catalog, query_plan
from .client import ClickHouse
from .cluster import insert_quorum
from .leftovers import live_queries, queries_elsewhere, staging_tables
from .rights import constrained_settings, missing_grants
from .row_policies import below, plan_nodes, row_filters
from .server_errors import CONSTRAINED
from .shards import spreads_over
from .table_health import (
    database_replica_facts,
    deleting_ttls,
    disk_facts,
    distribution_queues,
    fullest_partition,
    is_one_of,
    replica_facts,
    setting_value,
    token_window,
    unfinished_mutations,
)

_T = TypeVar("_T")

# The maximum time, in seconds, to count the partitions that one statement fills for a chunk.
_PROBE_SECONDS = 5


def server_facts(
    server: ClickHouse,
    target: TableName,
    plan: Plan | None,
    sources: Sequence[TableName],
    known_plans: Iterable[str] = (),
) -> ServerFacts:
    """
    Collect one server's facts for the rules, about one plan, or about a target without a plan.

    If the target does not exist, the result has only the facts about the server and its queries, and the known plans.

    Args:
        sources: The source tables; with a plan, the sources of its statements.
        known_plans: The ids of all plans in the state folder.

    Raises:
        ServerError: The server could not be reached, or refused a question about the target or the user.
    """
    look = _Look(server, plan)
    facts = catalog.table_facts(server, target)
    version, user = server.row("SELECT version(), currentUser()")
    common: dict[str, Any] = {
        "address": server.address,
        "version": catalog.version_numbers(version),
        "user": user,
        "target": target,
        "known_plans": frozenset(known_plans),
        "queries": look.many("running queries", live_queries, server)
        + look.many("queries on the other servers of the cluster", queries_elsewhere, server),
    }
    if facts is None:
        return ServerFacts(**common, unseen=tuple(look.unseen))
    if plan is not None:
        facts = replace(facts, staging_database=plan.staging_database)
    storage = facts.storage
    readable = [name for name in sources if look.part(str(name), False, _exists, server, name)]
    tables = list(dict.fromkeys([storage, *readable]))
    settings = look.many("settings", constrained_settings, server, plan)
    engine_full, policy = look.part("the target's engine", ("", ""), _engine, server, storage)
    return ServerFacts(
        **common,
        storage=storage,
        engine=facts.engine,
        views_fired=facts.views,
        view_targets=look.part("the views' targets", {}, catalog.view_targets, server, facts.views),
        views_refreshed=look.many("refreshable views", _refreshable, server, target, storage),
        missing_sources=tuple(name for name in sources if name not in readable),
        scans=tuple(look.scans(readable)),
        traits=tuple(look.traits(readable)),
        epochs=tuple(look.epochs(readable)),
        policies=tuple(look.policies(tables)),
        ttls=look.many("the target's TTL", deleting_ttls, server, facts, plan, engine_full),
        parts=look.many("system.parts", fullest_partition, server, storage, engine_full),
        mutations=look.many("system.mutations", unfinished_mutations, server, tables),
        replicas=look.many("system.replicas", replica_facts, server, tables),
        database_replicas=look.many("system.database_replicas", database_replica_facts, server, facts.databases),
        queues=look.many("system.distribution_queue", distribution_queues, server, tables),
        spreads=look.many("Distributed tables", spreads_over, server, storage, sources),
        disks=look.many("system.disks", disk_facts, server, policy),
        grants=look.many("rights", missing_grants, server, facts, plan and plan.write_mode, readable),
        settings=settings,
        balanced=getattr(server, "met_others", False),
        target_replicas=facts.replicas,
        quorum=look.part("insert_quorum", 0, insert_quorum, server, facts.replicas.total) if facts.replicas else 0,
        staging=look.many("staging tables", staging_tables, server, facts),
        partitions_per_chunk=look.part("partitions per chunk", None, _partitions, server, facts, plan),
        partitions_limit=look.part("settings", 0, setting_value, server, "settings", "max_partitions_per_insert_block"),
        drop_limit=look.part(
            "system.server_settings", None, setting_value, server, "server_settings", "max_partition_size_to_drop"
        ),
        drop_limit_tied=any(setting.name == "max_partition_size_to_drop" for setting in settings),
        token_window=look.part("the target's settings", None, token_window, server, facts.engine, engine_full),
        unseen=tuple(dict.fromkeys(look.unseen)),
    )


class _Look:
    """The checks on one server; *unseen* has a text for each failed check, with the reason."""

    def __init__(self, server: ClickHouse, plan: Plan | None) -> None:
        self._server, self._plan = server, plan
        self.unseen: list[str] = []

    def part(self, what: str, otherwise: _T, ask: Callable[..., _T], *arguments: object) -> _T:
        """
        Return the answer of *ask*; if the check fails, note *what* in *unseen* and return *otherwise*.

        Raises:
            ServerUnreachableError: The server could not be reached.
        """
        try:
            return ask(*arguments)
        except ServerUnreachableError:
            raise
        except ServerError as error:
            self.unseen.append(f"{what}: {error.message}")
            return otherwise

    def many(self, what: str, ask: Callable[..., tuple[_T, ...]], *arguments: object) -> tuple[_T, ...]:
        """Return the answer of *ask* as :meth:`part` does; empty if the check fails."""
        return self.part(what, (), ask, *arguments)

    def _statements(self, readable: Sequence[TableName]) -> Iterator[tuple[Plan, Statement, TableName]]:
        for statement in self._plan.statements if self._plan is not None else ():
            if self._plan is not None and statement.table is not None and statement.table in readable:
                yield self._plan, statement, statement.table

    def scans(self, readable: Sequence[TableName]) -> Iterator[StatementScan]:
        """Yield the scan of each statement with a readable source table; for a refused statement, yield the error."""
        for plan, statement, source in self._statements(readable):
            try:
                filters = plan.filters(statement)
                facts = query_plan.scan_facts(
                    self._server, statement.select, filters, plan.start, plan.end, statement.settings
                )
            except StatementRefusedError as error:
                if error.name in CONSTRAINED:
                    # The statement is as good as before. The rule on settings reports what the user may not change.
                    self.unseen.append(f"reads of {statement.name}: {error.message}")
                else:
                    yield StatementScan(statement.name, source, None, error.message)
            else:
                # The query plan does not name the column of a skip index.
                skips = self.part(f"indexes of {source}", False, _skips, self._server, source, filters[0].column)
                yield StatementScan(statement.name, source, replace(facts, pruned=facts.pruned or skips), "")

    def traits(self, readable: Sequence[TableName]) -> Iterator[Nondeterminism]:
        """Yield the reasons why a statement with a readable source may return different rows when it runs again."""
        for _, statement, _ in self._statements(readable):
            functions = self.many(f"functions of {statement.name}", _unstable, self._server, statement.select)
            unordered = self.part(f"the plan of {statement.name}", "", _unordered, self._server, statement.select)
            if functions or unordered:
                yield Nondeterminism(statement.name, functions, unordered)

    def epochs(self, readable: Sequence[TableName]) -> Iterator[EpochFacts]:
        """
        Yield integer time columns whose declared unit is probably wrong.

        The largest sampled value of such a column is plausible in a different unit, but not in the declared unit. A
        value is plausible in a unit if it lies between half and twice the server's current epoch time in that unit.
        """
        for plan, statement, source in self._statements(readable):
            unit = statement.time_kind.unit
            if not unit:
                continue
            column = plan.filters(statement)[0].column
            value, now = self.part(f"{source}.{column}", (0, 0), _sample, self._server, source, column)
            near = [
                kind.unit for kind in TimeKind if kind.per_second and 0.5 < value / kind.per_second / max(now, 1) < 2
            ]
            if near and unit not in near:
                yield EpochFacts(source, column, value, unit, near[0])

    def policies(self, tables: Sequence[TableName]) -> Iterator[PolicyFacts]:
        """Yield the row policies that hide rows of the tables from this user, as the query plan shows them."""
        for table in tables:
            for condition in self.many(f"row policies of {table}", row_filters, self._server, table):
                yield PolicyFacts(table, condition)


def _exists(server: ClickHouse, name: TableName) -> bool:
    return bool(server.value(f"EXISTS TABLE {quote_table(name)}"))


def _engine(server: ClickHouse, storage: TableName) -> tuple[str, str]:
    """Return a table's complete engine clause and its storage policy; two empty texts if the table does not exist."""
    found = server.rows(
        f"SELECT engine_full, storage_policy FROM system.tables WHERE {table_condition(storage, 'name')}"
    )
    return (str(found[0][0]), str(found[0][1])) if found else ("", "")


def _unstable(server: ClickHouse, select: str) -> tuple[str, ...]:
    return catalog.select_facts(server, select).unstable


def _skips(server: ClickHouse, source: TableName, column: str) -> bool:
    """Return whether *source* has a min-max skip index on exactly the time column (or time expression) *column*."""
    return bool(
        server.value(
            f"SELECT count() FROM system.data_skipping_indices WHERE {is_one_of([source])} AND type = 'minmax'"
            f" AND expr IN ({literal(column)}, {literal(quote(column))}, {literal(column[1:-1])})"
        )
    )


def _unordered(server: ClickHouse, select: str) -> str:
    for node in plan_nodes(server, select):
        if node["Node Type"] in ("Limit", "LimitBy") and not any(n["Node Type"] == "Sorting" for n in below(node)):
            return "LIMIT BY" if node["Node Type"] == "LimitBy" else "LIMIT"
    return ""


def _sample(server: ClickHouse, source: TableName, column: str) -> tuple[int, int]:
    name = quote(column)
    value, now = server.row(
        "SELECT max(value), toUnixTimestamp(now())"
        f" FROM (SELECT {name} AS value FROM {quote_table(source)} LIMIT 10000)"
    )
    return int(value), int(now)


def _partitions(server: ClickHouse, target: TableFacts, plan: Plan | None) -> int | None:
    """
    Return the number of partitions that the plan's middle chunk writes to, for the statement with the most partitions.

    Return None without a plan or a partition key. A count that is interrupted after 5 s gives a lower bound.

    Raises:
        ServerError: The server refused a query or could not be reached, or a count was interrupted without a value.
    """
    if plan is None or not target.partition_key:
        return None
    chunk = next(chunk for index, chunk in enumerate(plan.chunks()) if index == plan.chunk_count // 2)
    most = 0
    for statement in plan.statements:
        settings = {
            **chunk_filter(plan, statement, chunk),
            "max_execution_time": _PROBE_SECONDS,
            "timeout_overflow_mode": "break",
        }
        sql = f"SELECT uniqExact({target.partition_key}) FROM (\n{statement.query}\n)"
        # Depending on the version, an interrupted aggregation returns its partial value or no row.
        count = server.value(sql, settings, default=None)
        if count is None:
            raise ServerError(f"counting them for a chunk of {statement.name} takes over {_PROBE_SECONDS:g} s")
        most = max(most, int(count))
    return most


def _refreshable(server: ClickHouse, target: TableName, storage: TableName) -> tuple[TableName, ...]:
    """Return the refreshable views that replace the target's rows on a schedule, without disabled and APPEND views."""
    enabled = {
        TableName(database, view)
        for database, view in server.rows("SELECT database, view FROM system.view_refreshes WHERE status != 'Disabled'")
    }
    if not enabled:
        return ()
    views = [view for name in {target, storage} for view in catalog.feeding_views(server, name) if view.refreshable]
    appending = {
        TableName(*row)
        for row in server.rows(
            "SELECT database, name FROM system.tables WHERE engine = 'MaterializedView'"
            " AND match(create_table_query, '^CREATE MATERIALIZED VIEW .* REFRESH (EVERY|AFTER) .* APPEND (TO|\\\\()')"
        )
    }
    return tuple(sorted({view.name for view in views if view.name in enabled and view.name not in appending}))
