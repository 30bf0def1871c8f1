"""Claim chunks for one worker, and judge the liveness of other workers."""

import time
from datetime import datetime

from ..core.events import ChunkStarted, Event
from ..core.plan import Chunk
from ..core.run_state import ChunkStatus, Run
from ..core.sql import query_id
from ..state.run_log import RunLog
from .lease import owner_is_dead, utc_now


class Claims:
    """
    The claims of one worker on the chunks of one plan.

    Args:
        owner: The worker's name.
        lease_seconds: Seconds for which a claim holds after the worker's last heartbeat.
        on_behalf_of: The user or task that gave the command.
        shard: The shard that the worker fills; 0 if the target is one table.
    """

    def __init__(self, plan_id: str, owner: str, lease_seconds: float, on_behalf_of: str, shard: int = 0) -> None:
        self._plan_id, self._owner, self._shard = plan_id, owner, shard
        self._lease, self._on_behalf_of = lease_seconds, on_behalf_of
        self._heard: dict[str, tuple[datetime, float]] = {}

    def is_dead(self, run: Run, owner: str, moment: datetime) -> bool:
        """
        Return whether the worker *owner* has lost its claims at *moment*.

        If the clock of *owner* is ahead, its heartbeats lie in the future. So *owner* also counts as dead after this
        process has watched it for a full lease without a new heartbeat.
        """
        if owner_is_dead(run, owner, moment):
            return True
        worker, watch = run.workers[owner], time.monotonic()
        last, since = self._heard.get(owner, (None, watch))
        if last != worker.seen_at:
            self._heard[owner] = (worker.seen_at, watch)
            return False
        return watch - since > worker.lease_seconds

    def is_full(self, run: Run) -> bool:
        """Return whether live workers hold as many chunks of this shard as the user allows; False without a limit."""
        if not run.parallel:
            return False
        moment = utc_now()
        here = [(name, worker) for name, worker in run.workers.items() if worker.shard == self._shard]
        return run.parallel <= sum(worker.claims for name, worker in here if not self.is_dead(run, name, moment))

    def claim(self, log: RunLog, chunk: Chunk) -> Event | None:
        """Claim a chunk in the log, before its query exists; return the event, or None if the claim is not allowed."""

        def decide(run: Run) -> Event | None:
            state = run.state(chunk.id)
            takes_over = state.status is ChunkStatus.RUNNING and self.is_dead(run, state.owner, utc_now())
            halted = run.cancelled or run.pause_holds
            if halted or chunk.id in run.splits or not (takes_over or state.status is ChunkStatus.PENDING):
                return None
            if self.is_full(run):
                return None
            return ChunkStarted(
                at=utc_now(),
                by=self._owner,
                chunk_id=chunk.id,
                attempt=state.attempt + 1,
                start=chunk.start,
                end=chunk.end,
                query_id=query_id(self._plan_id, chunk.id, state.attempt + 1),
                lease_seconds=self._lease,
                takes_over=takes_over,
                on_behalf_of=self._on_behalf_of,
                shard=chunk.shard,
            )

        # Other chunks matter only to a takeover, or to a limit on parallel chunks. The events that cause a takeover or
        # set a limit are about this chunk or the whole run, so the commit reads them in any case.
        alone = log.run.state(chunk.id).status is ChunkStatus.PENDING and not log.run.parallel
        return log.commit(decide, about=chunk.id if alone else "")
