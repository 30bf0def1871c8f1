"""The short form of the campaign: seeds that meet every kind of fault, target and mode, and are soon over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system.faults import report
from tests.system.faults.arena import Arena
from tests.system.faults.schedule import campaign

# Of 601 to 1,000: together with one of each cell they meet each fault, each step, and each target and mode.
SEEDS = (621, 805, 832, 849, 883, 895, 923)
CELL_SEEDS = (1005, 1006, 1008, 1009, 1010, 1012, 1019)
# Those that meet more of the faults at more of the steps, for the seconds they take; and one that waits for the server.
MORE = (
    *(690, 784, 887, 898, 904, 907, 912, 921, 926, 927, 960, 978),
    *(603, 724, 728, 850, 856, 868, 869, 870, 875, 881, 891, 892, 896, 897, 899, 902, 903, 908, 909, 910),
    *(911, 913, 914, 916, 918, 919, 922, 928, 932, 934, 944, 947, 959, 971, 981, 987, 990, 991, 996, 997, 999),
    *(1015, 1017),
)


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """One server for all of them."""
    with Arena(tmp_path_factory.mktemp("arena")) as arena:
        yield arena


@pytest.mark.parametrize("seed", [*SEEDS, *CELL_SEEDS, *(pytest.param(seed, marks=pytest.mark.long) for seed in MORE)])
def test_every_row_is_there_once_whatever_was_killed(arena: Arena, seed: int) -> None:
    """Nothing lost, doubled, changed outside or left over; the log replays, and what the lights say is so."""
    result = arena.play(campaign(seed))
    assert not result.problems, report.story(vars(result))
