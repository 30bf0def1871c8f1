"""What backfills have left or keep running on a server: queries and staging tables, whoever's they are."""

import re

from ..core.facts import QueryFacts, StagingFacts, TableFacts, TableName
from ..core.sql import literal
from .client import ClickHouse
from .cluster import lost_tables

_STAGING = re.compile(
    r"backfill_([0-9a-f]{16})_(?:[0-9a-f]{16}_(?:\d+(?:_[0-9a-f]{8})?|sealed)|fence_[0-9a-f]{8}_-?\d+_-?\d+_[0-9a-f]{8})"
)
_QUERY = re.compile(r"backfill-([0-9a-f]{16})-([0-9a-f]{16})-(\d+)")


def live_queries(server: ClickHouse) -> tuple[QueryFacts, ...]:
    """The queries of ours that run on this server now, whoever sent them; an embedded engine has no others."""
    return () if server.embedded else _queries(server, "system.processes")


def queries_elsewhere(server: ClickHouse) -> tuple[QueryFacts, ...]:
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
