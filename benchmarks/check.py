"""
Measure ``check`` and ``list`` on many plans: processor time and memory for 10,000 plans against 1,000.

Half of the plans are completed. The others are paused midway, with the run file that a worker leaves.
"""

import os
import statistics
import sys
import tempfile
from pathlib import Path

from airflow_provider_backfill.core.events import Event, RunPaused
from airflow_provider_backfill.core.plan import Plan
from airflow_provider_backfill.state.posix import FileBackend
from airflow_provider_backfill.state.store import StateStore
from benchmarks.frame import Row, Used, in_turn, ratio_of, use_of
from tests.state import START, done, make_plan, started, verified

CHUNKS = 124
FEW, MANY = 1_000, 10_000
OWNER = "worker-host:12345:67890123:abcdef12"


def measure(short: bool) -> list[Row]:
    """Return all figures of ``check`` and ``list``."""
    few, many = (FEW // 10, MANY // 10) if short else (FEW, MANY)
    with tempfile.TemporaryDirectory(prefix="backfill-bench-", dir=os.environ.get("BACKFILL_BENCH_DIR")) as folder:
        root = Path(folder)
        for plans in (0, few, many):
            _prepare(root / str(plans), plans)
        rows = []
        for command in ("check", "list"):

            def use(plans: int, command: str = command) -> Used:
                program = (sys.executable, "-m", "airflow_provider_backfill.cli")
                return use_of(*program, command, "--json", "--state-dir", str(root / str(plans)))

            starts, little, much = in_turn(
                1 if short else 3,
                lambda: use(0),
                lambda: use(few),
                lambda: use(many),
            )
            rows += _rows(command, few, many, starts, little, much)
    return rows


def _rows(command: str, few: int, many: int, starts: list[Used], little: list[Used], much: list[Used]) -> list[Row]:
    value, base = ratio_of([used.cpu for used in much], [used.cpu for used in little])
    beyond = statistics.median(used.cpu - start.cpu for used, start in zip(little, starts, strict=True))
    memory, memory_base = (max(used.memory for used in uses) for uses in (much, little))
    return [
        Row(f"{command} of {few:,} plans of {CHUNKS} chunks, CPU beyond start-up", beyond, "s", bar=0.3 * few / 1_000),
        Row(f"{command} of {many:,} plans, CPU with start-up", value, "s", base, f"{few:,} plans", 12),
        Row(f"{command} of {many:,} plans, memory", memory, "MB", note=f"{memory_base:.0f} MB for {few:,} plans"),
    ]


def _prepare(folder: Path, plans: int) -> None:
    store = StateStore(FileBackend(folder))
    for number in range(plans):
        plan = make_plan(CHUNKS, target=f"shop.orders_{number}")
        store.save_plan(plan)
        _run(store, plan, CHUNKS if number % 2 else CHUNKS // 2)


def _run(store: StateStore, plan: Plan, finished: int) -> None:
    log = store.open_run(plan)
    first, *others = list(plan.chunks())[:finished]
    log.append(started(plan, first, by=OWNER))
    # Write the rest in one write, since this is no benchmark of a run.
    events: list[Event] = [verified(first, by=OWNER), done(first, by=OWNER)]
    for chunk in others:
        events += [started(plan, chunk, by=OWNER), verified(chunk, by=OWNER), done(chunk, by=OWNER)]
    if finished < CHUNKS:
        events.append(RunPaused(at=START, by=OWNER, reason="stopped by SIGTERM"))
    with Path(store.event_path(plan.plan_id)).open("ab") as file:
        for event in events:
            file.write(event.model_dump_json(by_alias=True, exclude_none=True).encode() + b"\n")
    log.refresh()
    log.write_checkpoint()
