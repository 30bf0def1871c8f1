"""Drop the staging tables of ended chunks during the run, so that no plan leaves thousands of tables."""

import threading
from contextlib import suppress

from ..clickhouse.attempt import drop_tables
from ..clickhouse.client import ClickHouse
from ..clickhouse.cluster import drop_everywhere, one_server
from ..clickhouse.execute import tables_of_chunk
from ..core.facts import Replicas, TableFacts
from ..core.plan import Chunk, Plan, WriteMode
from ..core.run_state import ChunkState, ChunkStatus, Staged
from ..core.sql import sealed_table
from ..core.tables import TableName
from ..errors import ServerError
from ..state.store import StateStore

# The number of ended chunks whose tables are dropped together, since each statement costs a round trip.
_AT_ONCE = 16
# The number of published tables that are dropped together on replicas. It is smaller, because there each table has
# nodes in Keeper, threads on each replica, and parts on disk.
_AT_ONCE_ON_REPLICAS = 4
# The maximum number of emptied tables whose files a worker leaves to ClickHouse to remove. ClickHouse keeps such tables
# in memory until it has removed their files.
_LEFT_TO_THE_SERVER = 1000


class StagedTables:
    """
    The staging tables of a worker's done and refused chunks, which are collected and dropped in groups.

    Until the log records a chunk as done, the chunk's emptied table shows the next attempt that the rows are published.
    Afterwards, no attempt needs the table. An attempt that was asleep has lost its claim and finds no table to publish.
    """

    def __init__(self, server: ClickHouse, store: StateStore, plan: Plan, target: TableFacts) -> None:
        self._server, self._store, self._plan, self._target = server, store, plan, target
        self._over: list[Chunk] = []
        self._published: list[TableName] = []
        self._left = 0
        self._lock = threading.Lock()
        self._dropping: threading.Thread | None = None

    def drop(self, chunk: Chunk, staged: Staged | None, *, alone: bool) -> None:
        """
        Drop the tables of a done chunk, now or together with tables of further chunks. Ignore errors of the server.

        Args:
            staged: The staging table that the log names, which is used only on replicas; None if the log names none,
                for example because the chunk had no rows.
            alone: Whether the chunk had a single attempt, so that no other table can be left.
        """
        replicas = self._target.replicas
        if replicas is None or self._plan.write_mode is WriteMode.INSERT:
            self.drop_later(chunk)
        elif not alone or self._plan.keep_outside:
            # The log names no table of a plan that keeps rows outside its window.
            with suppress(ServerError):
                server = one_server(self._server)
                drop_everywhere(server, replicas, tables_of_chunk(server, self._plan, chunk, self._target))
        elif staged is not None:
            with self._lock:
                self._published.append(TableName(self._target.beside, staged.table))
                if self._dropping is None and len(self._published) >= _AT_ONCE_ON_REPLICAS:
                    self._dropping = threading.Thread(target=self._drop_in_background, args=(replicas,), daemon=True)
                    self._dropping.start()

    def _drop_in_background(self, replicas: Replicas) -> None:
        """Drop published tables until few are left. A separate thread does this, since each DROP waits for Keeper."""
        while True:
            with self._lock:
                if len(self._published) < _AT_ONCE_ON_REPLICAS:
                    self._dropping = None
                    return
            self._drop_published(replicas)

    def wait(self) -> None:
        """Wait until no tables are dropped in the background. Call this after the worker's threads have ended."""
        if (dropping := self._dropping) is not None:
            dropping.join()

    def _drop_published(self, replicas: Replicas) -> None:
        """
        Drop the collected tables of published chunks on all replicas. Ignore errors of the server.

        No other attempt has a table of such a name, and no attempt needs the tables of done chunks.
        """
        with self._lock:
            tables, self._published = self._published, []
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
        if self._target.replicas is not None:
            self._drop_published(self._target.replicas)
        over, self._over = self._over, []
        if not over:
            return
        with suppress(ServerError), self._store.exclusive(self._plan.plan_id):
            run = self._store.open_run(self._plan).run
            chunks = [chunk for chunk in over if _is_over(run.state(chunk.id))]
            if self._target.replicas is None:
                tables = [sealed_table(self._plan, self._target.storage, each.id) for each in chunks]
                drop_tables(self._server, tables, wait=not self._may_leave(len(tables)))
                return
            server = one_server(self._server)
            tables = [table for each in chunks for table in tables_of_chunk(server, self._plan, each, self._target)]
            drop_everywhere(server, self._target.replicas, tables)

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
