"""
Keep runs with overlapping windows of one target from publishing at the same time, wherever they run.

A run creates a fence: a table in the target's database. The name of the fence contains the plan, the window and a hash
of the target. Then the run searches for other fences. If two runs create their fences at the same time, at least one
sees the other fence and backs off. The fence stores the heartbeats of the run's workers, by the server's clock. Another
run removes a fence whose last heartbeat is older than the lease. A worker that was asleep for half of the lease checks
again before it publishes.

The fence of a replicated target is replicated. All replicas share Keeper, which has the fences' names and the time of
each heartbeat by one clock. A run that has just written to Keeper, and reads through the same server, sees all earlier
writes.
"""

import hashlib
import random
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

from ..core.facts import Replicas, TableFacts
from ..core.instants import from_ms, render_instant, to_ms
from ..core.plan import Plan
from ..core.remedy import command
from ..core.sql import literal, quote_table, table_condition
from ..core.tables import TableName
from ..errors import Advice, RequestError, ServerError, StatementRefusedError
from .attempt import drop_tables
from .client import ClickHouse
from .cluster import AT_ONCE, Keeper, catch_up, one_server, path_beside, queue_statement, tables_beside

_NAME = re.compile(r"backfill_([0-9a-f]{16})_fence_([0-9a-f]{8})_(-?\d+)_(-?\d+)_([0-9a-f]+)")
# The pauses, in seconds, between the attempts to acquire a fence. A random factor varies each pause, so that two runs
# do not collide again.
_PAUSES = (0.2, 0.5, 1.0)
# The age, in seconds, at which a fence counts as abandoned if its stored lease cannot be read: longer than any lease.
_SILENT_SECONDS = 120.0


class WindowTakenError(RequestError):
    """Another run is at work on an overlapping window."""


class Announcement(NamedTuple):
    """
    A run that publishes to ``[start, end)`` of a target, as its fence announces it.

    Attributes:
        run: The nonce that distinguishes runs of one plan in several state folders.
        table: The fence.
    """

    plan_id: str
    run: str
    start: datetime
    end: datetime
    table: TableName


class Fence:
    """
    A plan's fence on its window in the target, shared by all workers of its run.

    Args:
        lease: Seconds for which the fence holds after the last heartbeat.
    """

    def __init__(self, server: ClickHouse, target: TableFacts, plan: Plan, lease: float) -> None:
        self._server, self._target, self._plan, self._lease = server, target, plan, lease
        self._table = _announcement(target, plan)
        self._sure_until = 0.0

    def acquire(self) -> None:
        """
        Create the run's fence or renew its heartbeat, and check that no other run is at work on the window.

        Remove the silent fences of other runs on the window. If the check fails, remove the fence that this call has
        created, and try up to three more times after pauses. Any worker of the run may call this method repeatedly.

        Raises:
            WindowTakenError: Another run is at work on an overlapping window; the message names its plan.
            ServerError: ClickHouse refused a statement or could not be reached, or another process dropped each new
                fence.
        """
        server = one_server(self._server)
        for pause in (*_PAUSES, None):
            asked = time.monotonic()
            fresh = not any(other.table == self._table for other in announced(server, self._target))
            try:
                self._announce(server)
                present = announced(server, self._target)
                rivals = [other for other in present if self._is_rival(server, other)]
            except BaseException:
                if fresh:
                    with suppress(ServerError):
                        self.release()
                raise
            if not rivals and any(other.table == self._table for other in present):
                self._sure_until = asked + self._lease / 2
                return
            if fresh:
                self.release()
            if pause is None and rivals:
                raise _taken(self._target, self._plan, rivals)
            time.sleep((pause or 0) * random.uniform(0.5, 1.5))  # noqa: S311 - spreads load, keeps no secret
        raise ServerError(f"{self._table} is dropped by another process after each creation.")

    def hold(self) -> None:
        """
        Check as :meth:`acquire` does; do nothing within half of the lease after the last successful check.

        Raises:
            WindowTakenError: Another run is at work on an overlapping window; the message names its plan.
            ServerError: ClickHouse refused a statement or could not be reached, or another process dropped each new
                fence.
        """
        if time.monotonic() >= self._sure_until:
            self.acquire()

    def release(self) -> None:
        """Remove the fence; do nothing if there is none."""
        self._sure_until = 0.0
        drop_tables(one_server(self._server), [self._table], self._target.replicas)

    def _announce(self, server: ClickHouse) -> None:
        comment = literal(f"backfill {self._plan.plan_id} is at work on this window of {self._target.storage}")
        name = quote_table(self._table)
        replicas, engine = self._target.replicas, "MergeTree"
        if replicas is not None:
            engine = f"ReplicatedMergeTree({replicas.arguments(self._table.table)})"
        # Other runs read the heartbeat from Keeper, so the INSERT needs no quorum of replicas.
        # ClickHouse 26.7 deduplicates equal inserts in spite of insert_deduplicate = 0, and the values of defaults do
        # not count. So each heartbeat names its time.
        alone = {} if replicas is None else {"insert_quorum": 0}
        queue_statement(
            server,
            f"CREATE TABLE IF NOT EXISTS {name} (seen_at DateTime64(3) DEFAULT now64(3), lease Float64)"
            f" ENGINE = {engine} ORDER BY tuple() COMMENT {comment}",
            AT_ONCE if replicas is not None else {},
        )
        try:
            server.command(
                f"INSERT INTO {name} (seen_at, lease) VALUES (now64(3), {self._lease})",
                {"async_insert": 0, "insert_deduplicate": 0, **alone},
            )
        except StatementRefusedError as error:
            # Another run considered this run's fence silent and has just removed the fence. The check in acquire(),
            # right after this call, notices the removal.
            if error.name != "UNKNOWN_TABLE":
                raise

    def _is_rival(self, server: ClickHouse, other: Announcement) -> bool:
        plan, replicas = self._plan, self._target.replicas
        if other.table == self._table or not (other.start < plan.end and plan.start < other.end):
            return False
        if replicas is not None:
            own, its = (_last_sign(server, replicas, table) for table in (self._table, other.table))
            # A rival whose fence was removed meanwhile is not alive. If the own fence was removed, the age of the other
            # heartbeat is unknown, so the rival counts as alive.
            alive = its is not None and (own is None or own - its <= self._lease)
        else:
            alive = _is_alive(server, other.table, self._lease)
        if not alive:
            drop_tables(server, [other.table], replicas)
        return alive


def announced(server: ClickHouse, target: TableFacts) -> list[Announcement]:
    """Return the runs with a fence on *target*, alive or dead."""
    database, replicas = target.storage.database, target.replicas
    if replicas is not None and not replicas.by_database:
        names = tables_beside(server, replicas)
    else:
        rows = server.rows(
            f"SELECT name FROM system.tables WHERE database = {literal(database)} AND name LIKE 'backfill%fence%'"
        )
        names = [str(name) for (name,) in rows]
    matches = [match for name in names if (match := _NAME.fullmatch(name)) and match[2] == _target_key(target)]
    return [
        Announcement(m[1], m[5], from_ms(int(m[3])), from_ms(int(m[4])), TableName(database, m[0])) for m in matches
    ]


def _announcement(target: TableFacts, plan: Plan) -> TableName:
    """
    Return the plan's fence on *target*.

    The name of the fence has the prefix of the plan's tables, so a cleanup finds the fence.
    """
    window = f"{to_ms(plan.start)}_{to_ms(plan.end)}"
    name = f"backfill_{plan.plan_id}_fence_{_target_key(target)}_{window}_{plan.nonce or 0}"
    return TableName(target.storage.database, name)


def _target_key(target: TableFacts) -> str:
    """
    Return a key that separates the fences of different targets in one database.

    A Replicated database shows the fences of all its shards on each server. The targets of two shards have different
    keys, because runs on different shards do not disturb each other.
    """
    name = f"{target.storage} {target.apart}" if target.apart else str(target.storage)
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def _last_sign(server: ClickHouse, replicas: Replicas, table: TableName) -> int | None:
    """
    Return the time of a replicated table's last change, in epoch seconds by Keeper's clock.

    Return None if the table does not exist.
    """
    path = path_beside(server, replicas, table)
    keeper = Keeper(server, replicas.keeper)
    return max((made for node in ("log", "replicas") if (made := keeper.newest(f"{path}/{node}"))), default=None)


def _is_alive(server: ClickHouse, table: TableName, lease: float) -> bool:
    """
    Return whether the last heartbeat in a fence is younger than the lease that the fence stores.

    For a fence without heartbeats, return whether the table was created within the last *lease* seconds. Return False
    if the table does not exist.
    """
    try:
        seen = server.numbers(
            "SELECT count(), countIf(seen_at + toIntervalMillisecond(toInt64(lease * 1000)) >= now64(3))"
            f" FROM {quote_table(table)}"
        )
        if seen[0]:
            return seen[1] > 0
        age = f"dateDiff('second', metadata_modification_time, now()) <= {lease}"
        return server.numbers(f"SELECT {age} FROM system.tables WHERE {table_condition(table, 'name')}") == (1,)
    except StatementRefusedError as error:
        if error.name == "UNKNOWN_TABLE":
            return False
        raise


def other_runs(server: ClickHouse, plan: Plan, tables: Sequence[TableName], replicas: Replicas | None) -> bool:
    """
    Return whether *tables* has the fence of a run of another state folder that may still be at work.

    The tables have the id of *plan*. In a Replicated database, the other run may be at work on another shard.
    """
    others = (
        table
        for table in tables
        if (match := _NAME.fullmatch(table.table)) and not match[5].startswith(plan.nonce or "0")
    )
    return any(is_announced(server, table, replicas) for table in others)


def _beats(server: ClickHouse, table: TableName) -> bool:
    """
    Return whether a reachable server of the cluster has a fresh heartbeat in a fence.

    A cluster or a Replicated database shows the fences of all its shards, but each heartbeat is on the fence's own
    shard.
    """
    if server.embedded or not server.cluster:
        return False
    parts = f"clusterAllReplicas({literal(server.cluster)}, system.parts)"
    fresh = f"modification_time >= now() - {_SILENT_SECONDS:.0f}"
    question = f"SELECT count() > 0 FROM {parts} WHERE {table_condition(table)} AND {fresh}"
    # This user may lack the right REMOTE; then only this server can be asked.
    with suppress(StatementRefusedError):
        return server.numbers(question, {"skip_unavailable_shards": 1}) == (1,)
    return False


def is_announced(server: ClickHouse, table: TableName, replicas: Replicas | None) -> bool:
    """
    Return whether the run behind a fence *table* may still be at work, on any reachable server of the cluster.

    Return True if this server's replica cannot catch up, because the replica may not have the last heartbeat. If this
    server has no replica of a replicated fence, judge by the fence's last change in Keeper.
    """
    if _beats(server, table):
        return True
    if replicas is not None:
        if server.numbers(f"EXISTS TABLE {quote_table(table)}") != (1,):
            last = _last_sign(server, replicas, table)
            return last is not None and server.numbers("SELECT toUnixTimestamp(now())")[0] - last <= _SILENT_SECONDS
        try:
            catch_up(server, table)
        except ServerError:
            return True
    return _is_alive(server, table, _SILENT_SECONDS)


def _taken(target: TableFacts, plan: Plan, rivals: Sequence[Announcement]) -> WindowTakenError:
    other = rivals[0]
    window = f"{render_instant(other.start)} to {render_instant(other.end)}"
    return WindowTakenError(
        f"Plan {other.plan_id} is at work on {window} of {target.name}, which meets the window of plan {plan.plan_id}.",
        remedy=Advice(
            "let it complete, then find what is left to fill with `{}`; a run that died holds the window for a minute "
            "at most",
            command("doctor", plan.plan_id),
        ),
    )
