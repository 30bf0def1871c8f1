"""
What can be wrong with a server and its tables, as plain facts; the rules judge them.

Each part of the look stands by itself: what this user may not see, or this version does not
know, is named in :attr:`ServerFacts.unseen`, and the other parts are looked at all the same.
Nothing here changes anything on the server.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from ..core.facts import (
    ConstrainedSetting,
    DiskFacts,
    EpochFacts,
    MissingGrant,
    MutationFacts,
    Nondeterminism,
    PartsFacts,
    PolicyFacts,
    QueryFacts,
    QueueFacts,
    ReplicaFacts,
    ServerFacts,
    StagingFacts,
    StatementScan,
    TableFacts,
    TableName,
    TimeKind,
    TtlFacts,
)
from ..core.instants import from_ms, to_ms
from ..core.masking import mask_message
from ..core.plan import Plan, Statement, WriteMode
from ..core.sql import chunk_filter, instant_sql, literal, parse_table, quote, quote_table, table_condition
from ..errors import ServerError, ServerUnreachableError, StatementRefusedError
from . import catalog, query_plan
from .attempt import STAGING_SETTINGS
from .client import ClickHouse
from .cluster import insert_quorum, lost_tables

_T = TypeVar("_T")

_STAGING = re.compile(
    r"backfill_([0-9a-f]{16})_(?:[0-9a-f]{16}_(?:\d+(?:_[0-9a-f]{8})?|sealed)|fence_[0-9a-f]{8}_-?\d+_-?\d+_[0-9a-f]{8})"
)
_QUERY = re.compile(r"backfill-([0-9a-f]{16})-([0-9a-f]{16})-(\d+)")
_LITERAL_TYPE = re.compile(r"(\b\d{1,80}(?:\.\d{1,80})?|'(?:[^'\\]|\\.){0,400}')_[A-Z]\w{0,80}(?:\([^()]{0,400}\))?")
_MOVES = re.compile(r"\b(?:TO DISK|TO VOLUME|RECOMPRESS|GROUP BY)\b")
_TTL_POINTS = 1000
_PROBE_SECONDS = 5

# What statements are sent with, beside the settings of the staging insert; None is any value.
_SENT: dict[str, str | None] = {
    **{name: str(value) for name, value in STAGING_SETTINGS.items()},
    "additional_table_filters": None,
    "log_comment": None,
    "max_partition_size_to_drop": "0",
    "max_table_size_to_drop": "0",
    "mutations_sync": "2",
    "send_progress_in_http_headers": "1",
    "http_headers_progress_interval_ms": "10000",
}
_SENT_DIRECTLY: dict[str, str | None] = {
    "additional_table_filters": None,
    "log_comment": None,
    "insert_deduplicate": "1",
    "async_insert": "0",
    "distributed_foreground_insert": "1",
    "skip_unavailable_shards": "0",
    "send_progress_in_http_headers": "1",
    "http_headers_progress_interval_ms": "10000",
}


def server_facts(
    server: ClickHouse,
    target: TableName,
    plan: Plan | None,
    sources: Sequence[TableName],
    known_plans: Iterable[str] = (),
) -> ServerFacts:
    """
    Look at everything that the rules know of, for one plan, or for a target before there is one.

    Args:
        sources: The tables that are read; with a plan, those of its statements.
        known_plans: The ids of all plans in the state folder.

    Raises:
        ServerError: The server could not be reached.
    """
    look = _Look(server, plan)
    facts = catalog.table_facts(server, target)
    version, user = server.row("SELECT version(), currentUser()")
    common: dict[str, Any] = {
        "address": server.address,
        "version": tuple(int(part) for part in re.findall(r"\d+", version)),
        "user": user,
        "target": str(target),
        "known_plans": frozenset(known_plans),
        "queries": look.many("running queries", live_queries, server)
        + look.many("queries on the other servers of the cluster", _queries_elsewhere, server),
    }
    if facts is None:
        return ServerFacts(**common, unseen=tuple(look.unseen))
    storage = facts.storage
    readable = [name for name in sources if look.part(str(name), False, _exists, server, name)]
    tables = list(dict.fromkeys([storage, *readable]))
    settings = look.many("settings", _settings, server, plan)
    engine_full, policy = look.part("the target's engine", ("", ""), _engine, server, storage)
    return ServerFacts(
        **common,
        storage=storage,
        engine=facts.engine,
        views_fired=facts.views,
        view_targets=look.part("the views' targets", {}, catalog.view_targets, server, facts.views),
        views_refreshed=look.many("refreshable views", _refreshable, server, target, storage),
        missing_sources=tuple(str(name) for name in sources if name not in readable),
        scans=tuple(look.scans(readable)),
        traits=tuple(look.traits(readable)),
        epochs=tuple(look.epochs(readable)),
        policies=tuple(look.policies(readable)),
        ttls=look.many("the target's TTL", _ttls, server, facts, plan, engine_full),
        parts=look.many("system.parts", _parts, server, storage, engine_full),
        mutations=look.many("system.mutations", _mutations, server, tables),
        replicas=look.many("system.replicas", _replicas, server, tables),
        queues=look.many("system.distribution_queue", _queues, server, tables),
        disks=look.many("system.disks", _disks, server, policy),
        grants=look.many("rights", missing_grants, server, facts, plan and plan.write_mode, readable),
        settings=settings,
        balanced=getattr(server, "met_others", False),
        target_replicas=facts.replicas,
        quorum=look.part("insert_quorum", 0, insert_quorum, server, facts.replicas.total) if facts.replicas else 0,
        staging=look.many("staging tables", staging_tables, server, facts),
        partitions_per_chunk=look.part("partitions per chunk", None, _partitions, server, facts, plan),
        partitions_limit=look.part("settings", 0, _number, server, "settings", "max_partitions_per_insert_block"),
        drop_limit=look.part(
            "system.server_settings", None, _number, server, "server_settings", "max_partition_size_to_drop"
        ),
        drop_limit_tied=any(setting.name == "max_partition_size_to_drop" for setting in settings),
        token_window=look.part("the target's settings", None, _token_window, server, facts.engine, engine_full),
        unseen=tuple(dict.fromkeys(look.unseen)),
    )


class _Look:
    """Collects what could not be looked at."""

    def __init__(self, server: ClickHouse, plan: Plan | None) -> None:
        self._server, self._plan = server, plan
        self.unseen: list[str] = []

    def part(self, what: str, otherwise: _T, ask: Callable[..., _T], *arguments: object) -> _T:
        """The answer to *ask*, or *otherwise* when this user or version does not give it, or not in time."""
        try:
            return ask(*arguments)
        except ServerUnreachableError:
            raise
        except ServerError as error:
            self.unseen.append(f"{what}: {error.message}")
            return otherwise

    def many(self, what: str, ask: Callable[..., tuple[_T, ...]], *arguments: object) -> tuple[_T, ...]:
        """As :meth:`part`, for an answer that may be empty."""
        return self.part(what, (), ask, *arguments)

    def _statements(self, readable: Sequence[TableName]) -> Iterator[tuple[Plan, Statement, TableName]]:
        for statement in self._plan.statements if self._plan is not None else ():
            if not statement.has_table:
                continue
            source = parse_table(statement.source, "source")
            if self._plan is not None and source in readable:
                yield self._plan, statement, source

    def scans(self, readable: Sequence[TableName]) -> Iterator[StatementScan]:
        """How each statement reads its source; a statement that is refused says why."""
        for plan, statement, source in self._statements(readable):
            try:
                filters = plan.filters(statement)
                facts = query_plan.scan_facts(
                    self._server, statement.select, filters, plan.start, plan.end, statement.settings
                )
            except StatementRefusedError as error:
                yield StatementScan(statement.name, statement.source, None, error.message)
            else:
                # The query plan does not say which column a skip index is on.
                skips = self.part(f"indexes of {source}", False, _skips, self._server, source, filters[0].column)
                yield StatementScan(statement.name, statement.source, replace(facts, pruned=facts.pruned or skips), "")

    def traits(self, readable: Sequence[TableName]) -> Iterator[Nondeterminism]:
        """Which statements give other rows when they are asked again."""
        for _, statement, _ in self._statements(readable):
            functions = self.many(f"functions of {statement.name}", _unstable, self._server, statement.select)
            unordered = self.part(f"the plan of {statement.name}", "", _unordered, self._server, statement.select)
            if functions or unordered:
                yield Nondeterminism(statement.name, functions, unordered)

    def epochs(self, readable: Sequence[TableName]) -> Iterator[EpochFacts]:
        """Integer time columns whose values do not look like instants in the declared unit."""
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

    def policies(self, readable: Sequence[TableName]) -> Iterator[PolicyFacts]:
        """Row policies that hide rows of the sources from this user, as the query plan shows them."""
        for source in readable:
            for condition in self.many(f"row policies of {source}", _row_filters, self._server, source):
                yield PolicyFacts(source, condition)


def live_queries(server: ClickHouse) -> tuple[QueryFacts, ...]:
    """The queries of ours that run on this server now, whoever sent them; an embedded engine has no others."""
    return () if server.embedded else _queries(server, "system.processes")


def _queries_elsewhere(server: ClickHouse) -> tuple[QueryFacts, ...]:
    """The queries of ours that run on other servers of the cluster, as far as these can be reached."""
    if server.embedded or not server.cluster:
        return ()
    here = {query.query_id for query in live_queries(server)}
    found = _queries(server, server.cluster_processes)
    return tuple(query._replace(cluster=server.cluster) for query in found if query.query_id not in here)


def _queries(server: ClickHouse, processes: str) -> tuple[QueryFacts, ...]:
    found = server.rows(
        f"SELECT DISTINCT query_id, user, elapsed FROM {processes} WHERE startsWith(query_id, 'backfill-')"
        " ORDER BY query_id",
        {"skip_unavailable_shards": 1},
    )
    matches = ((_QUERY.match(query_id), query_id, user, elapsed) for query_id, user, elapsed in found)
    return tuple(
        QueryFacts(query_id, match[1], match[2], int(match[3]), user, elapsed)
        for match, query_id, user, elapsed in matches
        if match is not None
    )


def staging_tables(server: ClickHouse, target: TableFacts) -> tuple[StagingFacts, ...]:
    """The tables of any plan beside a target, on whichever replica they are, or in Keeper alone."""
    database, replicas = target.storage.database, target.replicas
    cluster = replicas.cluster if replicas is not None else ""
    tables = f"clusterAllReplicas({literal(cluster)}, system.tables)" if cluster else "system.tables"
    found = server.rows(
        f"SELECT name, max(total_rows), min(toInt64(now() - metadata_modification_time)) FROM {tables}"
        f" WHERE database = {literal(database)} AND startsWith(name, 'backfill_') GROUP BY name ORDER BY name",
        {"skip_unavailable_shards": 1},
    )
    facts = [
        StagingFacts(TableName(database, name), match[1], rows, age, cluster)
        for name, rows, age in found
        if (match := _STAGING.fullmatch(name)) is not None
    ]
    if replicas is not None and not replicas.by_database:
        there = {name for name, _, _ in found}
        for name, lost in lost_tables(server, replicas).items():
            if name not in there and (match := _STAGING.fullmatch(name)) is not None:
                facts.append(StagingFacts(TableName(database, name), match[1], None, None, "", lost))
    return tuple(facts)


def _exists(server: ClickHouse, name: TableName) -> bool:
    return bool(server.value(f"EXISTS TABLE {quote_table(name)}"))


def _engine(server: ClickHouse, storage: TableName) -> tuple[str, str]:
    """The engine's full definition and the storage policy."""
    found = server.rows(
        f"SELECT engine_full, storage_policy FROM system.tables WHERE {table_condition(storage, 'name')}"
    )
    return (str(found[0][0]), str(found[0][1])) if found else ("", "")


def _of(tables: Iterable[TableName]) -> str:
    names = ", ".join(f"({literal(name.database)}, {literal(name.table)})" for name in tables)
    return f"(database, table) IN ({names})"


def _unstable(server: ClickHouse, select: str) -> tuple[str, ...]:
    return catalog.select_facts(server, select).unstable


def _skips(server: ClickHouse, source: TableName, column: str) -> bool:
    """Whether a min-max index is on the time column alone."""
    return bool(
        server.value(
            f"SELECT count() FROM system.data_skipping_indices WHERE {_of([source])} AND type = 'minmax'"
            f" AND expr IN ({literal(column)}, {literal(quote(column))})"
        )
    )


def _plan_nodes(server: ClickHouse, select: str) -> Iterator[Mapping[str, Any]]:
    answer = server.rows(f"SELECT explain FROM (EXPLAIN json = 1, actions = 1\n{select}\n)")
    for root in json.loads("\n".join(line for (line,) in answer)):
        yield from _below(root["Plan"])


def _below(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _below(child)


def _unordered(server: ClickHouse, select: str) -> str:
    for node in _plan_nodes(server, select):
        if node["Node Type"] in ("Limit", "LimitBy") and not any(n["Node Type"] == "Sorting" for n in _below(node)):
            return "LIMIT BY" if node["Node Type"] == "LimitBy" else "LIMIT"
    return ""


def _row_filters(server: ClickHouse, source: TableName) -> tuple[str, ...]:
    found = []
    for node in _plan_nodes(server, f"SELECT * FROM {quote_table(source)}"):
        condition = node.get("Prewhere info", {}).get("Row level filter", {}).get("Row level filter column")
        if condition is None and "ow-level security" in str(node.get("Description", "")):
            condition = node.get("Filter Column")
        if condition is not None:
            found.append(_LITERAL_TYPE.sub(r"\1", str(condition)))
    return tuple(dict.fromkeys(found))


def _sample(server: ClickHouse, source: TableName, column: str) -> tuple[int, int]:
    name = quote(column)
    value, now = server.row(
        "SELECT max(value), toUnixTimestamp(now())"
        f" FROM (SELECT {name} AS value FROM {quote_table(source)} LIMIT 10000)"
    )
    return int(value), int(now)


def _partitions(server: ClickHouse, target: TableFacts, plan: Plan | None) -> int | None:
    """
    Into how many partitions the rows of the middle chunk fall; at least so many when the time does not suffice.

    Raises:
        ServerError: The time did not suffice to say anything.
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
        sql = f"SELECT uniqExact({target.partition_key}) FROM (\n{statement.select}\n)"
        # An aggregate that is broken off has, by version, the value up to there or no row at all.
        count = server.value(sql, settings, default=None)
        if count is None:
            raise ServerError(f"counting them for a chunk of {statement.name} takes over {_PROBE_SECONDS:g} s")
        most = max(most, int(count))
    return most


def _refreshable(server: ClickHouse, target: TableName, storage: TableName) -> tuple[TableName, ...]:
    """Views that replace the target's rows on their schedule, stopped ones and those that append left out."""
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


def target_ttls(server: ClickHouse, target: TableFacts, plan: Plan) -> tuple[TtlFacts, ...]:
    """The TTLs of a plan's target that delete rows, held against its window; none where the server cannot say."""
    try:
        return _ttls(server, target, plan, target.engine_full)
    except StatementRefusedError:
        return ()


def _ttls(server: ClickHouse, target: TableFacts, plan: Plan | None, engine_full: str) -> tuple[TtlFacts, ...]:
    """The TTLs that delete rows, held against the window of the plan."""
    time = plan.target_time if plan is not None else None
    column = target.column(time.column) if time is not None else None
    if plan is None or time is None or column is None:
        return ()
    found = []
    for element in _ttl_elements(engine_full):
        expression = re.split(r"\s(?:WHERE|DELETE)\b", element)[0]
        until = _expired(server, expression, time.column, column.type, time.kind, plan.start, plan.end)
        found.append(TtlFacts(element, until))
    return tuple(found)


def _ttl_elements(engine_full: str) -> list[str]:
    _, found, rest = engine_full.partition(" TTL ")
    if not found:
        return []
    elements = re.split(r",\s{0,8}(?![^(]{0,400}\))", re.split(r"\sSETTINGS\s", rest)[0])
    return [element.strip() for element in elements if not _MOVES.search(element)]


def _expired(
    server: ClickHouse, expression: str, column: str, column_type: str, kind: TimeKind, start: datetime, end: datetime
) -> datetime | None:
    """Up to which instant of ``[start, end)`` rows are past their TTL, within a thousandth of the window."""
    first, last = to_ms(start), to_ms(end)
    step = max((last - first) // _TTL_POINTS, 1)
    value = instant_sql("ms", kind)
    points = f"SELECT toInt64({first} + number * {step}) AS ms FROM numbers({(last - first - 1) // step + 1})"
    reached = server.value(
        f"SELECT maxOrNull(ms) FROM (SELECT ms, CAST({value} AS {column_type}) AS {quote(column)} FROM ({points}))"
        f" WHERE ({expression}) <= now()"
    )
    return None if reached is None else from_ms(min(int(reached) + step, last))


def part_limits(server: ClickHouse, engine_full: str) -> tuple[int, int, int]:
    """``parts_to_delay_insert``, ``parts_to_throw_insert`` and ``max_parts_in_total`` of a table."""
    names = ("parts_to_delay_insert", "parts_to_throw_insert", "max_parts_in_total")
    listed = ", ".join(map(literal, names))
    given = dict(server.rows(f"SELECT name, value FROM system.merge_tree_settings WHERE name IN ({listed})"))
    own = {name: match[1] for name in names if (match := re.search(rf"\b{name} = (\d+)", engine_full))}
    delay, throw, total = (int({**given, **own}[name]) for name in names)
    return delay, throw, total


def _parts(server: ClickHouse, storage: TableName, engine_full: str) -> tuple[PartsFacts, ...]:
    partition, parts, total, largest = server.row(
        "SELECT argMax(partition_id, parts), max(parts), sum(parts), max(bytes) FROM (SELECT partition_id,"
        " count() AS parts, sum(bytes_on_disk) AS bytes FROM system.parts"
        f" WHERE active AND {_of([storage])} GROUP BY partition_id)"
    )
    if not parts:
        return ()
    delay, throw, limit = part_limits(server, engine_full)
    return (PartsFacts(storage, partition, parts, delay, throw, total, limit, largest),)


def _token_window(server: ClickHouse, engine: str, engine_full: str) -> int | None:
    if not engine.endswith("MergeTree") or engine.startswith(("Replicated", "Shared")):
        return None
    name = "non_replicated_deduplication_window"
    if match := re.search(rf"\b{name} = (\d+)", engine_full):
        return int(match[1])
    return _number(server, "merge_tree_settings", name)


def _number(server: ClickHouse, table: str, name: str) -> int:
    return int(server.value(f"SELECT value FROM system.{table} WHERE name = {literal(name)}", default=0))


def _mutations(server: ClickHouse, tables: Iterable[TableName]) -> tuple[MutationFacts, ...]:
    found = server.rows(
        "SELECT database, table, mutation_id, command, parts_to_do, latest_fail_reason FROM system.mutations"
        f" WHERE NOT is_done AND {_of(tables)} ORDER BY create_time"
    )
    return tuple(
        MutationFacts(TableName(database, table), name, mask_message(text), parts, _first_line(error))
        for database, table, name, text, parts, error in found
    )


def _first_line(error: str) -> str:
    return mask_message(error).partition("\n")[0]


def _replicas(server: ClickHouse, tables: Iterable[TableName]) -> tuple[ReplicaFacts, ...]:
    """All replicas of the tables, as far as their servers can be asked; those of this server at least."""
    paths = f"zookeeper_path IN (SELECT zookeeper_path FROM system.replicas WHERE {_of(tables)})"
    question = (
        "SELECT database, table, replica_name, is_readonly, is_session_expired, absolute_delay,"
        " queue_size - merges_in_queue - part_mutations_in_queue,"
        " if(queue_size > 0, toInt64(now() - queue_oldest_time), 0),"
        " if(log_max_index + 1 > log_pointer, log_max_index + 1 - log_pointer, 0),"
        " mapKeys(mapFilter((_, alive) -> NOT alive, replica_is_active)), total_replicas,"
        " last_queue_update_exception || zookeeper_exception FROM {} WHERE {} ORDER BY database, table, replica_name"
    )
    rows = []
    if server.cluster:
        everywhere = f"clusterAllReplicas({literal(server.cluster)}, system.replicas)"
        here = server.rows(f"SELECT zookeeper_path FROM system.replicas WHERE {_of(tables)}")
        known = f"zookeeper_path IN ({', '.join(literal(path) for (path,) in here) or literal('')})"
        with suppress(StatementRefusedError):
            rows = server.rows(question.format(everywhere, known), {"skip_unavailable_shards": 1})
    rows = rows or server.rows(question.format("system.replicas", paths))
    return tuple(
        ReplicaFacts(
            TableName(*row[:2]),
            name=row[2],
            readonly=bool(row[3]),
            expired=bool(row[4]),
            delay=row[5],
            queue=row[6],
            waits=row[7],
            behind=row[8],
            dead=tuple(row[9]),
            total=row[10],
            error=row[11],
        )
        for row in rows
    )


def _queues(server: ClickHouse, tables: Iterable[TableName]) -> tuple[QueueFacts, ...]:
    found = server.rows(
        "SELECT database, table, sum(data_files), max(is_blocked), any(last_exception) FROM system.distribution_queue"
        f" WHERE {_of(tables)} GROUP BY database, table HAVING sum(data_files) > 0 ORDER BY database, table"
    )
    return tuple(
        QueueFacts(TableName(database, table), int(files), bool(blocked), mask_message(error))
        for database, table, files, blocked, error in found
    )


def _disks(server: ClickHouse, policy: str) -> tuple[DiskFacts, ...]:
    if not policy:
        return ()
    found = server.rows(
        "SELECT name, least(free_space, unreserved_space) FROM system.disks WHERE name IN"
        f" (SELECT arrayJoin(disks) FROM system.storage_policies WHERE policy_name = {literal(policy)}) ORDER BY name"
    )
    return tuple(DiskFacts(name, int(free)) for name, free in found)


def missing_grants(
    server: ClickHouse, target: TableFacts, mode: WriteMode | None, sources: Iterable[TableName]
) -> tuple[MissingGrant, ...]:
    """The rights that a plan of this write mode needs and the user lacks."""
    needed = [("SELECT", quote_table(source)) for source in sources]
    if mode is WriteMode.INSERT:
        # An EXPLAIN that is read like a table counts as a temporary one; who may create tables may create these.
        needed += [("INSERT", quote_table(target.storage)), ("CREATE TEMPORARY TABLE", "*.*")]
    else:
        # The staging tables stand beside the target, under names of their own.
        beside = f"{quote(target.storage.database)}.*"
        rights = ["SELECT", "INSERT", "CREATE TABLE", "DROP TABLE", "ALTER DELETE"]
        if target.engine.startswith("Shared"):
            rights.append("ALTER SETTINGS")
        if " TTL " in target.engine_full:
            rights.append("ALTER TTL")
        needed += [(right, beside) for right in rights]
        needed += [("TABLE ENGINE", target.engine), ("SELECT", "system.parts")]
        if target.engine.startswith("Replicated"):
            needed += [("SYSTEM SYNC REPLICA", beside), ("SELECT", "system.zookeeper")]
    if not server.embedded:
        needed += [("SELECT", "system.processes")]
    return tuple(MissingGrant(right, on) for right, on in needed if not _granted(server, right, on))


def _granted(server: ClickHouse, right: str, on: str) -> bool:
    return bool(server.value(f"CHECK GRANT {right} ON {on}"))


def _settings(server: ClickHouse, plan: Plan | None) -> tuple[ConstrainedSetting, ...]:
    """The settings that statements are sent with and that this user may not set so."""
    sent = _SENT_DIRECTLY if plan is not None and plan.write_mode is WriteMode.INSERT else _SENT
    if plan is not None and plan.use_tokens:
        sent = {**sent, "insert_deduplication_token": None}
    if server.embedded:
        sent = {name: value for name, value in sent.items() if "http" not in name}
    names = ", ".join(map(literal, ("readonly", *sent)))
    found = server.rows(
        "SELECT name, value, readonly, min, max, disallowed_values FROM system.settings"
        f" WHERE name IN ({names}) ORDER BY name"
    )
    return tuple(_refused(sent, found))


def _refused(sent: Mapping[str, str | None], found: Iterable[tuple[Any, ...]]) -> Iterator[ConstrainedSetting]:
    for name, value, tied, low, high, disallowed in found:
        wanted = "0" if name == "readonly" else sent[name]
        if wanted == value:
            continue
        if name == "readonly":
            yield ConstrainedSetting(name, "0", value, "so nothing may be written")
        elif tied:
            yield ConstrainedSetting(name, wanted or "a text", value, "and may not be changed")
        elif wanted is not None and wanted in disallowed:
            yield ConstrainedSetting(name, wanted, value, "and that value is disallowed")
        elif wanted is not None and wanted.isdigit():
            if low is not None and float(wanted) < float(low):
                yield ConstrainedSetting(name, wanted, value, f"and must be at least {low}")
            if high is not None and float(wanted) > float(high):
                yield ConstrainedSetting(name, wanted, value, f"and must be at most {high}")
