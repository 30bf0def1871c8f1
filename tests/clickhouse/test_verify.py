"""``verify``: a change of the source or of the target after a backfill is found and placed."""

from __future__ import annotations

import io

import pytest

from airflow_provider_backfill.cli.text import show_verify
from airflow_provider_backfill.commands.verify import verify_plan
from airflow_provider_backfill.errors import RequestError
from tests.clickhouse.lab import Lab


@pytest.fixture
def filled(lab: Lab) -> tuple[Lab, str]:
    """Five days copied."""
    lab.sql(
        "CREATE TABLE src (id UInt64, ts DateTime('UTC')) ENGINE = MergeTree PARTITION BY toDate(ts) ORDER BY ts",
        "INSERT INTO src SELECT number, toDateTime('2025-01-01', 'UTC') + number * 60 FROM numbers(7200)",
        "CREATE TABLE dst AS src",
    )
    plan = lab.plan("dst", "2025-01-01", "2025-01-06", 24, source="src")
    with pytest.raises(RequestError, match="nothing to verify"):
        verify_plan(lab.session, plan["planId"])
    lab.run(plan)
    return lab, plan["planId"]


def test_nothing_changed(filled: tuple[Lab, str]) -> None:
    """What was written is what source and target hold."""
    lab, plan_id = filled
    payload = verify_plan(lab.session, plan_id)
    assert (payload["ok"], payload["chunksVerified"], payload["targetContent"]["matches"]) == (True, 5, True)


def test_a_late_row_is_placed(filled: tuple[Lab, str]) -> None:
    """The chunk whose source has changed is named, with both counts."""
    lab, plan_id = filled
    lab.sql("INSERT INTO src VALUES (1000000, '2025-01-03 12:00:00')")
    payload = verify_plan(lab.session, plan_id)
    (chunk,) = payload["changedChunks"]
    assert (chunk["from"], chunk["written"]["rows"], chunk["sourceNow"]["rows"]) == (
        "2025-01-03T00:00:00.000Z",
        1440,
        1441,
    )
    assert (payload["ok"], payload["targetContent"]["matches"]) == (False, True)


def test_rows_exchanged_in_the_target_are_found(filled: tuple[Lab, str]) -> None:
    """One row lost and one doubled leave the count as it was; the checksum tells."""
    lab, plan_id = filled
    lab.sql("ALTER TABLE dst DELETE WHERE id = 5 SETTINGS mutations_sync = 2")
    lab.sql("INSERT INTO dst SELECT * FROM src WHERE id = 6")
    target = verify_plan(lab.session, plan_id)["targetContent"]
    assert (target["found"]["rows"], target["matches"]) == (7200, False)


def test_a_changed_value_is_found(filled: tuple[Lab, str]) -> None:
    """The log sums keys, which are still the same; whole rows of source and target are not."""
    lab, plan_id = filled
    lab.sql("ALTER TABLE dst UPDATE id = id + 1000000 WHERE id = 5 SETTINGS mutations_sync = 2")
    payload = verify_plan(lab.session, plan_id)
    assert (payload["ok"], payload["changedChunks"], payload["targetContent"]["matches"]) == (False, [], True)
    assert (payload["wholeRows"]["match"], payload["wholeRows"]["source"]["rows"]) == (False, 7200)


@pytest.mark.parametrize(
    ("family", "select", "compared", "verdict"),
    [
        ("MergeTree", "SELECT toStartOfDay(ts) AS ts, count() AS n FROM {} GROUP BY ts", ["target"], "verified"),
        ("ReplacingMergeTree", "SELECT ts, id AS n FROM {}", ["source"], "source verified"),
        (
            "SummingMergeTree",
            "SELECT toStartOfDay(ts) AS ts, count() AS n FROM {} GROUP BY ts",
            [],
            "nothing could be compared",
        ),
    ],
)
def test_what_cannot_be_compared_is_not_called_verified(
    filled: tuple[Lab, str], family: str, select: str, compared: list[str], verdict: str
) -> None:
    """Rows that are merged by their key cannot be counted again; that there are none of them is seen all the same."""
    lab, _ = filled
    lab.sql(f"CREATE TABLE merged (ts DateTime('UTC'), n UInt64) ENGINE = {family} ORDER BY ts")
    plan = lab.plan("merged", "2025-01-01", "2025-01-06", 24, select=select.format(lab.table("src")))
    lab.run(plan)
    payload = verify_plan(lab.session, plan["planId"])
    assert (payload["compared"], payload["ok"]) == (compared, bool(compared))
    assert f": {verdict} (5 of 5 chunks)." in show_verify(payload, io.StringIO())
    lab.sql("TRUNCATE TABLE merged")
    payload = verify_plan(lab.session, plan["planId"])
    assert (payload["ok"], payload["targetContent"]["found"]["rows"]) == (False, 0)
    assert ": differs (5 of 5 chunks)." in show_verify(payload, io.StringIO())
