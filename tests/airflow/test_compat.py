"""Replacements for features that older versions of Airflow lack; tested on the newest version, which has them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jinja2 import Environment, StrictUndefined, UndefinedError

from airflow_provider_backfill.airflow_support import compat, links
from airflow_provider_backfill.airflow_support.compat import airflow_is, alias_extra, task_state
from airflow_provider_backfill.airflow_support.lineage import check_partitions, partition_keys
from airflow_provider_backfill.airflow_support.session import undefined_named
from airflow_provider_backfill.core.instants import parse_instant
from airflow_provider_backfill.errors import RequestError
from airflow_provider_backfill.state.posix import FileBackend
from airflow_provider_backfill.state.store import StateStore
from airflow_provider_backfill.task_group import BackfillTaskGroup


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets Airflow be of another version."""

    def be(*version: int) -> None:
        monkeypatch.setattr(compat, "_VERSION", version)

    return be


def state_of(tmp_path: Path, **other: Any) -> compat.TaskState:
    """The state of a task instance where Airflow keeps none."""
    ti = {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": 3, "try_number": 2, **other}
    context: Any = {"ti": SimpleNamespace(**ti)}
    return task_state(context, StateStore(FileBackend(tmp_path)))


def test_a_task_remembers_over_its_tries(tmp_path: Path) -> None:
    first = state_of(tmp_path, try_number=1)
    first.set("plan", "one")
    first.set("clear", "0")
    assert state_of(tmp_path).get("plan") == "one"
    assert state_of(tmp_path).get("clear") == "0"


def test_a_task_remembers_nothing_of_another_one_nor_of_an_earlier_run_of_its_name(tmp_path: Path) -> None:
    """A deleted DAG run leaves its file; a new run with the same name must not use it."""
    state_of(tmp_path, try_number=1).set("clear", "0")
    for other in ({"map_index": 4}, {"run_id": "s"}, {"task_id": "u"}, {"dag_id": "e"}):
        assert state_of(tmp_path, **other).get("clear") is None
    anew = state_of(tmp_path, try_number=1)
    assert anew.get("clear") is None
    anew.set("plan", "two")
    assert state_of(tmp_path).get("clear") is None


def test_the_version_is_compared_as_numbers(on: Any) -> None:
    on(3, 10)
    assert airflow_is(3, 9)
    assert not airflow_is(3, 11)


def test_an_alias_takes_no_lists_on_the_oldest(on: Any) -> None:
    extra = {"planIds": ["a", "b"], "rowsWritten": 3}
    assert alias_extra(extra) == extra
    on(3, 0)
    assert alias_extra(extra) == {"planIds": "a,b", "rowsWritten": 3}


def test_the_link_leads_to_the_page_alone_where_airflow_has_no_place_for_it(
    on: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/team")
    page = "/clickhouse-backfills/plans/0123456789abcdef"
    assert links.plan_link("0123456789abcdef") == (
        f"https://airflow.example/team/plugin/clickhouse-backfills/team{page}"
    )
    on(3, 0)
    assert links.plan_link("0123456789abcdef") == f"https://airflow.example/team{page}"


def test_what_a_version_lacks_is_refused_by_name(on: Any) -> None:
    from airflow.sdk import DAG

    on(3, 0)
    with DAG("old", schedule=None), pytest.raises(RequestError, match="which Airflow can do since"):
        BackfillTaskGroup(target="a.b", approve=True)
    on(3, 2)
    with pytest.raises(RequestError, match="which Airflow has since"):
        check_partitions("%Y-%m-%d", [])


def test_a_run_without_a_logical_date_is_told_the_way_out() -> None:
    """Jinja's own words name the missing value and nothing else, and would be repeated with each retry."""

    def rendered(template: str, logical_date: object) -> None:
        context: Any = {"dag_run": SimpleNamespace(logical_date=logical_date)}
        with undefined_named(context):
            Environment(undefined=StrictUndefined, autoescape=True).from_string(template).render()

    with pytest.raises(compat.AirflowFailException, match=r"'data_interval_start' is undefined.*backfill_params"):
        rendered("{{ data_interval_start }}", None)
    # With a date, it is a mistake in the template.
    with pytest.raises(UndefinedError):
        rendered("{{ data_interval_stat }}", datetime(2025, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("start", "end", "key_format", "expected"),
    [
        ("2025-01-01", "2025-01-03", "%Y-%m-%d", ["2025-01-01", "2025-01-02"]),
        ("2025-01-01T23:30", "2025-01-02T00:30", "%Y-%m-%d", ["2025-01-01", "2025-01-02"]),
        ("2025-01-31T22:00", "2025-02-01T01:00", "%Y-%m", ["2025-01", "2025-02"]),
        ("2025-01-01T22:15", "2025-01-02T00:00", "%dT%H", ["01T22", "01T23"]),
    ],
)
def test_every_partition_that_a_window_touches_has_its_key(
    start: str, end: str, key_format: str, expected: list[str]
) -> None:
    assert partition_keys(parse_instant(start), parse_instant(end), key_format) == expected
