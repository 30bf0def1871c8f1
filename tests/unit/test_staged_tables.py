"""When the staging tables of ended chunks are dropped, and which drops are waited for."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_backfill.clickhouse.cluster import SESSION_SECONDS
from airflow_provider_backfill.commands import staged_tables
from airflow_provider_backfill.commands.staged_tables import Place, StagedTables
from airflow_provider_backfill.core.facts import Replicas, TableFacts
from airflow_provider_backfill.core.plan import WriteMode
from airflow_provider_backfill.core.run_state import ChunkState, ChunkStatus, Staged
from airflow_provider_backfill.core.tables import TableName
from airflow_provider_backfill.errors import ServerError
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


def _place(number: int, **more: Any) -> Place:
    return Place(NOBODY, TableName("shop", f"t{number}"), time.monotonic(), **more)


def _refuse(tables: StagedTables, numbers: range) -> None:
    """Attempts fail before their rows are verified, so that nothing needs their tables."""
    for number in numbers:
        tables.leave(_place(number), None, None, done=False, alone=True)


def test_a_slow_drop_delays_no_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Dropper(monkeypatch)
    tables = StagedTables(NOBODY, NOBODY, make_plan(24), ON_REPLICAS)

    _refuse(tables, range(4))
    assert server.began.wait(5)
    # These attempts end while the first four tables are being dropped.
    _refuse(tables, range(4, 10))
    assert server.dropped == []

    server.may_end.set()
    tables.wait()
    assert server.dropped == [["t0", "t1", "t2", "t3"], ["t4", "t5", "t6", "t7", "t8", "t9"]]


def test_the_last_tables_are_dropped_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Dropper(monkeypatch)
    server.may_end.set()
    tables = StagedTables(NOBODY, NOBODY, make_plan(24), ON_REPLICAS)

    _refuse(tables, range(6))
    tables.leave(_place(6, going=frozenset()), None, None, done=True, alone=True)
    tables.wait()
    tables.drop_rest()

    assert sorted(name for names in server.dropped for name in names) == [f"t{number}" for number in range(7)]


# It answers the question about the target's definition.
SERVER: Any = SimpleNamespace(texts=lambda _: [["1"]])
CHUNK = next(make_plan(24).chunks())
OURS = Staged("t0", (("202501", "aa"), ("202502", "bb")))
THEIRS = Staged("t9", (("202501", "cc"),))


@pytest.mark.parametrize(
    ("place", "staged", "needed", "done", "alone", "kept", "dropped"),
    [
        pytest.param({}, OURS, None, True, True, ["aa", "bb"], [], id="a chunk is done"),
        pytest.param(
            {"going": frozenset(["zz"])}, OURS, None, True, True, ["aa", "bb"], [], id="a further chunk is done"
        ),
        pytest.param(
            {"going": frozenset(["zz"]), "until": math.inf},
            None,
            None,
            True,
            True,
            ["zz"],
            [],
            id="a chunk without rows",
        ),
        pytest.param(
            {"going": frozenset()}, None, None, True, True, None, ["t0"], id="its session may have ended meanwhile"
        ),
        pytest.param({}, None, None, True, True, None, [], id="a chunk without rows needs no table"),
        # Another attempt may have a statement on its way that publishes from the table.
        pytest.param({}, OURS, None, True, False, None, ["t0"], id="done at a second attempt"),
        pytest.param({"resumes": True}, THEIRS, None, True, False, None, ["t9"], id="an earlier attempt's rows"),
        pytest.param({}, OURS, OURS, False, True, None, [], id="the log needs the rows"),
        pytest.param({}, None, None, False, True, None, ["t0"], id="rows without a proof"),
        pytest.param({}, THEIRS, THEIRS, False, False, None, ["t0"], id="failed beside an earlier attempt's rows"),
        pytest.param({"resumes": True}, THEIRS, THEIRS, False, False, None, [], id="the rows could not be published"),
        pytest.param({"resumes": True}, THEIRS, None, False, False, None, ["t9"], id="the rows are given up"),
    ],
)
def test_only_a_table_that_nobody_else_has_seen_serves_another_chunk(
    monkeypatch: pytest.MonkeyPatch,
    place: dict[str, Any],
    staged: Staged | None,
    needed: Staged | None,
    done: bool,
    alone: bool,
    kept: list[str] | None,
    dropped: list[str],
) -> None:
    server = Dropper(monkeypatch)
    server.may_end.set()
    emptied: list[str] = []
    monkeypatch.setattr(staged_tables, "empty_staging", lambda _, __, partitions: emptied.extend(partitions))
    monkeypatch.setattr(staged_tables, "server_with", lambda *_: SERVER)
    tables = StagedTables(NOBODY, NOBODY, make_plan(24), ON_REPLICAS)

    tables.leave(_place(0, **place), staged, needed, done=done, alone=alone)
    taken = tables.place(CHUNK, ChunkState(attempt=1))
    tables.drop_rest()

    again = taken.table.table == "t0"
    assert (sorted(taken.going or ()) if again else None) == kept
    assert sorted(emptied) == sorted({name for name, _ in staged.parts} if again and staged is not None else ())
    assert [name for names in server.dropped for name in names] == dropped


@pytest.mark.parametrize("late", ["until", "made"])
def test_an_old_table_serves_no_other_chunk(monkeypatch: pytest.MonkeyPatch, late: str) -> None:
    """Its session may have ended, or Keeper may have forgotten what was published while the table was young."""
    server = Dropper(monkeypatch)
    server.may_end.set()
    clock = [1000.0]
    monkeypatch.setattr(staged_tables, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(staged_tables, "empty_staging", lambda *_: None)
    monkeypatch.setattr(staged_tables, "server_with", lambda *_: SERVER)
    tables = StagedTables(NOBODY, NOBODY, make_plan(24), ON_REPLICAS)
    made = clock[0] if late == "until" else clock[0] - staged_tables._OLDEST_SECONDS + 5
    tables.leave(_place(0)._replace(made=made), OURS, None, done=True, alone=True)
    clock[0] += SESSION_SECONDS / 2 if late == "until" else 5

    assert tables.place(CHUNK, ChunkState(attempt=1)).table.table != "t0"
    tables.drop_rest()
    assert server.dropped == [["t0"]]


def test_a_table_of_replace_serves_one_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeper does not remember replaced partitions, so that a late statement must find no table."""
    server = Dropper(monkeypatch)
    server.may_end.set()
    monkeypatch.setattr(staged_tables, "server_with", lambda *_: SERVER)
    plan = make_plan(24, write_mode=WriteMode.REPLACE)
    tables = StagedTables(NOBODY, NOBODY, plan, ON_REPLICAS)
    tables.leave(_place(0), OURS, None, done=True, alone=True)
    assert tables.place(CHUNK, ChunkState(attempt=1)).table.table.startswith(f"backfill_{plan.plan_id}_{CHUNK.id}_1_")
    tables.drop_rest()
    assert server.dropped == [["t0"]]


def test_a_table_that_cannot_be_emptied_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Dropper(monkeypatch)
    server.may_end.set()

    def refuse(*_: object) -> None:
        raise ServerError("no")

    monkeypatch.setattr(staged_tables, "empty_staging", refuse)
    tables = StagedTables(NOBODY, NOBODY, make_plan(24), ON_REPLICAS)
    tables.leave(_place(0), OURS, None, done=True, alone=True)
    tables.drop_rest()
    assert server.dropped == [["t0"]]


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
        tables.drop_later(chunk)

    assert [text.endswith(" SYNC") for text in sent] == waited
