"""Fixtures of the cluster tier: clusters that the tests of this folder share, and a fresh database on all nodes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.balancer import Balancer
from tests.cluster.field import Field, Kind
from tests.cluster.nodes import Cluster, why_not_here

_numbers = itertools.count(1)


@pytest.fixture(scope="package")
def _pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := why_not_here():
        pytest.skip(reason)
    with Cluster(tmp_path_factory.mktemp("pair")) as cluster:
        yield cluster


@pytest.fixture(scope="package")
def _square(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if reason := why_not_here():
        pytest.skip(reason)
    with Cluster(tmp_path_factory.mktemp("square"), shards=2) as cluster:
        yield cluster


@pytest.fixture
def pair(_pair: Cluster) -> Cluster:
    """One shard with two replicas; what a test left dead is alive again."""
    return _pair.start()


@pytest.fixture
def square(_square: Cluster) -> Cluster:
    """Two shards with two replicas each; what a test left dead is alive again."""
    return _square.start()


# ClickHouse's own default and its own database engine; the others differ in the path alone.
_USUAL = (Kind.DEFAULT, Kind.DATABASE)


@pytest.fixture(params=[pytest.param(each, marks=() if each in _USUAL else pytest.mark.long) for each in Kind])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Every way in which tables are replicated; two of them with every run of the tests."""
    chosen: Kind = request.param
    return chosen


@pytest.fixture
def field(pair: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Field]:
    """A database on both replicas, a balancer in front of them, and an empty state folder."""
    with Balancer(pair.nodes) as balancer:
        made = Field(pair, balancer, f"test_{next(_numbers)}", tmp_path / "state", capsys)
        yield made
        made.clear()


@pytest.fixture
def simple(field: Field) -> Field:
    """A source with rows and an empty target, on ClickHouse's own default path."""
    field.kind = Kind.DEFAULT
    field.fill_source(rows=2_000)
    field.create("target")
    return field
