"""
Define the result of a benchmark: figures, their baselines in the same run, and their bars.

A module of this package with a function ``measure(short: bool) -> list[Row]`` is a benchmark; *short* gives the same
figures from less work, for CI.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

_T = TypeVar("_T")
# What the command line allows.
most_rounds = 100


@dataclass(frozen=True, slots=True)
class Row:
    """
    One figure.

    Attributes:
        value: The value in *unit*; less is better.
        baseline: The baseline, measured alternately with the value; None if there is none.
        against: The name of the baseline.
        bar: The maximum ratio to the baseline, or the maximum value without a baseline; None for a figure without a
            bar.
        note: A remark for readers, such as why the figure is over its bar.
    """

    name: str
    value: float
    unit: str
    baseline: float | None = None
    against: str = ""
    bar: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """The value as a multiple of the baseline."""
        return self.value / self.baseline if self.baseline else None

    @property
    def held(self) -> bool | None:
        """Whether the bar holds; None without a bar."""
        measure = self.value if self.baseline is None else self.ratio
        return None if self.bar is None or measure is None else measure <= self.bar


def in_turn(rounds: int, *works: Callable[[], _T]) -> list[list[_T]]:
    """
    Do the works one after the other, round by round, so that other work of the machine affects all of them.

    There are *rounds*, or as many as the command line allows.

    Returns:
        For each work, its results by round.
    """
    results: list[list[_T]] = [[] for _ in works]
    for _ in range(min(rounds, most_rounds)):
        for work, result in zip(works, results, strict=True):
            result.append(work())
    return results


def ratio_of(values: Sequence[float], baselines: Sequence[float]) -> tuple[float, float]:
    """Return the median value, and the baseline that gives the median of the ratios."""
    value = statistics.median(values)
    ratio = statistics.median(v / b for v, b in zip(values, baselines, strict=True))
    return value, value / ratio


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that *work* takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# The kernel attributes the memory of the starting process to the program, so a small process starts it.
_STARTER = """
import os, sys, time
began, nothing = time.perf_counter(), os.open(os.devnull, os.O_WRONLY)
quiet = [(os.POSIX_SPAWN_DUP2, nothing, 1), (os.POSIX_SPAWN_DUP2, nothing, 2)]
process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)
_, status, used = os.wait4(process, 0)
wall = time.perf_counter() - began
print(os.waitstatus_to_exitcode(status), wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""


class Used(NamedTuple):
    """Resources of a process: seconds of wall time, seconds of CPU, peak memory in MB."""

    wall: float
    cpu: float
    memory: float


def use_of(*command: str) -> Used:
    """Measure a program that ends with 0 or 1 by the operating system's figures; discard its output."""
    starter = [sys.executable, "-I", "-S", "-c", _STARTER]
    answer = subprocess.run([*starter, *command], check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    assert answer[0] in ("0", "1"), command
    return Used(*map(float, answer[1:]))


def machine() -> str:
    """Return a description of the machine in one line."""
    with Path("/proc/cpuinfo").open() as file:
        model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")
    load = os.getloadavg()[0]
    return f"{platform.system()} {platform.release()}, {os.cpu_count()} cores {model}, load {load:.1f} at the end"


def markdown(rows: dict[str, list[Row]]) -> str:
    """Return the rows as a table for people."""
    lines = [f"Measured on {machine()}, Python {platform.python_version()}.", ""]
    lines += ["| what | value | baseline | ratio | bar | |", "|---|---:|---:|---:|---:|---|"]
    for row in (row for part in rows.values() for row in part):
        base = f"{row.baseline:.4g} {row.unit} ({row.against})" if row.baseline is not None else ""
        ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
        bar = f"{row.bar:.4g}" if row.bar is not None else ""
        held = {True: "holds", False: "**missed**", None: ""}[row.held]
        note = f"{held}; {row.note}" if held and row.note else held or row.note
        lines.append(f"| {row.name} | {row.value:.4g} {row.unit} | {base} | {ratio} | {bar} | {note} |")
    return "\n".join(lines) + "\n"


def as_json(rows: dict[str, list[Row]]) -> str:
    """Return the rows for programs."""
    found = {part: [{**asdict(row), "ratio": row.ratio, "held": row.held} for row in rows[part]] for part in rows}
    return json.dumps({"machine": machine(), "python": platform.python_version(), "benchmarks": found}, indent=2) + "\n"
