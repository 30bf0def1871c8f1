"""
What ``check`` costs beyond its start-up: CPU and memory over 1,000 plans with 124 chunks each, beside 10 plans.

Half of the plans are completed, the others paused midway, with the run file as a worker leaves it.
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
FEW, MANY = 10, 1_000
OWNER = "worker-host:12345:67890123:abcdef12"


def measure(short: bool) -> list[Row]:
    """All figures of check."""
    with tempfile.TemporaryDirectory(prefix="backfill-bench-", dir=os.environ.get("BACKFILL_BENCH_DIR")) as folder:
        root = Path(folder)
        for plans in (0, FEW, MANY):
            _prepare(root / str(plans), plans)

        def check(plans: int) -> Used:
            program = (sys.executable, "-m", "airflow_provider_backfill.cli")
            return use_of(*program, "check", "--json", "--state-dir", str(root / str(plans)))

        starts, few, many = in_turn(3 if short else 9, lambda: check(0), lambda: check(FEW), lambda: check(MANY))
    value = statistics.median(used.cpu - start.cpu for used, start in zip(many, starts, strict=True))
    whole, base = ratio_of([used.cpu for used in many], [used.cpu for used in few])
    memory, memory_base = (max(used.memory for used in uses) for uses in (many, few))
    return [
        Row(f"check of {MANY:,} plans of {CHUNKS} chunks, CPU beyond start-up", value, "s", bar=0.3),
        Row(f"check of {MANY:,} plans, CPU with start-up", whole, "s", base, f"{FEW} plans"),
        Row(f"check of {MANY:,} plans, memory", memory, "MB", bar=150, note=f"{memory_base:.0f} MB for {FEW} plans"),
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
    # The rest in one write: this is no benchmark of a run.
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
