"""
What a forked runner does: the command line, with the faults that strike inside of it.

Everything here is patched into the child alone; the product has no switch for any of it.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import clickhouse_connect.driver.httputil  # noqa: F401 - loaded once, before the fork

from airflow_provider_backfill.cli import main
from airflow_provider_backfill.clickhouse import attempt, client, foreign_rows, interrupted_move, publish
from airflow_provider_backfill.clickhouse.attempt import Step
from airflow_provider_backfill.commands import (
    lease,
    run,
)
from airflow_provider_backfill.commands.run import run_plan
from airflow_provider_backfill.commands.session import Payload
from airflow_provider_backfill.core.events import Event
from airflow_provider_backfill.state import posix
from tests.system.faults import switches
from tests.system.faults.schedule import IN_DOUBT, LOOKED

Tell = Callable[..., None]


def work(spec: dict[str, Any], tell: Tell) -> int:
    """
    Run the command line of *spec* and return its exit code.

    Keys of *spec*: ``words``; ``strikes`` (signals to itself at named steps); ``lease`` in
    seconds; ``clock`` (how far ahead, and for how many looks at it); ``disk`` (a full state disk);
    ``blocks`` (rows per block); ``off`` (a safety that is switched off); ``environment`` (more variables).
    """
    os.environ.update(spec["environment"])
    random.seed()
    client._SETTINGS.update(
        max_block_size=spec["blocks"],
        min_insert_block_size_rows=spec["blocks"],
        min_insert_block_size_bytes=0,
        max_insert_block_size=spec["blocks"],
        max_threads=2,
        max_insert_threads=1,
    )
    steps = _Steps(spec["strikes"], tell)
    _report_steps(steps, spec["lease"])
    if spec["clock"]:
        _turn_clock(**spec["clock"])
    if spec["disk"]:
        _fill_disk(**spec["disk"])
    if spec["off"]:
        switches.SWITCHES[spec["off"]]()
    return main.main(spec["words"])


class _Steps:
    """Counts and reports steps, and strikes at those that were chosen."""

    def __init__(self, strikes: list[dict[str, Any]], tell: Tell) -> None:
        self._strikes, self._tell = strikes, tell
        self._seen: Counter[str] = Counter()
        self._partition = threading.local()
        self._lock = threading.Lock()

    def __call__(self, name: str, **more: Any) -> None:
        if name == Step.CLAIM:
            self._partition.number = 0
        elif name in (Step.MOVED, Step.REPLACED):
            # Which of a chunk's partitions it is: a chunk is one thread's from its claim on.
            self._partition.number += 1
            name = f"{name} {self._partition.number}"
        with self._lock:
            self._seen[name] += 1
            nth = self._seen[name]
        self._tell(what="step", step=name, **more)
        for strike in self._strikes:
            if strike["step"] == name and strike["nth"] == nth:
                os.kill(os.getpid(), signal.Signals[strike["signal"]])
                # The signal may reach another thread first; this one must not get further.
                time.sleep(0.05)


def _report_steps(steps: _Steps, lease: float) -> None:
    """Make every run of this process report its steps, its events and its last drops, with short leases."""
    original, drop, doubt = run_plan, attempt.drop_tables, interrupted_move._cannot_tell

    def run_with_steps(*args: Any, report: Callable[[Event], None], **kwargs: Any) -> Payload:
        def reported(event: Event) -> None:
            report(event)
            about = {"chunk": getattr(event, "chunk_id", ""), "attempt": getattr(event, "attempt", 0)}
            steps(event.type, **about)

        return original(*args, report=reported, step=steps, lease_seconds=lease, **kwargs)

    def drop_tables(server: Any, tables: Any, replicas: Any = None) -> None:
        for index, table in enumerate(tables):
            drop(server, [table], replicas)
            steps(f"dropped {index + 1}")

    def cannot_tell(*args: Any) -> Exception:
        steps(IN_DOUBT)
        return doubt(*args)

    look = foreign_rows.refuse_before_publish

    def looked(*args: Any, **kwargs: Any) -> None:
        look(*args, **kwargs)
        steps(LOOKED)

    switches.patch(publish, refuse_before_publish=looked)
    switches.patch(interrupted_move, _cannot_tell=cannot_tell)
    switches.patch(run, run_plan=run_with_steps)
    # Who calls it by this name closes a completed run; the attempts have a name of their own for it.
    switches.patch(attempt, drop_tables=drop_tables)


def _turn_clock(ahead: float, count: int) -> None:
    real, looks = lease.utc_now, itertools.count(1)

    def now() -> datetime:
        jumped_back = count and next(looks) > count
        return real() if jumped_back else real() + timedelta(seconds=ahead)

    for module in list(sys.modules.values()):
        if getattr(module, "utc_now", None) is real:
            switches.patch(module, utc_now=now)


def _fill_disk(first: int, count: int, how: str) -> None:
    """Let the disk of the state be full for *count* writes from the *first* on."""
    writes = Counter[str]()

    class FullDisk:
        """The module ``os`` as the state sees it."""

        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def pwrite(self, handle: int, data: bytes, offset: int) -> int:
            writes["n"] += 1
            if not first <= writes["n"] < first + count:
                return os.pwrite(handle, data, offset)
            if how == "short":
                return os.pwrite(handle, data[: len(data) // 2], offset)
            if how == "late":
                os.pwrite(handle, data, offset)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    switches.patch(posix, os=FullDisk())
