"""
Measure the wait at the prompt: the start of the program, and `plan`, `status` and `check` of 100,000 chunks.

CPU and memory are the operating system's figures for the whole process.
"""

import os
import sys
import tempfile
from functools import partial
from pathlib import Path

from airflow_provider_backfill.clickhouse.client import connect
from benchmarks.frame import Row, Used, in_turn, ratio_of, use_of
from tests.server import ClickHouseServer

_PROGRAM = (sys.executable, "-m", "airflow_provider_backfill.cli")
_SMALL, _LARGE = 120, 100_000
_END = {_SMALL: "2025-01-06", _LARGE: "2036-05-29T16:00"}


def measure(short: bool) -> list[Row]:
    """Return all figures of the program."""
    rounds = 3 if short else 11
    with tempfile.TemporaryDirectory(prefix="backfill-bench-", dir=os.environ.get("BACKFILL_BENCH_DIR")) as folder:
        return [*_start(rounds, Path(folder)), *_sizes(3 if short else 5, Path(folder))]


def _start(rounds: int, root: Path) -> list[Row]:
    empty = ("--state-dir", str(root / "empty"))
    lazy, model, version, listing, check = in_turn(
        rounds,
        # ``import pydantic`` alone loads almost nothing, since pydantic imports its names on first use.
        lambda: use_of(sys.executable, "-c", "import pydantic").cpu,
        lambda: use_of(sys.executable, "-c", "from pydantic import BaseModel").cpu,
        lambda: use_of(*_PROGRAM, "--version").cpu,
        lambda: use_of(*_PROGRAM, "list", *empty).cpu,
        lambda: use_of(*_PROGRAM, "check", *empty).cpu,
    )
    rows = []
    for name, values, bases, against, bar in (
        ("--version", version, lazy, "import pydantic", 0.7),
        ("list of no plan", listing, lazy, "import pydantic", None),
        ("list of no plan", listing, model, "from pydantic import BaseModel", 2.3),
        ("check of no plan", check, model, "from pydantic import BaseModel", None),
    ):
        value, base = ratio_of(values, bases)
        rows.append(Row(f"start, {name}, CPU", value, "s", base, against, bar))
    return rows


def _sizes(rounds: int, root: Path) -> list[Row]:
    with ClickHouseServer(root / "server") as running:
        server = connect(running.url)
        server.command("CREATE DATABASE b")
        for table in ("source", "target"):
            server.command(f"CREATE TABLE b.{table} (ts DateTime('UTC'), x UInt32) ENGINE = MergeTree ORDER BY ts")
        server.command("INSERT INTO b.source SELECT toDateTime('2025-01-01', 'UTC') + number, 1 FROM numbers(1000)")

        def plan(chunks: int) -> Used:
            flags = ("--target", "b.target", "--source", "b.source", "--from", "2025-01-01", "--to", _END[chunks])
            sizes = ("--chunk-hours", "1", "--force-large-window", "--force", "--clickhouse-url", running.url)
            return use_of(*_PROGRAM, "plan", *flags, *sizes, "--state-dir", str(root / str(chunks)))

        small, large = in_turn(rounds, lambda: plan(_SMALL), lambda: plan(_LARGE))
    rows = _rows(f"plan of {_LARGE:,} chunks", small, large, wall=2.0, memory=200)
    for word in ("list", "check"):

        def look(chunks: int, word: str = word) -> Used:
            return use_of(*_PROGRAM, word, "--state-dir", str(root / str(chunks)))

        small, large = in_turn(rounds, partial(look, _SMALL), partial(look, _LARGE))
        rows += _rows(f"{word} with a plan of {_LARGE:,} chunks", small, large)
    return rows


def _rows(
    name: str, small: list[Used], large: list[Used], wall: float | None = None, memory: float | None = None
) -> list[Row]:
    value, base = ratio_of([used.wall for used in large], [used.wall for used in small])
    peak, beside = (max(used.memory for used in uses) for uses in (large, small))
    return [
        Row(f"{name}, wall", value, "s", bar=wall, note=f"{base:.2f} s for {_SMALL} chunks"),
        Row(f"{name}, memory", peak, "MB", bar=memory, note=f"{beside:.0f} MB for {_SMALL} chunks"),
    ]
