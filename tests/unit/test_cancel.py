"""A cancel that cannot end a query says which query is left and what to type."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_backfill.clickhouse import attempt
from airflow_provider_backfill.commands.cancel import cancel_plan
from airflow_provider_backfill.commands.session import Session
from airflow_provider_backfill.core.events import RunStarted
from airflow_provider_backfill.errors import Advice, ServerError, Sql
from airflow_provider_backfill.options import Options
from airflow_provider_backfill.state.store import StateStore
from tests.state import START, chunks_of, make_plan, started


class Deaf:
    """A server on which a query survives every KILL, as an INSERT does that is committing."""

    embedded, cluster, address = False, "", "http://deaf:8123"

    def __init__(self, query: str) -> None:
        self.query, self.kills = query, 0

    def rows(self, *_: object) -> list[tuple[str]]:
        """The running queries."""
        return [(self.query,)]

    def command(self, *_: object) -> None:
        """Kill nothing."""
        self.kills += 1

    def close(self) -> None:
        """Do nothing."""


def test_a_query_that_survives_is_named(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "_PATIENCE_SECONDS", 0.2)
    plan = make_plan(2)
    store.save_plan(plan)
    log, begun = store.open_run(plan), started(plan, chunks_of(plan)[0])
    log.append(RunStarted(at=START, by="me"))
    log.append(begun)
    deaf: Any = Deaf(begun.query_id)
    with pytest.raises(ServerError, match=rf"still running on http://deaf:8123 \(1\): {begun.query_id}") as left:
        cancel_plan(Session(store, Options(), lambda: deaf, "test"), plan.plan_id)
    assert isinstance(left.value.remedy, Advice)
    kill = Sql(f"KILL QUERY WHERE startsWith(query_id, 'backfill-{plan.plan_id}-') SYNC")
    assert kill in left.value.remedy.parts
    assert deaf.kills > 1
    # The cancel itself holds: workers read it in the log. The claim stays with the query.
    assert log.refresh().cancelled
    assert log.run.chunks[begun.chunk_id].status == "running"
