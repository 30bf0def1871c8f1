"""The estimator of the time left: steady over uneven chunks, quick to see a new pace, the same for every reader."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_backfill.core.progress import ProgressMeter

WORKERS = 2
Weights = Callable[[random.Random, int], list[float]]
# The seconds left, from the time, the chunks that are done, and those that are left.
Estimator = Callable[[float, int, int], float | None]

# Seconds per chunk, in common shapes of windows; the last two shapes cannot be known before they happen.
SHAPES: dict[str, Weights] = {
    "all alike": lambda _, count: [20.0] * count,
    "weekends are quiet": lambda rng, count: [(6 if n % 7 > 4 else 20) * rng.uniform(0.7, 1.3) for n in range(count)],
    "nights are quiet, evenings busy": lambda _, count: [(4.0, 20.0, 40.0, 20.0)[n % 4] for n in range(count)],
    "every second month is heavier by half": lambda rng, count: [
        (30 if n // 30 % 2 else 20) * rng.uniform(0.8, 1.2) for n in range(count)
    ],
    "the table has doubled": lambda _, count: [20 * (1 + n / count) for n in range(count)],
    "the table has grown threefold": lambda _, count: [20 * (1 + 2 * n / count) for n in range(count)],
    "at random, most within a factor of 1.6": lambda rng, count: [
        20 * rng.lognormvariate(0, 0.5) for _ in range(count)
    ],
    "at random, some ten times as long": lambda rng, count: [20 * rng.lognormvariate(0, 1) for _ in range(count)],
    "the server gets twice as slow in the middle": lambda _, count: [
        20.0 if 2 * n < count else 40 for n in range(count)
    ],
}
UNKNOWABLE = tuple(SHAPES)[-2:]
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "watch.md"


def _ends(weights: list[float], workers: int = WORKERS) -> list[float]:
    """When each chunk ends, with workers that take the next one when they are free."""
    free, ends = [0.0] * workers, []
    for weight in weights:
        end = heapq.heappop(free) + weight
        heapq.heappush(free, end)
        ends.append(end)
    return sorted(ends)


def _share_within_a_quarter(ends: list[float], looks: int = 400, oracle: Estimator | None = None) -> float:
    """How much of a run, after its first tenth, the time left is within 25 % of the truth."""
    meter, seen, good = ProgressMeter(0.0), 0, 0
    for look in range(looks):
        now = ends[-1] * (0.1 + 0.9 * look / looks)
        while seen < len(ends) and ends[seen] <= now:
            meter.add(ends[seen])
            seen += 1
        left = len(ends) - seen
        seconds = meter.seconds_left(now, left) if oracle is None else oracle(now, seen, left)
        truth = ends[-1] - now
        good += seconds is not None and abs(seconds - truth) <= 0.25 * truth
    return good / looks


def _worst(shape: str, count: int, workers: int = WORKERS, looks: int = 400, oracle: Estimator | None = None) -> float:
    generators = [random.Random(seed) for seed in range(3)]  # noqa: S311 - weights of a simulation
    return min(_share_within_a_quarter(_ends(SHAPES[shape](rng, count), workers), looks, oracle) for rng in generators)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_time_left_is_right_for_most_of_a_run(shape: str) -> None:
    """Within 25 % of the truth for 80 % of a run after its first tenth, as the documentation says."""
    shares = [_worst(shape, count) for count in (124, 720)]
    row = f"| {shape} | {shares[0]:.0%} | {shares[1]:.0%} |".replace("%", " %")
    assert row in PAGE.read_text(encoding="utf-8"), row
    assert shape in UNKNOWABLE or min(shares) >= 0.8, shares


def test_two_shapes_are_out_of_reach_even_for_who_knows_the_pace() -> None:
    """An estimator that knows the average duration, or the current pace, is right for less than 80 % of these runs."""
    heavy_tail, slow_later = UNKNOWABLE

    def knows_the_mean(now: float, done: int, left: int) -> float:
        return left * 20 * math.exp(0.5) / WORKERS

    def knows_the_moment(now: float, done: int, left: int) -> float:
        return left * (20 if done < left else 40) / WORKERS

    page = PAGE.read_text(encoding="utf-8")
    bounds = [_worst(heavy_tail, 124, oracle=knows_the_mean), _worst(slow_later, 720, oracle=knows_the_moment)]
    for bound in bounds:
        assert bound < 0.8
        assert f"{bound:.0%}".replace("%", " %") in page.split("| the server gets twice as slow")[1], bound
    assert _worst(heavy_tail, 720) >= 0.8
    assert _worst(slow_later, 720) >= bounds[1] - 0.02


@pytest.mark.parametrize("workers", [1, 5, 8])
def test_the_time_left_does_not_depend_on_two_workers(workers: int) -> None:
    """Workers that began together end together, in bursts."""
    shares = {shape: _worst(shape, 720, workers, looks=60) for shape in SHAPES if shape not in UNKNOWABLE}
    assert min(shares.values()) >= 0.75, shares


def test_a_time_left_is_told_from_the_first_completion_on() -> None:
    """Also if one reading of the log has many completions, or if the next completion is overdue."""
    meter = ProgressMeter(0.0)
    meter.add(10.0, 40)
    assert meter.seconds_left(10.0, 40) == pytest.approx(10, rel=0.05)
    assert meter.seconds_left(10.0, 0) == 0
    one = ProgressMeter(0.0)
    one.add(10.0)
    assert one.seconds_left(1000.0, 3) == pytest.approx(2010)


def test_a_new_pace_shows_within_the_recent_past() -> None:
    """A server that got slower must not be averaged away by an hour of speed."""
    meter = ProgressMeter(0.0)
    for second in range(3600):
        meter.add(float(second))
    for slow in range(100):
        meter.add(3600 + 10.0 * slow)
    pace = meter.pace(4600.0)
    assert pace is not None
    assert pace.chunks == pytest.approx(0.1, rel=0.1)


def test_a_pause_is_no_part_of_the_pace() -> None:
    meter = ProgressMeter(0.0)
    for second in range(1, 21):
        meter.add(float(second))
    meter.begin(10_000.0)
    for second in range(1, 21):
        meter.add(10_000.0 + second)
    assert meter.seconds_left(10_020.0, 60) == pytest.approx(60, rel=0.05)


def test_a_task_that_begins_while_others_work_changes_nothing() -> None:
    """In Airflow, each mapped task starts a worker."""
    meter = ProgressMeter(0.0)
    for second in range(1, 101):
        meter.begin(float(second))
        meter.add(float(second))
    assert meter.seconds_left(100.0, 10) == pytest.approx(10, rel=0.05)


def test_rows_and_bytes_read_have_a_pace_of_their_own() -> None:
    """A view that makes 5 rows of 100,000 is not dead: it reads."""
    meter = ProgressMeter(0.0)
    for second in range(1, 11):
        meter.add(float(second), 1, rows=5, read_rows=100_000, read_bytes=800_000)
    pace = meter.pace(10.0)
    assert pace == (1.0, 5.0, 100_000.0, 800_000.0)


def test_nothing_done_is_nothing_known() -> None:
    meter = ProgressMeter(0.0)
    meter.add(1.0, 0, rows=5)
    assert meter.pace(10.0) is None
    assert meter.seconds_left(10.0, 3) is None


def test_a_chunk_that_reports_no_rows_has_none() -> None:
    meter = ProgressMeter(0.0)
    meter.add(10.0)
    pace = meter.pace(10.0)
    assert pace is not None
    assert pace[1:] == (0.0, 0.0, 0.0)
