"""Find the running queries and the tables of backfills on servers, regardless of the plans' state folders."""

import re

from ..core.facts import QueryFacts, StagingFacts, TableFacts
from ..core.leftovers import read_name
from ..core.sql import literal
from ..core.tables import TableName
from .attempt import place_of
from .client import ClickHouse
from .cluster import lost_tables

_QUERY = re.compile(r"backfill-([0-9a-f]{16})-([0-9a-f]{16})-(\d+)")


def live_queries(server: ClickHouse) -> tuple[QueryFacts, ...]:
    """Return the product's running queries on this server; empty for an embedded engine."""
    return () if server.embedded else _queries(server, "system.processes")


def queries_elsewhere(server: ClickHouse) -> tuple[QueryFacts, ...]:
    """
    Return the product's running queries on other reachable servers of the cluster.

    Return an empty tuple without a cluster, and for an embedded engine.
    """
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
    """
    Return the product's tables, except backups, in the databases that may hold staging or fence tables of *target*.

    The tables may belong to any plan, including plans for other targets. If a cluster reaches the target's replicas,
    tables on any reachable replica are included. For a replicated target outside a Replicated database, tables that
    remain only in Keeper are also included.
    """
    replicas = target.replicas
    cluster = replicas.cluster if replicas is not None else ""
    found = _tables(server, cluster, f"database IN ({', '.join(map(literal, target.databases))})")
    if replicas is not None and not replicas.by_database:
        there = {table.table.table for table in found}
        for name, lost in lost_tables(server, replicas).items():
            if name not in there and (leftover := read_name(name)) is not None:
                found.append(StagingFacts(place_of(name, target), leftover.plan_id, None, None, "", lost))
    return tuple(found)


def tables_anywhere(server: ClickHouse) -> tuple[StagingFacts, ...]:
    """Return the product's tables, except backups, in all databases of this server."""
    return tuple(_tables(server, "", "1"))


def _tables(server: ClickHouse, cluster: str, where: str) -> list[StagingFacts]:
    tables = f"clusterAllReplicas({literal(cluster)}, system.tables)" if cluster else "system.tables"
    found = server.rows(
        "SELECT database, name, max(total_rows), min(toInt64(now() - metadata_modification_time))"
        f" FROM {tables} WHERE {where} AND startsWith(name, 'backfill_')"
        " GROUP BY database, name ORDER BY database, name",
        {"skip_unavailable_shards": 1},
    )
    return [
        StagingFacts(TableName(database, name), leftover.plan_id, rows, age, cluster)
        for database, name, rows, age in found
        if (leftover := read_name(name)) is not None
    ]


def texts_of_queries(server: ClickHouse) -> list[str]:
    """
    Return the texts of running queries that contain ``backfill_``, except queries on ``system.processes``.

    Ask the reachable servers of the cluster, or this server if there is no cluster. Return an empty list for an
    embedded engine.
    """
    if server.embedded:
        return []
    processes = server.cluster_processes if server.cluster else "system.processes"
    found = server.rows(
        f"SELECT DISTINCT query FROM {processes} WHERE position(query, 'backfill_') > 0"
        " AND position(query, 'system.processes') = 0",
        {"skip_unavailable_shards": 1},
    )
    return [str(text) for (text,) in found]
