"""What the campaign has found: each bug as the shortest scenario that shows it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.faults.arena import Arena
from tests.system.faults.schedule import UNTIL_COMPLETED, Inside, Scenario
from tests.system.faults.tables import Layout

# One chunk of two partitions, whose halves can part company.
LAYOUT = Layout("MergeTree", "stage", partition=3, hours=6, chunks=1, rows=600, slow=50, merges=False)


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """One server for all of them."""
    with Arena(tmp_path_factory.mktemp("arena")) as arena:
        yield arena


def test_a_worker_that_wakes_late_drops_nothing_of_a_later_attempt(arena: Arena) -> None:
    """
    Attempt 2 falls asleep before it cleans up, and wakes while attempt 3 has moved one of two partitions.

    It dropped the sealed table of attempt 3, since it did not know it; attempt 4 filled it again
    and the first partition was in the target twice.
    """
    first = (Inside("kill", step="staged"),)
    zombie = (Inside("stop", step="claim", asleep=UNTIL_COMPLETED, until="moved 1"),)
    publisher = (Inside("stop", step="moved 1", asleep=0.5),)
    result = arena.play(Scenario("late cleaner", LAYOUT, lease=0.7, inside=(first, zombie, publisher)))
    assert result.problems == []
    assert result.struck["worker SIGSTOP, then SIGCONT at a named step"] == 2


def test_a_worker_that_wakes_late_clears_nothing_that_was_published_since(arena: Arena) -> None:
    """
    A replay with --clear-window falls asleep before it clears, and wakes when another has finished the chunk.

    It deleted the rows of a chunk that was done.
    """
    zombie = (Inside("stop", step="claim", asleep=UNTIL_COMPLETED),)
    result = arena.play(Scenario("late clearer", LAYOUT, lease=0.7, replay=True, inside=(zombie,)))
    assert result.problems == []
    assert result.struck["worker SIGSTOP, then SIGCONT at a named step"] == 1
