"""The estimator of the time left: steady over uneven chunks, quick to see a new pace, the same for every reader."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

import pytest

from airflow_provider_backfill.core.progress import ProgressMeter

WORKERS = 2
Weights = Callable[[random.Random, int], list[float]]

# Seconds that each chunk takes, in the shapes that windows have.
SHAPES: dict[str, Weights] = {
    "even": lambda _, count: [1.0] * count,
    "weekends are light": lambda rng, count: [(0.3 if n % 7 > 4 else 1) * rng.uniform(0.7, 1.3) for n in range(count)],
    "nights are light": lambda _, count: [(0.2, 1.0, 2.0, 1.0)[n % 4] for n in range(count)],
}


def _ends(weights: list[float]) -> list[float]:
    """When each chunk ends, with two workers that take the next one when they are free."""
    free, ends = [0.0] * WORKERS, []
    for weight in weights:
        end = heapq.heappop(free) + weight
        heapq.heappush(free, end)
        ends.append(end)
    return sorted(ends)


def _share_within_a_quarter(ends: list[float]) -> float:
    """How much of a run, after its first tenth, the time left is within 25 % of the truth."""
    meter, seen, good, looks = ProgressMeter(0.0), 0, 0, 400
    for look in range(looks):
        now = ends[-1] * (0.1 + 0.9 * look / looks)
        while seen < len(ends) and ends[seen] <= now:
            meter.add(ends[seen])
            seen += 1
        left, truth = meter.seconds_left(now, len(ends) - seen), ends[-1] - now
        good += left is not None and abs(left - truth) <= 0.25 * truth
    return good / looks


@pytest.mark.parametrize("count", [124, 720])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_time_left_is_right_for_most_of_a_run(shape: str, count: int) -> None:
    generators = [random.Random(seed) for seed in range(3)]  # noqa: S311 - weights of a simulation
    shares = [_share_within_a_quarter(_ends(SHAPES[shape](rng, count))) for rng in generators]
    assert min(shares) >= 0.8, shares


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
    """In Airflow each mapped task begins by itself."""
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
