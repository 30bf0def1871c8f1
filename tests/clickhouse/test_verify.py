"""``verify`` compares the target with the SELECT, on each engine; each check for equality has a check that fails."""

from __future__ import annotations

import io

import pytest

from airflow_provider_backfill.cli.text import show_verify
from airflow_provider_backfill.commands.verify import verify_plan
from airflow_provider_backfill.core.plan import WriteMode
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
    """Source and target have the written rows."""
    lab, plan_id = filled
    payload = verify_plan(lab.session, plan_id)
    assert (payload["verdict"], payload["exitCode"], payload["chunksVerified"]) == ("equal", 0, 5)
    assert ": verified (5 of 5 chunks)." in show_verify(payload, io.StringIO())


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
    assert payload["exitCode"] == 1
    assert [row["row"]["id"] for row in payload["differences"]] == ["1000000"]


@pytest.mark.parametrize("number", [1, 10])
def test_rows_exchanged_in_the_target_are_found(filled: tuple[Lab, str], number: int) -> None:
    """Some lost and some doubled, the count stays the same. Rows of both sides are shown, not the first six alone."""
    lab, plan_id = filled
    lab.sql(f"ALTER TABLE dst DELETE WHERE id >= 5 AND id < {5 + number} SETTINGS mutations_sync = 2")
    lab.sql(f"INSERT INTO dst SELECT * FROM src WHERE id >= 100 AND id < {100 + number}")
    payload = verify_plan(lab.session, plan_id)
    assert (payload["exitCode"], payload["rowsInTarget"]) == (1, 7200)
    shown = range(min(number, 3))
    assert {(row["givenBy"], row["row"]["id"]) for row in payload["differences"]} == {
        *(("the source", str(5 + place)) for place in shown),
        *(("the target", str(100 + place)) for place in shown),
    }


def test_a_changed_value_is_found(filled: tuple[Lab, str]) -> None:
    """The log sums keys, which are still the same; whole rows of source and target are not."""
    lab, plan_id = filled
    lab.sql("ALTER TABLE dst UPDATE id = id + 1000000 WHERE id = 5 SETTINGS mutations_sync = 2")
    payload = verify_plan(lab.session, plan_id)
    assert payload["exitCode"] == 1
    assert [chunk["from"] for chunk in payload["changedChunks"]] == ["2025-01-01T00:00:00.000Z"]


COLUMNS = "ts DateTime('UTC'), k UInt8, "
EVENTS = (
    (
        "CREATE TABLE events (id UInt64, ts DateTime('UTC'), k UInt8, v Int64, f Float64, ver UInt32, sign Int8)"
        " ENGINE = MergeTree ORDER BY (ts, id, ver, -sign)"
    ),
    (
        "INSERT INTO events SELECT number, toDateTime('2025-01-01', 'UTC') + number * 20, number % 5, number % 17,"
        " number / 7, 1, 1 FROM numbers(8640)"
    ),
    # The last state of some keys, and the rows that cancel the states before.
    "INSERT INTO events SELECT id, ts, k, v, f, 1, -1 FROM events WHERE id % 10 = 0",
    "INSERT INTO events SELECT id, ts, k, v + 100, f, 2, 1 FROM events WHERE id % 10 = 0 AND sign = 1",
    "OPTIMIZE TABLE events FINAL",
)
SUMS = "SELECT toStartOfHour(ts) AS ts, k, sum(v) AS v, sum(f) AS f, count() AS n FROM {} GROUP BY ts, k"
STATES = (
    "SELECT toStartOfHour(ts) AS ts, k, sumState(v) AS sv, uniqState(id) AS u, avgState(f) AS a, max(v) AS m"
    " FROM {} GROUP BY ts, k"
)
ROWS = "SELECT ts, k, id, v, ver, sign FROM {}"
CASES = {
    "MergeTree": ("MergeTree", "ORDER BY (ts, k)", "v Int64, f Float64, n UInt64", SUMS),
    "Summing": ("SummingMergeTree", "ORDER BY (ts, k)", "v Int64, f Float64, n UInt64", SUMS),
    "Aggregating": (
        "AggregatingMergeTree",
        "ORDER BY (ts, k)",
        (
            "sv AggregateFunction(sum, Int64), u AggregateFunction(uniq, UInt64), a AggregateFunction(avg, Float64),"
            " m SimpleAggregateFunction(max, Int64)"
        ),
        STATES,
    ),
    "Replacing": (
        "ReplacingMergeTree(ver)",
        "ORDER BY (ts, id)",
        "id UInt64, v Int64, ver UInt32, sign Int8",
        ROWS + " WHERE sign = 1",
    ),
    "Collapsing": ("CollapsingMergeTree(sign)", "ORDER BY (ts, id)", "id UInt64, v Int64, ver UInt32, sign Int8", ROWS),
    "VersionedCollapsing": (
        "VersionedCollapsingMergeTree(sign, ver)",
        "ORDER BY (ts, id)",
        "id UInt64, v Int64, ver UInt32, sign Int8",
        ROWS,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_engine_after_a_run_after_a_merge_and_with_a_row_spoilt(lab: Lab, case: str) -> None:
    """0, 0, and 1 when a row was lost, doubled under another value, or has another value."""
    engine, order, columns, select = CASES[case]
    lab.sql(*EVENTS, f"CREATE TABLE merged ({COLUMNS}{columns}) ENGINE = {engine} {order}")
    plan = lab.plan("merged", "2025-01-01", "2025-01-03", 6, select=select.format(lab.table("events")))
    assert (plan["verify"]["caveat"] != "") == (case == "Collapsing")
    lab.run(plan)
    assert verify_plan(lab.session, plan["planId"])["exitCode"] == 0
    lab.sql("OPTIMIZE TABLE merged FINAL")
    payload = verify_plan(lab.session, plan["planId"])
    assert (payload["exitCode"], payload["verdict"], payload["differences"]) == (0, "equal", []), payload
    key = "toStartOfHour(ts) = '2025-01-02 03:00:00' AND k = 2"
    names = lab.value(
        "SELECT groupArray(name) FROM system.columns WHERE database = currentDatabase() AND table = 'merged'"
    )
    # A changed value: the row is inserted again with a value that the engine cannot merge away unnoticed.
    spoilt = "INSERT INTO merged SELECT {} FROM (SELECT * FROM merged FINAL WHERE {} LIMIT 1)".format(
        ", ".join({"v": "v + 1000", "ver": "ver + 1"}.get(name, name) for name in names), key
    )
    if case == "Aggregating":
        spoilt = f"INSERT INTO merged SELECT * FROM merged WHERE {key}"
    if case == "MergeTree":
        spoilt = spoilt.replace(" FINAL", "")
    lab.sql(spoilt)
    payload = verify_plan(lab.session, plan["planId"])
    assert (payload["exitCode"], payload["verdict"]) == (1, "differs")
    assert payload["differences"]
    assert [chunk["from"] for chunk in payload["changedChunks"]] == ["2025-01-02T00:00:00.000Z"], payload
    assert "only in the target" in show_verify(payload, io.StringIO())
    # A lost one.
    lab.sql(f"ALTER TABLE merged DELETE WHERE {key} SETTINGS mutations_sync = 2")
    payload = verify_plan(lab.session, plan["planId"])
    assert payload["exitCode"] == 1
    assert "only in the source" in show_verify(payload, io.StringIO())
    assert lab.leftovers() == []


COLLAPSING = (
    "CREATE TABLE merged (ts DateTime('UTC'), id UInt64, v Int64, sign Int8) ENGINE = CollapsingMergeTree(sign)"
)
STATES_OF = "SELECT ts, id, v, sign FROM {}"


def test_rows_that_came_twice_are_found_before_they_are_merged(lab: Lab) -> None:
    """Merged, both are one row; until then `sum(v * sign)` counts them twice."""
    lab.sql(*EVENTS, f"{COLLAPSING} ORDER BY (ts, id)", "SYSTEM STOP MERGES merged")
    plan = lab.plan("merged", "2025-01-01", "2025-01-03", 6, select=STATES_OF.format(lab.table("events")))
    lab.run(plan)
    assert verify_plan(lab.session, plan["planId"])["exitCode"] == 0
    lab.sql(
        "INSERT INTO merged SELECT * FROM merged WHERE id = 7", "INSERT INTO merged SELECT * FROM merged WHERE id = 9"
    )
    payload = verify_plan(lab.session, plan["planId"])
    assert (payload["exitCode"], payload["verdict"], payload["why"]) == (1, "differs", "")
    assert [(row["givenBy"], row["row"]["sum(sign)"]) for row in payload["differences"]] == [
        ("the target", "2"),
        ("the source", "1"),
    ] * 2
    assert [chunk["from"] for chunk in payload["changedChunks"]] == ["2025-01-01T00:00:00.000Z"]
    assert "sum(sign) = 2" in show_verify(payload, io.StringIO())


def test_a_source_with_several_states_of_a_key_is_no_difference(lab: Lab) -> None:
    """The signs prove nothing: the number of remaining states depends on merges."""
    twice = f"{STATES_OF} UNION ALL {STATES_OF}".format(lab.table("events"), lab.table("events"))
    lab.sql(*EVENTS, f"{COLLAPSING} ORDER BY (ts, id)")
    plan = lab.plan("merged", "2025-01-01", "2025-01-03", 6, select=f"SELECT * FROM ({twice}) WHERE id % 10 != 0")
    lab.run(plan)
    for _ in range(2):
        assert verify_plan(lab.session, plan["planId"])["verdict"] == "equal"
        lab.sql("OPTIMIZE TABLE merged FINAL")


def test_a_state_that_was_cancelled_later_is_no_difference(lab: Lab) -> None:
    """The key has no time: rows that arrived after the window cancel rows of the window, and nothing is lost."""
    lab.sql(*EVENTS, f"{COLLAPSING} ORDER BY id")
    select = STATES_OF.format(lab.table("events")) + " WHERE id % 10 != 0"
    plan = lab.plan("merged", "2025-01-01", "2025-01-03", 6, select=select)
    lab.run(plan)
    lab.sql("INSERT INTO merged SELECT '2025-02-01', id, v, -1 FROM merged WHERE id = 7", "OPTIMIZE TABLE merged FINAL")
    payload = verify_plan(lab.session, plan["planId"])
    assert (payload["exitCode"], payload["why"]) == (3, plan["verify"]["caveat"])


def test_what_cannot_be_told_is_said_beforehand(lab: Lab) -> None:
    """Rows of another window may take the place of the window's own: equal can be said, different cannot."""
    lab.sql(
        *EVENTS, "CREATE TABLE last (id UInt64, ts DateTime('UTC'), v Int64) ENGINE = ReplacingMergeTree ORDER BY id"
    )
    select = f"SELECT id, ts, v FROM {lab.table('events')} WHERE sign = 1 AND ver = 1"
    plan = lab.plan("last", "2025-01-01", "2025-01-02", 6, select=select)
    assert "sorting key has no time" in plan["verify"]["caveat"]
    lab.run(plan)
    assert verify_plan(lab.session, plan["planId"])["exitCode"] == 0
    lab.sql("INSERT INTO last VALUES (5, '2025-02-01 00:00:00', 1)", "OPTIMIZE TABLE last FINAL")
    payload = verify_plan(lab.session, plan["planId"])
    assert (payload["exitCode"], payload["verdict"], payload["why"]) == (3, "inconclusive", plan["verify"]["caveat"])


def test_rows_chosen_by_chance_are_no_difference(lab: Lab) -> None:
    """The SELECT gives other rows each time, which is not an error."""
    lab.sql(*EVENTS, "CREATE TABLE some (id UInt64, ts DateTime('UTC')) ENGINE = MergeTree ORDER BY ts")
    select = f"SELECT id, ts FROM {lab.table('events')} WHERE rand() % 2 = 0"
    plan = lab.plan("some", "2025-01-01", "2025-01-02", 6, select=select)
    assert "chooses rows by rand" in plan["verify"]["caveat"]
    lab.run(plan)
    assert verify_plan(lab.session, plan["planId"])["exitCode"] == 3


def test_one_value_of_several_that_a_target_keeps_is_no_difference(lab: Lab) -> None:
    """The key is an expression, so any of the times in an hour stays; a changed sum is found all the same."""
    lab.sql(
        *EVENTS,
        "CREATE TABLE sums (ts DateTime('UTC'), v Int64) ENGINE = SummingMergeTree ORDER BY toStartOfHour(ts)",
    )
    plan = lab.plan("sums", "2025-01-01", "2025-01-02", 6, select=f"SELECT ts, v FROM {lab.table('events')}")
    assert plan["verify"]["notCompared"] == ["ts"]
    lab.run(plan)
    assert verify_plan(lab.session, plan["planId"])["exitCode"] == 0
    lab.sql("OPTIMIZE TABLE sums FINAL")
    assert verify_plan(lab.session, plan["planId"])["exitCode"] == 0
    lab.sql("INSERT INTO sums VALUES ('2025-01-01 05:00:00', 1)")
    assert verify_plan(lab.session, plan["planId"])["exitCode"] == 1


def test_a_value_that_the_target_gives_anew_is_not_compared(lab: Lab) -> None:
    lab.sql(
        *EVENTS,
        "CREATE TABLE ids (id UInt64, ts DateTime('UTC'), own UUID DEFAULT generateUUIDv4())"
        " ENGINE = MergeTree ORDER BY ts",
    )
    plan = lab.plan("ids", "2025-01-01", "2025-01-02", 6, select=f"SELECT id, ts FROM {lab.table('events')}")
    assert plan["verify"]["notCompared"] == ["own"]
    lab.run(plan)
    assert verify_plan(lab.session, plan["planId"])["exitCode"] == 0


def test_an_unfinished_plan_is_not_verified(lab: Lab) -> None:
    """What is done is right, and that is not enough."""
    lab.sql(
        *EVENTS,
        f"CREATE TABLE merged ({COLUMNS}v Int64, f Float64, n UInt64) ENGINE = SummingMergeTree ORDER BY (ts, k)",
    )
    lab.options = {**lab.options, "defaults": {"retryDelayMs": 1, "maxRetriesPerChunk": 1}}
    broken = f"SELECT * FROM ({SUMS.format(lab.table('events'))}) WHERE NOT throwIf(ts = '2025-01-02 03:00:00')"
    plan = lab.plan("merged", "2025-01-01", "2025-01-03", 6, select=broken)
    lab.run(plan)
    payload = verify_plan(lab.session, plan["planId"])
    assert (payload["exitCode"], payload["verdict"]) == (1, "equal")
    assert "(7 of 8 chunks verified; 1 is not done)" in show_verify(payload, io.StringIO())


@pytest.mark.parametrize("mode", [None, WriteMode.REPLACE])
def test_rows_whose_time_is_moved_are_no_difference(http_lab: Lab, mode: WriteMode | None) -> None:
    """A copy may call an hour by its end: part of the rows then lies outside of the window, in the target's time."""
    http_lab.sql(
        "CREATE TABLE src (ts DateTime('UTC'), v UInt8) ENGINE = MergeTree ORDER BY ts",
        "INSERT INTO src SELECT toDateTime('2025-01-01', 'UTC') + number * 3600, number FROM numbers(48)",
        "CREATE TABLE dst (t DateTime('UTC'), v UInt8) ENGINE = MergeTree PARTITION BY toDate(t) ORDER BY t",
    )
    select = f"SELECT ts + INTERVAL 5 HOUR AS t, v FROM {http_lab.engine.database}.src"
    plan = http_lab.fill("dst", "2025-01-01", "2025-01-03", 24, select=select, write_mode=mode)
    assert http_lab.value("SELECT count() FROM dst") == 48
    assert verify_plan(http_lab.session, plan["planId"])["verdict"] == "equal"


def test_a_column_that_is_only_passed_through(http_lab: Lab) -> None:
    """An EPHEMERAL column is in no table, so there is nothing of it to compare."""
    http_lab.sql(
        "CREATE TABLE src (ts DateTime('UTC'), v UInt8) ENGINE = MergeTree ORDER BY ts",
        "INSERT INTO src SELECT toDateTime('2025-01-01', 'UTC') + number * 3600, number FROM numbers(48)",
        "CREATE TABLE dst (ts DateTime('UTC'), raw UInt8 EPHEMERAL, v UInt8 DEFAULT raw + 1)"
        " ENGINE = MergeTree ORDER BY ts",
    )
    select = f"SELECT ts, v AS raw FROM {http_lab.engine.database}.src"
    plan = http_lab.fill("dst", "2025-01-01", "2025-01-03", 24, select=select)
    assert verify_plan(http_lab.session, plan["planId"])["verdict"] == "equal"
