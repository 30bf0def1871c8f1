"""That the campaign can fail: with one of the product's safeties switched off, it finds rows doubled, or no end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.system.faults.arena import Arena
from tests.system.faults.schedule import LOOKED, UNTIL_COMPLETED, Inside, Outside, Scenario
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
    # Both have looked at the window before either has published; the first freezes at that moment, but not for so
    # long that it looks again.
    "fence": Scenario(
        "no fence",
        LAYOUT,
        rivals="strangers",
        lease=30,
        inside=((Inside("stop", step=LOOKED, asleep=5, until="moved 1"),),),
        off="fence",
    ),
    # One folder has filled the window when the other one, which has planned long ago, begins.
    "rows": Scenario("no look at rows", LAYOUT, rivals="folders", off="rows"),
    # The SELECT takes an hour before its chunk as well: so each hour at a bound is there twice.
    "trial": Scenario(
        "no trial",
        replace(LAYOUT, chunks=2, bounds="ts >= {chunk_from:DateTime} - 3600 AND ts < {chunk_to:DateTime}"),
        off="trial",
    ),
    # A part of what was staged is gone before it is proved.
    "proof": Scenario(
        "no proof",
        LAYOUT,
        inside=((Inside("stop", step="staged", asleep=0.5),),),
        outside=(Outside("lost", step="staged"),),
        off="proof",
    ),
}


# What the campaign says. Where the look at existing rows refuses what would be doubled, the run never completes.
FOUND = {
    **dict.fromkeys(("fence", "rows", "trial"), frozenset({"doubled"})),
    **dict.fromkeys(("seal", "reconcile", "moved"), frozenset({"hung"})),
    # Of two claims of one attempt, both are executed, or the second one has made the log unreadable before that.
    "claim": {"twice", "log"},
    "proof": {"lost"},
}


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """One server for all of them."""
    with Arena(tmp_path_factory.mktemp("arena")) as arena:
        yield arena


# Those whose attack waits longest, until a run that never ends is given up, are in the long run.
_LONG = {"seal", "reconcile", "moved", "fence"}


@pytest.mark.parametrize("off", [pytest.param(off, marks=[pytest.mark.long] * (off in _LONG)) for off in ATTACKS])
def test_the_campaign_sees_that_a_safety_is_off(arena: Arena, off: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same attack is survived with the safety on, and is not with it off."""
    attack = ATTACKS[off]
    assert arena.play(replace(attack, off="")).problems == []
    # What does not end by now never would.
    monkeypatch.setattr(arena, "patience", 15)
    problems = arena.play(attack).problems
    assert FOUND[off] & {problem.partition(":")[0] for problem in problems}, problems
