"""When the staging tables of ended chunks are dropped, and which drops are waited for."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_backfill.commands import staged_tables
from airflow_provider_backfill.commands.staged_tables import StagedTables
from airflow_provider_backfill.core.facts import Replicas, TableFacts
from airflow_provider_backfill.core.plan import Chunk, WriteMode
from airflow_provider_backfill.core.run_state import ChunkStatus, Staged
from airflow_provider_backfill.core.tables import TableName
from tests.state import make_plan
from tests.unit.test_checks import TARGET

REPLICAS = Replicas("default", "/t", "r1", ("r1", "r2"), 2, "main", False, "/t", "'r1'")
ON_REPLICAS = TableFacts(TARGET, TARGET, "ReplicatedMergeTree", (), "", "", "", 0, replicas=REPLICAS)
# The tables are only collected and dropped, so neither a server nor a state folder is asked.
NOBODY: Any = None


class Dropper:
    """Stands for the server: a DROP waits for *may_end*, as for a slow Keeper."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dropped: list[list[str]] = []
        self.began, self.may_end = threading.Event(), threading.Event()
        monkeypatch.setattr(staged_tables, "one_server", lambda server: server)
        monkeypatch.setattr(staged_tables, "drop_everywhere", self._drop)

    def _drop(self, _server: object, _replicas: Replicas, tables: Sequence[TableName]) -> None:
        self.began.set()
        assert self.may_end.wait(5)
        self.dropped.append([table.table for table in tables])


def _publish(tables: StagedTables, numbers: range) -> None:
    chunks = list(make_plan(24).chunks())
    for number in numbers:
        chunk: Chunk = chunks[number]
        tables.drop(chunk, Staged(f"t{number}", ()), alone=True)


def test_a_slow_drop_delays_no_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Dropper(monkeypatch)
    tables = StagedTables(NOBODY, NOBODY, make_plan(24), ON_REPLICAS)

    _publish(tables, range(4))
    assert server.began.wait(5)
    # These chunks end while the first four tables are being dropped.
    _publish(tables, range(4, 10))
    assert server.dropped == []

    server.may_end.set()
    tables.wait()
    assert server.dropped == [["t0", "t1", "t2", "t3"], ["t4", "t5", "t6", "t7", "t8", "t9"]]


def test_the_last_tables_are_dropped_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Dropper(monkeypatch)
    server.may_end.set()
    tables = StagedTables(NOBODY, NOBODY, make_plan(24), ON_REPLICAS)

    _publish(tables, range(6))
    tables.wait()
    tables.drop_rest()

    assert sorted(name for names in server.dropped for name in names) == [f"t{number}" for number in range(6)]


@pytest.mark.parametrize(
    ("mode", "embedded", "most", "waited"),
    [
        pytest.param(WriteMode.STAGE, False, 1000, [False, False], id="emptied tables"),
        pytest.param(WriteMode.STAGE, False, 20, [False, True], id="more than a server should keep"),
        pytest.param(WriteMode.REPLACE, False, 1000, [True, True], id="tables with parts of the target"),
        pytest.param(WriteMode.STAGE, True, 1000, [True, True], id="an engine that ends with the process"),
    ],
)
def test_only_the_files_of_emptied_tables_are_left_to_the_server(
    monkeypatch: pytest.MonkeyPatch, mode: WriteMode, embedded: bool, most: int, waited: list[bool]
) -> None:
    """A drop that waits delays each commit of the run, and a dropped table with parts keeps their disk space."""
    sent: list[str] = []
    server: Any = SimpleNamespace(embedded=embedded, command=lambda text, _: sent.append(text))
    done = SimpleNamespace(status=ChunkStatus.DONE)
    run = SimpleNamespace(state=lambda _: done)
    store: Any = SimpleNamespace(exclusive=lambda _: nullcontext(), open_run=lambda _: SimpleNamespace(run=run))
    monkeypatch.setattr(staged_tables, "_LEFT_TO_THE_SERVER", most)
    plan = make_plan(32, write_mode=mode)
    tables = StagedTables(server, store, plan, TableFacts(TARGET, TARGET, "MergeTree", (), "", "", "", 0))

    for chunk in plan.chunks():
        tables.drop(chunk, None, alone=True)

    assert [text.endswith(" SYNC") for text in sent] == waited
