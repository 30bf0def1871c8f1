"""Two runs that begin at the same moment on the same rows: one of them begins."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from airflow_provider_backfill.commands.run import RunFlags
from airflow_provider_backfill.commands.run import _begin as begin_run
from airflow_provider_backfill.commands.session import Session
from airflow_provider_backfill.core.ids import plan_id
from airflow_provider_backfill.core.plan import Plan, Statement
from airflow_provider_backfill.core.tables import TableName, TimeKind
from airflow_provider_backfill.errors import RequestError
from airflow_provider_backfill.options import Options
from airflow_provider_backfill.state.store import open_store
from tests.s3 import S3Server
from tests.state import make_plan

ROUNDS = 8


def _plans(number: int) -> tuple[Plan, Plan]:
    """Two plans on one target whose windows meet in one chunk."""
    source = Statement(
        name="shop.src",
        select="SELECT ts FROM shop.src",
        source=TableName("shop", "src"),
        time_kind=TimeKind.DATETIME,
        columns=("ts",),
    )
    first = make_plan(4, target=f"shop.table{number}", statements=(source,))
    start, end = first.start + timedelta(hours=18), first.end + timedelta(hours=18)
    other = plan_id(str(first.target), start, end, 6, "ts")
    return first, first.model_copy(update={"plan_id": other, "start": start, "end": end})


def _begin(place: str, config: dict[str, str], which: int, barrier: Barrier, notes: Path) -> None:
    begin: Callable[..., None] = begin_run
    session = Session(open_store(place, config=config), Options(), None, f"user{which}:{os.getpid()}")
    results = []
    for number in range(ROUNDS):
        log = session.store.open_run(_plans(number)[which])
        barrier.wait(60)
        try:
            begin(session, log, RunFlags(), False, None)
        except RequestError as error:
            assert "is running on" in error.message  # noqa: PT017 - one of the two must fail
            results.append("refused")
        else:
            results.append("began")
    notes.write_text(" ".join(results))


@pytest.mark.parametrize("kind", ["files", "s3"])
def test_of_two_overlapping_runs_one_begins(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Each looks at the other's log under one lock, so that they cannot both find it at rest."""
    place, config = str(tmp_path / "state"), {}
    if kind == "s3":
        server: S3Server = request.getfixturevalue("s3_server")
        place, config = f"s3://{server.new_bucket()}/state", server.config
    store = open_store(place, config=config)
    for number in range(ROUNDS):
        for plan in _plans(number):
            store.save_plan(plan)
    # Not forked: the object store's library has threads that a fork would not have.
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [
        context.Process(target=_begin, args=(place, config, which, barrier, tmp_path / f"notes-{which}"))
        for which in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(180)
        assert process.exitcode == 0
    notes = [(tmp_path / f"notes-{which}").read_text().split() for which in (0, 1)]
    assert [sorted(both) for both in zip(*notes, strict=True)] == [["began", "refused"]] * ROUNDS
