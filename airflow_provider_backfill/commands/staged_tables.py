"""Drop the staging tables of ended chunks during the run, so that no plan leaves thousands of tables."""

import secrets
import threading
import time
from contextlib import suppress
from typing import NamedTuple

from ..clickhouse.attempt import Attempt, drop_tables
from ..clickhouse.client import ClickHouse
from ..clickhouse.cluster import SESSION_SECONDS, drop_everywhere, one_server
from ..clickhouse.replicated import empty_staging, server_with
from ..core.facts import Replicas, TableFacts
from ..core.plan import Chunk, Plan, WriteMode
from ..core.run_state import ChunkState, ChunkStatus, Staged
from ..core.sql import definition_sql, replicated_staging_table, sealed_table
from ..core.tables import TableName
from ..errors import ServerError
from ..state.store import StateStore

# The number of ended chunks whose tables are dropped together, since each statement costs a round trip.
_AT_ONCE = 16
# The number of tables that are dropped together on replicas. It is smaller, because there each table has nodes in
# Keeper, threads on each replica, and parts on disk.
_AT_ONCE_ON_REPLICAS = 4
# The maximum number of emptied tables whose files a worker leaves to ClickHouse to remove. ClickHouse keeps such tables
# in memory until it has removed their files.
_LEFT_TO_THE_SERVER = 1000
# A table on replicas serves several chunks for at most this time, in seconds. Keeper's memory of published parts is
# judged by the age of their staging table, so that a table must stay much younger than that memory.
_OLDEST_SECONDS = 600.0
# The maximum number of partitions that are emptied for the next chunk. A new table is cheaper than more of them.
_MOST_PARTITIONS = 16


class Place(NamedTuple):
    """
    A staging table on replicas, and the server that an attempt talks to.

    Attributes:
        made: The monotonic time at which the name of the table was made.
        resumes: Whether the attempt publishes the rows of an earlier attempt, and does not use the table.
        going: The hashes of the parts of done chunks, which are being dropped; None if the table does not exist yet.
        until: The monotonic time until which the server surely knows the session of the connection.
        definition: The hash of the target's definition before the table was created.
    """

    server: ClickHouse
    table: TableName
    made: float
    resumes: bool = False
    going: frozenset[str] | None = None
    until: float = 0.0
    definition: str = ""

    def take(self, attempt: Attempt) -> Attempt:
        """Return *attempt* with this place's table as its own."""
        return attempt._replace(own=self.table, going=self.going, definition=self.definition)


class StagedTables:
    """
    The staging tables of a worker's ended chunks, which are used again on replicas, or dropped in groups.

    Until the log records a chunk as done, the chunk's emptied table shows the next attempt that the rows are published.
    Afterwards, no attempt needs the table. An attempt that was asleep has lost its claim and finds no table to publish.

    On replicas, a table costs about 85 transactions in Keeper. So in write mode ``stage``, the table of a chunk serves
    further chunks of this worker, if the chunk was done at the first attempt: no other attempt has seen the table then,
    and no statement of the chunk can still be on its way. In write mode ``replace``, each attempt has its own table,
    because a late statement must find no table: Keeper does not remember replaced partitions.

    Attributes:
        on_replicas: Whether attempts fill staging tables on replicas, at the places of :meth:`place`.
    """

    def __init__(self, server: ClickHouse, store: StateStore, plan: Plan, target: TableFacts) -> None:
        self._server, self._store, self._plan, self._target = server, store, plan, target
        self.on_replicas = target.replicas is not None and plan.write_mode is not WriteMode.INSERT
        self._over: list[Chunk] = []
        self._spare: list[Place] = []
        self._unneeded: list[TableName] = []
        self._left = 0
        self._lock = threading.Lock()
        self._dropping: threading.Thread | None = None

    def place(self, chunk: Chunk, claim: ChunkState) -> Place:
        """
        Return a place on replicas for an attempt of *chunk*, which *claim* describes.

        Raises:
            ServerError: No server could be reached.
        """
        # A further attempt may need another server than the first one had, and its table serves no other chunk.
        if claim.attempt == 1 and (spare := self._take_spare()) is not None:
            return spare
        staged = claim.staged and TableName(self._target.beside, claim.staged.table)
        storage = self._target.storage
        table = replicated_staging_table(self._plan, storage, chunk.id, claim.attempt, secrets.token_hex(4))
        resumes, server = staged is not None and not claim.clear, server_with(self._server, staged)
        ((definition,),) = server.texts(definition_sql(storage)) or [[""]]
        return Place(server, table, time.monotonic(), resumes, definition=definition)

    def _take_spare(self) -> Place | None:
        """Take the table of a done chunk, if there is one; drop the tables that are too old."""
        while True:
            with self._lock:
                if not self._spare:
                    return None
                spare = self._spare.pop()
            if time.monotonic() < min(spare.until, spare.made + _OLDEST_SECONDS):
                return spare
            self._drop_soon(spare.table)

    def leave(self, place: Place, staged: Staged | None, needed: Staged | None, *, done: bool, alone: bool) -> None:
        """
        Keep the table of an ended attempt for another chunk, or drop the table, unless the log needs its rows.

        Args:
            staged: The staging table that the log named before the end of the attempt; None if there was none.
            needed: The staging table that the log names now.
            done: Whether the chunk is done.
            alone: Whether the chunk had a single attempt.
        """
        # A chunk without rows leaves no name in the log, and leaves a table as it was.
        unused = done and staged is None and not self._plan.keep_outside
        own = staged is not None and staged.table == place.table.table
        if done and alone and (own or (unused and place.going is not None)) and self._keep(place, staged):
            return
        unneeded = set() if place.resumes or unused else {place.table}
        if staged is not None:
            unneeded.add(TableName(self._target.beside, staged.table))
        if needed is not None:
            unneeded.discard(TableName(self._target.beside, needed.table))
        for table in sorted(unneeded):
            self._drop_soon(table)
        if not alone and (replicas := self._target.replicas) is not None:
            # A statement of an earlier attempt may still be on its way, and fails once its table is gone.
            self._drop_unneeded(replicas)

    def _keep(self, place: Place, staged: Staged | None) -> bool:
        """Begin to empty a table, and keep it for another chunk; return False if that is too much or fails."""
        partitions = {partition for partition, _ in staged.parts} if staged is not None else set()
        if len(partitions) > _MOST_PARTITIONS or self._plan.write_mode is not WriteMode.STAGE:
            return False
        # A chunk without rows has used the session some time ago.
        until = place.until if staged is None else time.monotonic() + SESSION_SECONDS / 2
        try:
            empty_staging(place.server, place.table, partitions)
        except ServerError:
            return False
        # The proof of this chunk has seen that the parts of earlier chunks are gone.
        going = place.going if staged is None else frozenset(hashed for _, hashed in staged.parts)
        with self._lock:
            self._spare.append(place._replace(going=going, until=until))
        return True

    def _drop_soon(self, table: TableName) -> None:
        """Drop a table on all replicas, together with other tables. No attempt needs the table, and none finds it."""
        replicas = self._target.replicas
        with self._lock:
            self._unneeded.append(table)
            if replicas is not None and self._dropping is None and len(self._unneeded) >= _AT_ONCE_ON_REPLICAS:
                self._dropping = threading.Thread(target=self._drop_in_background, args=(replicas,), daemon=True)
                self._dropping.start()

    def _drop_in_background(self, replicas: Replicas) -> None:
        """Drop unneeded tables until few are left. A separate thread does this, since each DROP waits for Keeper."""
        while True:
            with self._lock:
                if len(self._unneeded) < _AT_ONCE_ON_REPLICAS:
                    self._dropping = None
                    return
            self._drop_unneeded(replicas)

    def wait(self) -> None:
        """Wait until no tables are dropped in the background. Call this after the worker's threads have ended."""
        if (dropping := self._dropping) is not None:
            dropping.join()

    def _drop_unneeded(self, replicas: Replicas) -> None:
        """Drop the collected tables on all replicas. Ignore errors of the server."""
        with self._lock:
            tables, self._unneeded = self._unneeded, []
        if not tables:
            return
        with suppress(ServerError):
            drop_everywhere(one_server(self._server), replicas, tables)

    def drop_later(self, chunk: Chunk) -> None:
        """
        Collect an ended chunk, and drop the tables of all collected chunks once enough chunks are collected.

        Do nothing for a direct insert.
        """
        if self._plan.write_mode is WriteMode.INSERT:
            return
        self._over.append(chunk)
        if len(self._over) >= _AT_ONCE:
            self.drop_rest()

    def drop_rest(self) -> None:
        """
        Drop the remaining tables. Ignore errors of the server.

        Tables of collected chunks are dropped under the run's lock, so that no chunk is replayed meanwhile. Chunks that
        need their tables again are skipped.
        """
        if (replicas := self._target.replicas) is not None:
            with self._lock:
                self._unneeded += [spare.table for spare in self._spare]
                self._spare.clear()
            self._drop_unneeded(replicas)
        over, self._over = self._over, []
        if not over:
            return
        with suppress(ServerError), self._store.exclusive(self._plan.plan_id):
            run = self._store.open_run(self._plan).run
            chunks = [chunk for chunk in over if _is_over(run.state(chunk.id))]
            tables = [sealed_table(self._plan, self._target.storage, each.id) for each in chunks]
            drop_tables(self._server, tables, wait=not self._may_leave(len(tables)))

    def _may_leave(self, count: int) -> bool:
        """
        Count *count* further tables, and return whether their files may be left to ClickHouse.

        Return False in write mode ``replace`` and for an embedded engine. Elsewhere, return True for a limited number
        of tables, since waiting for the removal would hold the lock that each commit of the run needs. Tables of
        ``stage`` are empty. Tables of ``replace`` share their files with the target, and would keep files that merges
        have replaced.
        """
        if self._plan.write_mode is not WriteMode.STAGE or self._server.embedded:
            return False
        self._left += count
        return self._left <= _LEFT_TO_THE_SERVER


def _is_over(state: ChunkState) -> bool:
    """Return whether a chunk needs no staged rows: the chunk is done, or is not running and has no verified rows."""
    return state.status is ChunkStatus.DONE or (state.status is not ChunkStatus.RUNNING and not state.verified)
