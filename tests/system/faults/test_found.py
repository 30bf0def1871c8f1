"""What the campaign has found: each bug as the shortest scenario that shows it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.faults.arena import Arena
from tests.system.faults.schedule import LOOKED, UNTIL_COMPLETED, Inside, Outside, Scenario
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


def test_a_worker_that_wakes_late_publishes_nothing_of_another_state_folder(arena: Arena) -> None:
    """
    A worker falls asleep between two partitions; another one finishes its chunk, and a second state folder is refused.

    What that folder had sealed lay under the same name, and was moved into the target when the first one woke up.
    """
    zombie = (Inside("stop", step="moved 1", asleep=UNTIL_COMPLETED),)
    result = arena.play(Scenario("late mover", LAYOUT, rivals="folders", lease=0.7, inside=(zombie,)))
    assert result.problems == []
    assert result.struck["worker SIGSTOP, then SIGCONT at a named step"] == 1


def test_what_a_killed_worker_had_sealed_goes_when_its_chunk_is_refused(arena: Arena) -> None:
    """
    A worker dies after the seal, a second folder fills the window, and the first plan is refused and waived.

    Its sealed table had published nothing, and was kept for ever; the doctor did not name it.
    """
    killed = (Inside("kill", step="sealed"),)
    result = arena.play(Scenario("sealed and refused", LAYOUT, rivals="strangers", lease=0.7, inside=(killed,)))
    assert result.problems == []
    assert result.refused
    assert result.struck == {"worker SIGKILL at a named step": 1}


def test_a_worker_that_wakes_late_looks_again_at_the_rows_of_others(arena: Arena) -> None:
    """
    A worker falls asleep between its look at the window and its first move, and a second folder fills the window.

    It waited until that run was gone, took the window, and published what it had: every row was there twice.
    """
    zombie = (Inside("stop", step=LOOKED, asleep=UNTIL_COMPLETED, until="moved 1"),)
    result = arena.play(Scenario("late publisher", LAYOUT, rivals="strangers", lease=0.7, inside=(zombie,)))
    assert result.problems == []
    assert result.struck["worker SIGSTOP, then SIGCONT at a named step"] == 1


@pytest.mark.parametrize("how", ["partition", "part"])
def test_what_had_arrived_when_the_server_died_is_not_moved_again(arena: Arena, how: str) -> None:
    """The server died when a partition, or one of its parts, was in the target and still in the sealed table."""
    torn = Outside("torn", step="sealed", how=how)
    result = arena.play(
        Scenario("torn move", LAYOUT, blocks=100, inside=((Inside("kill", step="sealed"),),), outside=(torn,))
    )
    assert result.problems == []
    assert len(result.struck) == 2


def test_a_chunk_with_the_content_of_another_is_not_taken_for_it(arena: Arena) -> None:
    """
    Chunks of a steady source can be equal to the last bit once their rows are rounded down to the day.

    The second one's worker died after the seal; what the first one had moved passed for its own
    rows, and these were dropped.
    """
    layout = Layout(
        "SummingMergeTree by day", "stage", 24, hours=6, chunks=4, rows=0, slow=0, merges=False, steady=True
    )
    result = arena.play(
        Scenario("equal chunks", layout, blocks=10000, inside=((Inside("kill", step="sealed", nth=2),),))
    )
    assert result.problems == []
    assert result.struck == {"worker SIGKILL at a named step": 1}


def test_a_dead_worker_whose_clock_was_ahead_blocks_nobody(arena: Arena) -> None:
    """
    Its last sign of life lay in the future, so its lease would not have run out for an hour.

    Others waited that long for its chunk. The second one is started once the first is stopped, so that the
    first has a claim, however busy the machine is.
    """
    ahead = (Inside("clock", ahead=3600), Inside("stop", step="claim", asleep=UNTIL_COMPLETED))
    result = arena.play(Scenario("clock ahead", LAYOUT, lease=0.7, inside=(ahead,)))
    assert result.problems == []
    assert result.struck["worker SIGSTOP, then SIGCONT at a named step"] == 1
