"""The staging tables of chunks that are done: they go while the run continues, so that no plan leaves thousands."""

from contextlib import suppress

from ..clickhouse.attempt import drop_tables
from ..clickhouse.client import ClickHouse
from ..clickhouse.cluster import drop_everywhere, one_server
from ..clickhouse.execute import tables_of_chunk
from ..core.facts import TableFacts
from ..core.plan import Chunk, Plan, WriteMode
from ..core.run_state import ChunkStatus
from ..core.sql import sealed_table
from ..errors import ServerError
from ..state.store import StateStore

# One statement drops so many; each costs a round trip.
_AT_ONCE = 16


class StagedTables:
    """
    What one worker has staged, of chunks whose rows are in the target and whose log says so.

    Until the log has a chunk as done, its emptied table tells the next attempt that its rows were published. Afterwards
    no attempt looks for it: one that was asleep finds no table to publish from, and its claim is lost.
    """

    def __init__(self, server: ClickHouse, store: StateStore, plan: Plan, target: TableFacts) -> None:
        self._server, self._store, self._plan, self._target = server, store, plan, target
        self._emptied: list[Chunk] = []

    def drop(self, chunk: Chunk) -> None:
        """Drop what a done chunk has staged: on replicas at once, else some chunks later, together with theirs."""
        if self._plan.write_mode is WriteMode.INSERT:
            return
        if self._target.replicas is None:
            self._emptied.append(chunk)
            if len(self._emptied) >= _AT_ONCE:
                self.drop_rest()
            return
        with suppress(ServerError):
            server = one_server(self._server)
            drop_everywhere(server, self._target.replicas, tables_of_chunk(server, self._plan, chunk, self._target))

    def drop_rest(self) -> None:
        """Drop those that are left; under the run's lock, so that none of the chunks is replayed meanwhile."""
        emptied, self._emptied = self._emptied, []
        if not emptied:
            return
        with suppress(ServerError), self._store.exclusive(self._plan.plan_id):
            run = self._store.open_run(self._plan).run
            done = [chunk for chunk in emptied if run.state(chunk.id).status is ChunkStatus.DONE]
            drop_tables(self._server, [sealed_table(self._plan, self._target.storage, chunk.id) for chunk in done])
