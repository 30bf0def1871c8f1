"""What a terminal shows of a run: cells that say the same without colour, lines that fit, the chunks that matter."""

from __future__ import annotations

import io
import re
import time
from typing import Any

import pytest
from rich.console import Console

from airflow_provider_backfill.cli.live import RunView
from airflow_provider_backfill.core.plan import Plan
from airflow_provider_backfill.core.progress_map import CellKind, ProgressMap, highlights
from airflow_provider_backfill.core.replay import apply_event, new_run
from airflow_provider_backfill.core.run_state import Run
from tests.state import chunks_of, done, failed, make_plan, split, started


def run_of(plan: Plan, ended: dict[int, str]) -> Run:
    """Return a run whose chunks, by number, have the state in *ended*."""
    run, chunks = new_run(plan), chunks_of(plan)
    for number, how in ended.items():
        chunk = chunks[number]
        apply_event(run, started(plan, chunk))
        if how == "done":
            apply_event(run, done(chunk, seconds=float(number)))
        elif how != "running":
            apply_event(run, failed(chunk, final=how == "failed"))
    return run


def drawn(plan: Plan, run: Run, width: int = 80, height: int = 30, **how: Any) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, force_terminal=False)
    console.print(RunView(plan, run, **how).draw(run, width, height))
    return out.getvalue().splitlines()


def test_each_chunk_is_a_cell_while_all_fit() -> None:
    plan = make_plan(40)
    run = run_of(plan, {0: "done", 1: "done", 2: "failed", 3: "running"})
    lines = drawn(plan, run)
    assert any("██✗▒····" in line for line in lines)
    assert any("█ done" in line and "✗ failed" in line and "· pending" in line for line in lines)
    assert any("2/40 chunks, 1 running, 1 failed" in line for line in lines)


def test_a_terminal_without_unicode_gets_letters() -> None:
    plan = make_plan(40)
    lines = drawn(plan, run_of(plan, {0: "done", 1: "failed", 2: "running"}), ascii_only=True)
    assert any("#x~...." in line for line in lines)
    assert any("x failed" in line for line in lines)


@pytest.mark.parametrize("width", [40, 79, 80, 120, 300])
@pytest.mark.parametrize("count", [5, 7, 124, 3000])
def test_it_fits_the_terminal(width: int, count: int) -> None:
    plan = make_plan(count)
    lines = drawn(plan, run_of(plan, {0: "done", 3: "failed"}), width=width, height=24)
    assert max(map(len, lines)) <= width
    assert len(lines) < 24


@pytest.mark.parametrize("width", [40, 79, 80, 104, 120])
def test_the_time_left_is_never_cut(width: int) -> None:
    """The time left is the most important part of the head."""
    plan = make_plan(40, target="a_database_with_a_long_name.a_table_with_a_long_name")
    view, out = RunView(plan, run_of(plan, {0: "running"})), io.StringIO()
    time.sleep(0.01)
    drawing = view.draw(run_of(plan, {0: "done", 1: "done", 2: "running"}), width, 24)
    Console(file=out, width=width, height=24, force_terminal=False).print(drawing)
    assert re.search(r"^(.*  )?about [\d.]+ \w+( \d+ \w+)? left, until \d\d:\d\d,", out.getvalue(), re.MULTILINE)


def test_lines_of_the_map_begin_at_midnight_where_chunks_allow_it() -> None:
    """124 chunks of 6 h do not fit into one line; then each line holds whole days."""
    plan = make_plan(124)
    rows = ProgressMap(plan).rows(new_run(plan), 70, 7)
    assert [len(row.cells) for row in rows] == [68, 56]
    assert {row.start.hour for row in rows} == {0}


def test_a_cell_of_many_chunks_shows_the_worst_of_them() -> None:
    """One failed chunk of a thousand must not drown."""
    plan = make_plan(3000)
    run = run_of(plan, {**dict.fromkeys(range(1501), "done"), 2500: "failed", 1600: "running"})
    cells = [kind for row in ProgressMap(plan).rows(run, 60, 5) for kind in row.cells]
    assert len(cells) == 300
    assert cells.count(CellKind.FAILED) == 1
    assert cells.count(CellKind.RUNNING) == 1
    assert cells.count(CellKind.PARTLY) == 1
    assert cells[0] is CellKind.DONE
    assert cells[-1] is CellKind.PENDING


def test_the_slowest_and_the_failing_chunks_are_named() -> None:
    plan = make_plan(12)
    run = run_of(plan, {0: "done", 1: "again", 2: "done", 3: "done", 4: "done", 5: "failed"})
    found = highlights(ProgressMap(plan), run)
    assert [chunk["seconds"] for chunk in found["slowest"]] == [4, 3, 2]
    assert [chunk["status"] for chunk in found["failing"]] == ["failed", "pending"]
    text = "\n".join(drawn(plan, run, width=120))
    assert "slowest" in text
    assert "failing" in text
    assert "retried" in text


def test_parts_of_a_split_chunk_are_found() -> None:
    plan = make_plan(2)
    first, _ = chunks_of(plan)
    run = new_run(plan)
    apply_event(run, started(plan, first))
    apply_event(run, split(plan, first))
    part = run.splits[first.id][1]
    apply_event(run, started(plan, part))
    apply_event(run, done(part))
    assert [chunk["chunkId"] for chunk in highlights(ProgressMap(plan), run)["slowest"]] == [part.id]
    (row,) = ProgressMap(plan).rows(run, 60, 5)
    assert row.cells == [CellKind.PARTLY, CellKind.PENDING]
