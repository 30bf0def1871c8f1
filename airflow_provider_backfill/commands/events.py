"""Read the event log of a plan, line by line."""

import json
from collections.abc import Iterator
from typing import Any

from ..core.instants import render_instant
from ..errors import DamagedStateError
from .session import Session

_NOT_FOR_PEOPLE = ("LogOpened", "WorkerHeartbeat")


class EventReader:
    """
    A reader of a plan's event log. Each call of :meth:`read` continues where the last call ended.

    No ClickHouse is needed.

    Args:
        chunk_id: Read only the events of chunks whose ids begin with this text; empty for all events.

    Raises:
        PlanNotFoundError: There is no such plan.
        DamagedStateError: The plan or the log is damaged.
    """

    def __init__(self, session: Session, plan_id: str, *, chunk_id: str = "") -> None:
        plan = session.store.load_plan(plan_id)
        try:
            session.store.open_run(plan)
        except DamagedStateError as error:
            # The log is intact if only the checkpoint is damaged.
            if error.path != session.store.run_path(plan.plan_id):
                raise
        self._log = session.store.backend.log(plan.plan_id, render_instant(plan.created_at))
        self._chunk_id = chunk_id
        self._position, self._last = 0, b""

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the events appended since the last call, without the header, heartbeats and an incomplete last line."""
        while lines := self._log.read(self._position, self._last):
            for line in lines:
                self._position = self._log.advance(self._position, line)
                event: dict[str, Any] = json.loads(line)
                if event["type"] in _NOT_FOR_PEOPLE:
                    continue
                if not self._chunk_id or str(event.get("chunkId", "")).startswith(self._chunk_id):
                    yield event
            self._last = lines[-1]
