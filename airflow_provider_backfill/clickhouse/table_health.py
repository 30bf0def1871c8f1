"""Read the health of tables: their parts, mutations, replicas, queues, disks and TTLs."""

import re
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime

from ..core.facts import (
    DatabaseReplicaFacts,
    DiskFacts,
    MutationFacts,
    PartsFacts,
    QueueFacts,
    ReplicaFacts,
    TableFacts,
    TtlFacts,
)
from ..core.instants import from_ms, to_ms
from ..core.masking import mask_message
from ..core.names import quote
from ..core.plan import Plan
from ..core.sql import instant_sql, literal
from ..core.table_definition import column_ttls, row_ttls
from ..core.tables import TableName, TimeKind
from ..errors import StatementRefusedError
from .client import ClickHouse

_TTL_POINTS = 1000


def is_one_of(tables: Iterable[TableName]) -> str:
    """Return the condition that a row of a system table is about one of *tables*, by ``database`` and ``table``."""
    names = ", ".join(f"({literal(name.database)}, {literal(name.table)})" for name in tables)
    return f"(database, table) IN ({names})"


def target_ttls(server: ClickHouse, target: TableFacts, plan: Plan) -> tuple[TtlFacts, ...]:
    """
    Return the TTLs of a plan's target that delete or roll up rows or reset columns, compared with the plan's window.

    Return an empty tuple if the target has no known time column, or if the server refuses to evaluate a TTL.
    """
    try:
        return deleting_ttls(server, target, plan, target.engine_full)
    except StatementRefusedError:
        return ()


def deleting_ttls(server: ClickHouse, target: TableFacts, plan: Plan | None, engine_full: str) -> tuple[TtlFacts, ...]:
    """
    Return the target's TTLs that delete or roll up rows or reset columns, compared with the window of the plan.

    Return an empty tuple without a plan, or if the target has no known time column.

    Args:
        engine_full: The target's engine clause, which contains the TTLs of the table.

    Raises:
        ServerError: The server refused to evaluate a TTL, or could not be reached.
    """
    time = plan.target_time if plan is not None else None
    column = target.column(time.column) if time is not None else None
    if plan is None or time is None or column is None:
        return ()
    found = []
    elements = [("", element) for element in row_ttls(engine_full)]
    for name, element in (*elements, *column_ttls(target.definition)):
        expression = re.split(r"\s(?:WHERE|DELETE|GROUP BY)\b", element)[0]
        until = _expired(server, expression, time.column, column.type, time.kind, plan.start, plan.end)
        found.append(TtlFacts(element, until, name))
    return tuple(found)


def _expired(
    server: ClickHouse, expression: str, column: str, column_type: str, kind: TimeKind, start: datetime, end: datetime
) -> datetime | None:
    """
    Return the instant in ``(start, end]`` before which rows have expired.

    The instant is rounded up, by about 1/1000 of the window at most. Return None if no row in the window has expired.
    """
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
    """Return ``parts_to_delay_insert``, ``parts_to_throw_insert`` and ``max_parts_in_total`` of a table."""
    names = ("parts_to_delay_insert", "parts_to_throw_insert", "max_parts_in_total")
    listed = ", ".join(map(literal, names))
    given = dict(server.rows(f"SELECT name, value FROM system.merge_tree_settings WHERE name IN ({listed})"))
    own = {name: match[1] for name in names if (match := re.search(rf"\b{name} = (\d+)", engine_full))}
    delay, throw, total = (int({**given, **own}[name]) for name in names)
    return delay, throw, total


def fullest_partition(server: ClickHouse, storage: TableName, engine_full: str) -> tuple[PartsFacts, ...]:
    """
    Return the numbers of active parts in the fullest partition and in the whole table, with the limits for both.

    The facts also have the size of the largest partition. Return one element, or an empty tuple for a table without
    active parts.
    """
    partition, parts, total, largest = server.row(
        "SELECT argMax(partition_id, parts), max(parts), sum(parts), max(bytes) FROM (SELECT partition_id,"
        " count() AS parts, sum(bytes_on_disk) AS bytes FROM system.parts"
        f" WHERE active AND {is_one_of([storage])} GROUP BY partition_id)"
    )
    if not parts:
        return ()
    delay, throw, limit = part_limits(server, engine_full)
    return (PartsFacts(storage, partition, parts, delay, throw, total, limit, largest),)


def token_window(server: ClickHouse, engine: str, engine_full: str) -> int | None:
    """
    Return the maximum number of insert tokens that a MergeTree table without replicas remembers.

    Return None for other engines.
    """
    if not engine.endswith("MergeTree") or engine.startswith(("Replicated", "Shared")):
        return None
    return table_setting(server, engine_full, "non_replicated_deduplication_window")


def table_setting(server: ClickHouse, engine_full: str, name: str) -> int:
    """Return the value of a numeric MergeTree setting for a table: its own value, or else the server's."""
    match = re.search(rf"\b{name} = (\d+)", engine_full)
    return int(match[1]) if match else setting_value(server, "merge_tree_settings", name)


def setting_value(server: ClickHouse, table: str, name: str) -> int:
    """Return the value of a numeric setting in ``system.<table>``; 0 if this version does not have the setting."""
    return int(server.value(f"SELECT value FROM system.{table} WHERE name = {literal(name)}", default=0))


def unfinished_mutations(server: ClickHouse, tables: Iterable[TableName]) -> tuple[MutationFacts, ...]:
    """Return the unfinished mutations of the tables, the oldest first."""
    found = server.rows(
        "SELECT database, table, mutation_id, command, parts_to_do, latest_fail_reason FROM system.mutations"
        f" WHERE NOT is_done AND {is_one_of(tables)} ORDER BY create_time"
    )
    return tuple(
        MutationFacts(TableName(database, table), name, mask_message(text), parts, _first_line(error))
        for database, table, name, text, parts, error in found
    )


def _first_line(error: str) -> str:
    return mask_message(error).partition("\n")[0]


def replica_facts(server: ClickHouse, tables: Iterable[TableName]) -> tuple[ReplicaFacts, ...]:
    """
    Return the replicas of the tables on those servers of the cluster that answer.

    Without a cluster, or if the query on the cluster is refused or finds nothing, return the replicas on this server.
    """
    paths = f"zookeeper_path IN (SELECT zookeeper_path FROM system.replicas WHERE {is_one_of(tables)})"
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
        here = server.rows(f"SELECT zookeeper_path FROM system.replicas WHERE {is_one_of(tables)}")
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
            error=mask_message(row[11]),
        )
        for row in rows
    )


def database_replica_facts(server: ClickHouse, databases: Iterable[str]) -> tuple[DatabaseReplicaFacts, ...]:
    """
    Return the replicas of Replicated databases that have not executed every queued statement, on servers that answer.

    A version of ClickHouse without ``system.database_replicas`` has none.
    """
    wanted = ", ".join(map(literal, databases)) or literal("")
    names = server.rows(f"SELECT name FROM system.databases WHERE engine = 'Replicated' AND name IN ({wanted})")
    found = []
    for (name,) in names:
        # A Replicated database is a cluster of its replicas.
        question = (
            "SELECT replica_name, zookeeper_path, log_ptr, max_log_ptr - log_ptr"
            f" FROM clusterAllReplicas({literal(name)}, system.database_replicas)"
            f" WHERE database = {literal(name)} AND max_log_ptr > log_ptr ORDER BY replica_name"
        )
        try:
            rows = server.rows(question, {"skip_unavailable_shards": 1})
        except StatementRefusedError as error:
            if error.name != "UNKNOWN_TABLE":
                raise
            continue
        for replica, path, executed, behind in rows:
            waits = server.value(
                f"SELECT toInt64(now() - ctime) FROM system.zookeeper WHERE path = {literal(path + '/log')}"
                f" AND name = {literal(f'query-{executed + 1:010}')}",
                default=0,
            )
            found.append(DatabaseReplicaFacts(name, replica, behind, int(waits)))
    return tuple(found)


def distribution_queues(server: ClickHouse, tables: Iterable[TableName]) -> tuple[QueueFacts, ...]:
    """Return the queues with files to send, for the Distributed tables among *tables*."""
    found = server.rows(
        "SELECT database, table, sum(data_files), max(is_blocked), any(last_exception) FROM system.distribution_queue"
        f" WHERE {is_one_of(tables)} GROUP BY database, table HAVING sum(data_files) > 0 ORDER BY database, table"
    )
    return tuple(
        QueueFacts(TableName(database, table), int(files), bool(blocked), mask_message(error))
        for database, table, files, blocked, error in found
    )


def disk_facts(server: ClickHouse, policy: str) -> tuple[DiskFacts, ...]:
    """Return the disks of a storage policy with the bytes that are free and not reserved; empty without a *policy*."""
    if not policy:
        return ()
    found = server.rows(
        "SELECT name, least(free_space, unreserved_space) FROM system.disks WHERE name IN"
        f" (SELECT arrayJoin(disks) FROM system.storage_policies WHERE policy_name = {literal(policy)}) ORDER BY name"
    )
    return tuple(DiskFacts(name, int(free)) for name, free in found)
