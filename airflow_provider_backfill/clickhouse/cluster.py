"""
Pin one of the servers behind an address, and find and reach all replicas of a table.

An address may belong to a load balancer. Statements that must see one state go to :class:`OneServer`. Tables for all
replicas are created and dropped ON CLUSTER, or by a Replicated database.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

from ..core.facts import REPLICATED_ENGINE, Replicas
from ..core.names import quote
from ..core.sql import literal, quote_table, table_condition, table_tuples
from ..core.tables import TableName
from ..errors import Advice, ServerError, Sql, StatementRefusedError
from .client import ClickHouse

_T = TypeVar("_T")

# The seconds after which an unused HTTP session ends: less than a worker's lease. So a frozen worker that has lost its
# claims has lost its server, too.
SESSION_SECONDS = 40
# The maximum time, in seconds, to reach the same server again behind a load balancer. A restarted server is never
# found, because it has lost its sessions.
_FIND_SECONDS = 20.0
# The maximum wait, in seconds, for a replica to catch up. Afterwards, ServerError is raised.
SYNC_SECONDS = 60
# The maximum wait, in seconds, for live replicas to drop a table, for a Replicated database to execute what it has
# queued before a statement, or, beyond SYNC_SECONDS, for replicas to report that they have caught up.
_DDL_SECONDS = 30
# The maximum wait, in seconds, until live replicas that dropped a table have left Keeper.
_GONE_SECONDS = 3.0
# Settings that put a statement in the queue of every replica, without a wait for its execution.
AT_ONCE = {"distributed_ddl_task_timeout": 0}
_QUEUED = {"database_replicated_initial_query_timeout_sec": _DDL_SECONDS}
# The replica name of a new table, as SQL. It expands to a different name on each server, even without macros in the
# server's configuration.
_SERVER_MACRO = "'{server_uuid}'"
_MACRO = re.compile(r"\{(\w+)\}")


def on_the_living(seconds: int, mode: str = "throw") -> dict[str, int | str]:
    """
    Return the settings of a statement ON CLUSTER, or in a Replicated database, that waits only for live servers.

    Args:
        seconds: The maximum wait.
        mode: What the server does after the wait: it raises an error (``throw``), or answers without the status of the
            servers that are late (``null_status_on_timeout``).
    """
    return {
        "distributed_ddl_task_timeout": seconds,
        "distributed_ddl_output_mode": f"{mode}_only_active",
        # A server may refuse after the answer has begun, so wait for the end to see the error.
        "wait_end_of_query": 1,
    }


class OneServer(ClickHouse):
    """
    One of the servers behind an address: every statement reaches this server, or fails.

    An HTTP session identifies the server. Other servers do not know the session and refuse the statement unread; the
    statement is sent again until it reaches the right server. The server that answers the first statement is the right
    one. A session ends with its server, or after :data:`SESSION_SECONDS` without use, so a worker that sleeps longer
    cannot continue. A session runs one statement at a time.

    Attributes:
        met_others: Whether a server without the session has answered: another server at the address, or the restarted
            server.

    Raises:
        ServerError: From any statement, if the server is not found again within 20 s.
    """

    def __init__(self, server: ClickHouse) -> None:
        server = server.reached()
        super().__init__(server._client, server.address, server._elsewhere)
        self._session: dict[str, object] = {
            "session_id": f"backfill-{uuid4()}",
            "session_timeout": SESSION_SECONDS,
        }
        self.met_others = False

    def _with(self, settings: Mapping[str, Any] | None) -> dict[str, Any]:
        return {**super()._with(settings), **self._session}

    def _ask(self, call: Callable[[], _T]) -> _T:
        until = time.monotonic() + _FIND_SECONDS
        while True:
            try:
                answer = super()._ask(call)
            except StatementRefusedError as error:
                if error.name != "SESSION_NOT_FOUND":
                    # The server has opened the session before it read the statement.
                    self._session["session_check"] = 1
                    raise
                self.met_others = True
                if time.monotonic() > until:
                    raise ServerError(
                        f"The server that this attempt had reached at {self.address} is not to be found there any "
                        "more: it was restarted, or the address leads to others now."
                    ) from error
            else:
                self._session["session_check"] = 1
                return answer
            time.sleep(0.005)


def one_server(server: ClickHouse) -> ClickHouse:
    """Return a connection that is pinned to one server behind the address; return an embedded engine unchanged."""
    return server if server.embedded else OneServer(server)


def find_replicas(server: ClickHouse, table: TableName) -> Replicas | None:
    """Return the replication of *table*; None if the table is not replicated."""
    rows = server.rows(
        "SELECT zookeeper_name, zookeeper_path, replica_name,"
        " mapKeys(replica_is_active), mapKeys(mapFilter((_, alive) -> alive, replica_is_active)), total_replicas,"
        " database IN (SELECT name FROM system.databases WHERE engine = 'Replicated')"
        f" FROM system.replicas WHERE {table_condition(table)}"
    )
    if not rows:
        return None
    keeper, path, replica, names, active, total, by_database = rows[0]
    absolute = path if keeper == "default" else f"{keeper}:{path}"
    beside, name = ("", "") if by_database else _arguments(server, table, absolute)
    cluster = "" if by_database or total == 1 else _find_cluster(server, path, set(names), set(active))
    return Replicas(keeper, path, replica, tuple(sorted(active)), total, cluster, bool(by_database), beside, name)


def _arguments(server: ClickHouse, table: TableName, path: str) -> tuple[str, str]:
    """
    Return the prefix of the Keeper paths, and the quoted replica name, for new tables on the replicas of *table*.

    The prefix contains the macros of the engine clause if their values on this server lead to *path*, the Keeper path
    of *table*. Otherwise, the prefix is *path*.

    If the replica name in the engine clause contains a macro, that name is returned. Otherwise, the returned replica
    name is a macro for the server's id.
    """
    engine, uuid = server.rows(
        f"SELECT engine_full, toString(uuid) FROM system.tables WHERE {table_condition(table, 'name')}"
    )[0]
    macros: dict[str, str] = dict(server.rows("SELECT macro, substitution FROM system.macros"))
    match = REPLICATED_ENGINE.match(engine)
    if match is None:
        return path, _SERVER_MACRO
    fixed = {"uuid": uuid, "database": table.database, "table": table.table}
    template = _MACRO.sub(lambda macro: fixed.get(macro[1], macro[0]), match[2][1:-1]).rstrip("/")
    expanded = _MACRO.sub(lambda macro: macros.get(macro[1], macro[0]), template)
    # A replica name without a macro belongs to one replica only.
    return template if expanded == path else path, match[3] if "{" in match[3] else _SERVER_MACRO


def _find_cluster(server: ClickHouse, path: str, names: set[str], active: set[str]) -> str:
    """
    Return the smallest cluster that has this server and all replicas *names* of the table at *path*.

    If there is no such cluster, return the smallest cluster that has this server and all *active* replicas, or an empty
    text. Each server that does not answer counts as having one of the missing replicas, because Keeper needs some
    seconds to notice a dead server.
    """
    clusters = server.rows(
        "SELECT cluster, count() FROM system.clusters GROUP BY cluster HAVING max(is_local) ORDER BY count(), cluster"
    )
    fallback = ""
    for cluster, size in clusters:
        # This user may lack the right REMOTE, or the user in the cluster's definition may lack rights. The servers of
        # such a cluster cannot be checked, so skip the cluster.
        with suppress(StatementRefusedError):
            met, silent = _ask_cluster(server, str(cluster), int(size), path)
            if len(names - met) <= silent:
                return str(cluster)
            if len(active - met) <= silent:
                fallback = fallback or str(cluster)
    return fallback


def _ask_cluster(server: ClickHouse, cluster: str, size: int, path: str) -> tuple[set[str], int]:
    """
    Ask the *size* servers of a cluster which replicas of the table at *path* they have.

    Returns:
        The names of the replicas that were found, and the number of servers that did not answer.
    """
    skip = {"skip_unavailable_shards": 1}
    everywhere = f"clusterAllReplicas({literal(cluster)}, system.replicas)"
    rows = server.rows(f"SELECT DISTINCT replica_name FROM {everywhere} WHERE zookeeper_path = {literal(path)}", skip)
    (answered,) = server.numbers(f"SELECT count() FROM clusterAllReplicas({literal(cluster)}, system.one)", skip)
    return {str(name) for (name,) in rows}, size - answered


def catch_up(server: ClickHouse, table: TableName, cluster: str = "") -> None:
    """
    Wait until this server's replica of *table* has fetched all parts of the other replicas.

    With *cluster*, wait for all live replicas on the cluster.

    Raises:
        ServerError: A replica does not catch up within :data:`SYNC_SECONDS`, or the statement failed. The caller may
            try again, perhaps on another server.
    """
    where = f" ON CLUSTER {quote(cluster)}" if cluster else ""
    settings: dict[str, Any] = {"receive_timeout": SYNC_SECONDS}
    if cluster:
        # Dead replicas may lag, since nobody reads from them.
        settings |= on_the_living(SYNC_SECONDS + _DDL_SECONDS)
    try:
        server.command(f"SYSTEM SYNC REPLICA{where} {quote_table(table)} LIGHTWEIGHT", settings)
    except StatementRefusedError as error:
        if error.name != "TIMEOUT_EXCEEDED":
            raise
        which = (
            f"A replica of {table} on the cluster {cluster}" if cluster else f"The replica of {table} on this server"
        )
        queue = error.reason if cluster else _queue(server, table)
        raise ServerError(
            f"{which} did not catch up within {SYNC_SECONDS:g} s: {queue}.",
            remedy=Advice(
                "see system.replication_queue there; where fetches were stopped, run {}",
                Sql(f"SYSTEM START FETCHES {quote_table(table)}"),
            ),
        ) from error


def is_replicated_on(server: ClickHouse, cluster: str, table: TableName) -> bool:
    """Return whether a reachable server of *cluster* replicates *table*; False if a server refuses the question."""
    everywhere = f"clusterAllReplicas({literal(cluster)}, system.replicas)"
    question = f"SELECT count() > 0 FROM {everywhere} WHERE {table_condition(table)}"
    with suppress(StatementRefusedError):
        return server.numbers(question, {"skip_unavailable_shards": 1}) == (1,)
    return False


def _queue(server: ClickHouse, table: TableName) -> str:
    """Describe the replication queue of *table* on this server: its length, oldest entry and reasons for waits."""
    rows = server.rows(
        "SELECT (SELECT replica_name FROM system.replicas WHERE "
        + table_condition(table)
        + "), count(), min(create_time),"
        " anyIf(postpone_reason, postpone_reason != ''),"
        " anyIf(splitByString('Stack trace', last_exception)[1], last_exception != '')"
        f" FROM system.replication_queue WHERE {table_condition(table)}"
    )
    replica, count, since, postponed, failed = rows[0]
    why = "; ".join(text for text in (postponed, failed.rstrip(" ,.\n")) if text)
    return f"replica {replica} has {count} entries in its queue, the oldest of {since}" + (f" ({why})" if why else "")


def tables_beside(server: ClickHouse, replicas: Replicas) -> list[str]:
    """Return the names of the product's tables whose Keeper paths lie beside the path of a replicated table."""
    above, _, base = replicas.path.rpartition("/")
    names = Keeper(server, replicas.keeper).children(above or "/", like=f"{base}_backfill_")
    return [name.removeprefix(f"{base}_") for name in names]


def path_beside(server: ClickHouse, replicas: Replicas, table: TableName) -> str:
    """
    Return the Keeper path of the product's *table* for a target with *replicas*.

    The path lies beside the target's path, except in a Replicated database. There, the server is asked for the path,
    and the result is empty if this server has no replica of *table*.
    """
    if not replicas.by_database:
        return f"{replicas.path}_{table.table}"
    rows = server.rows(f"SELECT zookeeper_path FROM system.replicas WHERE {table_condition(table)}")
    return str(rows[0][0]) if rows else ""


def create_everywhere(server: ClickHouse, replicas: Replicas | None, create: Callable[[str], str]) -> None:
    """
    Create a table on this server, and queue its creation on the other replicas.

    A Replicated database queues the creation itself.

    Args:
        replicas: The replication of the target. With None, or if neither a cluster nor the database reaches the other
            replicas, the table is created only on this server.
        create: Returns the CREATE statement for the cluster with the given name, or for this server if the name is
            empty.
    """
    allowed = server.permissive
    queue_statement(server, create(""), allowed | (AT_ONCE if replicas is not None else {}))
    if replicas is not None and replicas.cluster:
        server.command(create(replicas.cluster), allowed | AT_ONCE)


def queue_statement(server: ClickHouse, statement: str, settings: Mapping[str, Any]) -> None:
    """
    Execute a statement that a Replicated database queues; in another database, just execute it.

    Raises:
        ServerError: This server has not executed the earlier statements of the queue within 30 s. ClickHouse itself
            would wait for 300 s.
    """
    try:
        server.command(statement, {**settings, **_QUEUED})
    except StatementRefusedError as error:
        # Of the statements here, only those that wait in such a queue end with this error.
        if error.name != "UNFINISHED":
            raise
        raise ServerError(
            f"This server has not executed the earlier statements of its Replicated database for {_DDL_SECONDS} s: "
            f"{error.reason}",
            remedy=Advice("look for the errors of DDLWorker in the server's log; `doctor` names the replica"),
        ) from error


def drop_everywhere(server: ClickHouse, replicas: Replicas, tables: Sequence[TableName]) -> None:
    """
    Drop tables, if they exist, on all replicas that the cluster or a Replicated database reaches.

    A replica that is down drops the tables when it starts again. If neither reaches other replicas, only this server
    drops the tables.
    """
    if not tables:
        return
    names = ", ".join(map(quote_table, tables))
    cluster = f" ON CLUSTER {quote(replicas.cluster)}" if replicas.cluster else ""
    settings = {"max_table_size_to_drop": 0, **on_the_living(_DDL_SECONDS, "null_status_on_timeout")}
    queue_statement(server, f"DROP TABLE IF EXISTS {names}{cluster} SYNC", settings)


class Keeper(NamedTuple):
    """Queries about nodes in the Keeper called *name*, through one server."""

    server: ClickHouse
    name: str

    def children(self, path: str, names: Iterable[str] | None = None, like: str = "") -> list[str]:
        """Return the names of nodes directly below *path*: all, those in *names*, or those beginning with *like*."""
        where = self._below(path)
        if names is not None:
            where += f" AND name IN ({', '.join(map(literal, names)) or literal('')})"
        if like:
            where += f" AND startsWith(name, {literal(like)})"
        rows = self.server.rows(f"SELECT name FROM system.zookeeper WHERE {where}")
        return [str(name) for (name,) in rows]

    def newest(self, path: str) -> int:
        """
        Return the creation time of the newest node directly below *path*, in epoch seconds by Keeper's clock.

        Return 0 if there is no such node.
        """
        return self._created(path, "max")

    def oldest(self, path: str) -> int:
        """Return the creation time of the oldest node directly below *path*, as :meth:`newest` does."""
        return self._created(path, "min")

    def _created(self, path: str, which: str) -> int:
        question = f"SELECT toUnixTimestamp({which}(ctime)) FROM system.zookeeper WHERE {self._below(path)}"
        return next(iter(self.server.numbers(question)), 0)

    def count(self, path: str) -> int:
        """Return the number of nodes directly below *path*; 0 if *path* does not exist."""
        above, _, name = path.rpartition("/")
        where = f"{self._below(above or '/')} AND name = {literal(name)}"
        return next(iter(self.server.numbers(f"SELECT numChildren FROM system.zookeeper WHERE {where}")), 0)

    def _below(self, path: str) -> str:
        """Return the condition on ``system.zookeeper`` that selects the nodes directly below *path* in this Keeper."""
        where = f"path = {literal(path)}"
        return where if self.name == "default" else f"{where} AND zookeeperName = {literal(self.name)}"


def names_elsewhere(server: ClickHouse, replicas: Replicas, databases: Sequence[str], prefix: str) -> set[str]:
    """
    Return the table names that begin with *prefix* on reachable replicas and in Keeper.

    The search covers *databases* on the replicas, and the Keeper paths beside the path of the replicated table. The
    result is empty for a Replicated database, because this server then has all tables of the database.
    """
    names = set() if replicas.by_database else set(tables_beside(server, replicas))
    if replicas.cluster:
        everywhere = f"clusterAllReplicas({literal(replicas.cluster)}, system.tables)"
        where = f"database IN ({', '.join(map(literal, databases))}) AND startsWith(name, {literal(prefix)})"
        rows = server.rows(f"SELECT DISTINCT name FROM {everywhere} WHERE {where}", {"skip_unavailable_shards": 1})
        names |= {str(name) for (name,) in rows}
    return {name for name in names if name.startswith(prefix)}


def insert_quorum(server: ClickHouse, total: int) -> int:
    """Return how many of *total* replicas this user's inserts must reach; 0 without a quorum."""
    rows = server.rows("SELECT value FROM system.settings WHERE name = 'insert_quorum'")
    value = str(rows[0][0]) if rows else "0"
    return total // 2 + 1 if value == "auto" else int(value)


def lost_tables(server: ClickHouse, replicas: Replicas) -> dict[str, tuple[str, tuple[str, ...]]]:
    """
    Return the product's tables without live replicas, by table name.

    Each value has the table's Keeper path and the names of its dead replicas. The path begins with the Keeper's name,
    unless that name is ``default``.
    """
    keeper, prefix = Keeper(server, replicas.keeper), "" if replicas.keeper == "default" else f"{replicas.keeper}:"
    tables = {}
    for name in tables_beside(server, replicas):
        path = f"{replicas.path}_{name}"
        known = keeper.children(f"{path}/replicas")
        dead = tuple(one for one in known if not keeper.children(f"{path}/replicas/{one}", ["is_active"]))
        if len(dead) == len(known):
            tables[name] = (prefix + path, dead)
    return tables


def drop_for_good(server: ClickHouse, replicas: Replicas, tables: Sequence[TableName]) -> None:
    """
    Drop tables, if they exist, on all replicas, and remove the entries of dead replicas from Keeper.

    Dead replicas may never return to remove their own entries.
    """
    names = table_tuples(tables)
    where = f"(database, table) IN ({names})"
    paths = {str(path) for (path,) in server.rows(f"SELECT zookeeper_path FROM system.replicas WHERE {where}")}
    if not replicas.by_database:
        known = set(tables_beside(server, replicas))
        paths |= {f"{replicas.path}_{table.table}" for table in tables if table.table in known}
    drop_everywhere(server, replicas, tables)
    keeper, until = Keeper(server, replicas.keeper), time.monotonic() + _GONE_SECONDS
    while paths := {path for path in paths if keeper.children(f"{path}/replicas")}:
        if time.monotonic() > until:
            for path in paths:
                _drop_dead_replicas(server, keeper, path)
            return
        time.sleep(0.1)


def _drop_dead_replicas(server: ClickHouse, keeper: Keeper, path: str) -> None:
    """Remove the dead replicas of a dropped table from Keeper; the last removal also removes the table."""
    prefix = "" if keeper.name == "default" else f"{keeper.name}:"
    for replica in keeper.children(f"{path}/replicas"):
        if not keeper.children(f"{path}/replicas/{replica}", ["is_active"]):
            # Ignore a refusal, because the replica may be alive again and drop the table itself.
            with suppress(StatementRefusedError):
                server.command(f"SYSTEM DROP REPLICA {literal(replica)} FROM ZKPATH {literal(prefix + path)}")
