"""That the campaign can fail: with one of the product's safeties switched off, it finds rows doubled, or no end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.system.faults.arena import Arena
from tests.system.faults.schedule import UNTIL_COMPLETED, Inside, Outside, Scenario
from tests.system.faults.tables import Layout

# One chunk of two partitions, whose halves can part company.
LAYOUT = Layout("MergeTree", "stage", partition=3, hours=6, chunks=1, rows=600, slow=50, merges=False)
KILLED_MIDWAY = ((Inside("kill", step="moved 1"),),)
ZOMBIE = ((Inside("stop", step="claim", asleep=UNTIL_COMPLETED, until="moved 1"),),)

ATTACKS = {
    # The second worker claims what the frozen first one holds, and nobody refuses the word of the first when it wakes.
    "claim": Scenario("no claim check", LAYOUT, lease=0.7, inside=ZOMBIE, off="claim"),
    # Half of the chunk is in the target when its worker dies; without a sealed table it is staged and moved again.
    "seal": Scenario("no seal", LAYOUT, inside=KILLED_MIDWAY, off="seal"),
    # The second half waits in a sealed table that nobody looks for.
    "reconcile": Scenario("no reconcile", LAYOUT, retries=2, inside=KILLED_MIDWAY, off="reconcile"),
    # The server died inside the move: what had arrived is moved once more.
    "moved": Scenario(
        "no moved check",
        LAYOUT,
        blocks=100,
        inside=((Inside("kill", step="sealed"),),),
        outside=(Outside("torn", step="sealed", how="partition"),),
        off="moved",
    ),
}


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """One server for all of them."""
    with Arena(tmp_path_factory.mktemp("arena")) as arena:
        yield arena


@pytest.mark.parametrize("off", ATTACKS)
def test_the_campaign_sees_that_a_safety_is_off(arena: Arena, off: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same attack is survived with the safety on, and is not with it off."""
    attack = ATTACKS[off]
    assert arena.play(replace(attack, off="")).problems == []
    # What does not end by now never would.
    monkeypatch.setattr(arena, "patience", 15)
    assert arena.play(attack).problems != []
