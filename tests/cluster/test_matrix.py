"""One cell of the matrix with every run of the tests; ``python -m tests.cluster.matrix`` plays all of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests import command_line
from tests.cluster.field import Kind
from tests.cluster.matrix import Scenario, play
from tests.cluster.nodes import Cluster

_CELLS = [
    Scenario(Kind.DEFAULT, "SummingMergeTree(amount)", "stage", "worker and its replica killed", 1),
]
_MORE = [
    Scenario(Kind.EXPLICIT, "ReplacingMergeTree", "stage", "two folders", 3),
    Scenario(Kind.DATABASE, "MergeTree", "replace", "replica killed and back", 2),
    Scenario(Kind.KEEPER, "MergeTree", "stage", "fetches stopped", 4),
]


@pytest.mark.parametrize(
    "scenario", [*_CELLS, *(pytest.param(scenario, marks=pytest.mark.long) for scenario in _MORE)], ids=str
)
def test_each_row_is_there_once_whatever_dies(
    pair: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenario: Scenario
) -> None:
    monkeypatch.setattr(command_line, "PROGRAM", [sys.executable, "-m", "tests.cluster.impatient"])
    assert play(pair, scenario, tmp_path, [*_CELLS, *_MORE].index(scenario)) == ""
