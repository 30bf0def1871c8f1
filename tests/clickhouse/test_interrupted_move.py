"""A server that died while a chunk was moved into the target, and has forgotten the parts that had arrived."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import clickhouse_connect
import pytest

from airflow_provider_backfill.errors import ServerUnreachableError
from tests.clickhouse.lab import FAST, Lab, once
from tests.conftest import Engine
from tests.server import ClickHouseServer

GONE = ServerUnreachableError("The server went away.")


class Case(NamedTuple):
    """A target, and the SELECT that fills it."""

    columns: str
    order: str
    select: str

    @property
    def names(self) -> str:
        """The names of its columns."""
        return ", ".join(column.split()[0] for column in self.columns.split(", "))


COPIED = "ts DateTime('UTC'), user UInt32, x Nullable(Float64)"
CASES = {
    "keyed": Case(COPIED, "(user, ts)", "SELECT * FROM src"),
    # Whole rows are compared, NULL and nan among them.
    "keyless": Case(COPIED, "tuple()", "SELECT * FROM src"),
    "hourly": Case(
        "hour DateTime('UTC'), user UInt32, hits UInt64",
        "(hour, user)",
        "SELECT toStartOfHour(ts) AS hour, user, count() AS hits FROM src GROUP BY hour, user",
    ),
    "timeless": Case("user UInt32, x Nullable(Float64)", "user", "SELECT user, x FROM src"),
    "dated": Case(
        "day Date, user UInt32, x Nullable(Float64)", "(day, user)", "SELECT toDate(ts) AS day, user, x FROM src"
    ),
}


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """A server that these tests may kill."""
    with ClickHouseServer(tmp_path_factory.mktemp("mortal")) as server:
        yield server


class Accident:
    """A chunk of six hours that was sealed when its server died."""

    def __init__(self, server: ClickHouseServer, folder: Path) -> None:
        self.server, self.folder, self.sealed = server, folder, ""
        first = clickhouse_connect.get_client(dsn=server.url)
        first.command("DROP DATABASE IF EXISTS accident SYNC")
        first.command("CREATE DATABASE accident")
        self.lab = self._lab()
        self.lab.sql(
            f"CREATE TABLE src ({COPIED}) ENGINE = MergeTree ORDER BY ts",
            "INSERT INTO src SELECT toDateTime('2025-01-01', 'UTC') + number * 60, number % 7,"
            " if(number % 5 = 0, NULL, if(number % 3 = 0, nan, number)) FROM numbers(360)",
        )
        for name, case in CASES.items():
            self.lab.sql(f"CREATE TABLE {name} ({case.columns}) ENGINE = MergeTree ORDER BY {case.order}")

    def _lab(self) -> Lab:
        url = f"{self.server.url}/accident"
        client = clickhouse_connect.get_client(dsn=url, autogenerate_session_id=False)
        options = {**FAST, "defaults": {"maxRetriesPerChunk": 1}}
        return Lab(Engine("http", client, "accident", url), self.folder, options)

    def happens(self, target: str, arrived: str = "", *, restart: bool = True, **wanted: Any) -> dict[str, Any]:
        """
        Seal the chunk, let its rows that meet *arrived* reach the target, and kill the server.

        The rows arrive by an INSERT, which leaves the same as a merge of moved parts: the rows, without a hash.
        """
        plan = self.lab.plan(
            target,
            "2025-01-01",
            "2025-01-01T06:00",
            6,
            select=CASES[target].select,
            filter_table=self.lab.table("src"),
            **wanted,
        )
        assert self.lab.run(plan, step=once("sealed", GONE))["status"] == "failed"
        (self.sealed,) = self.lab.leftovers()
        if arrived:
            self.lab.sql(f"INSERT INTO {target} SELECT * FROM {self.sealed} WHERE {arrived}")
        if restart:
            self.dies()
        return plan

    def dies(self) -> None:
        """Kill the server, and start it again."""
        self.server.kill()
        self.server.start()
        self.lab = self._lab()

    def content(self, target: str) -> tuple[int, int]:
        """What the target holds."""
        return self.lab.content(target, CASES[target].names)

    def truth(self, target: str) -> tuple[int, int]:
        """What it should hold."""
        return self.lab.content(f"({CASES[target].select})", CASES[target].names)


@pytest.fixture
def accident(mortal: ClickHouseServer, tmp_path: Path) -> Accident:
    """Tables and a state folder for one accident."""
    return Accident(mortal, tmp_path / "state")


@pytest.mark.parametrize("target", CASES)
def test_what_had_not_arrived_is_moved(accident: Accident, target: str) -> None:
    plan = accident.happens(target)
    assert accident.lab.run(plan, resume=True)["status"] == "completed"
    assert accident.content(target) == accident.truth(target)


@pytest.mark.parametrize("target", ["keyed", "keyless", "hourly"])
def test_what_had_arrived_is_known_by_its_rows(accident: Accident, target: str) -> None:
    plan = accident.happens(target, "1")
    assert accident.lab.run(plan, resume=True)["status"] == "completed"
    assert accident.content(target) == accident.truth(target)


@pytest.mark.parametrize("target", ["timeless", "dated"])
def test_what_cannot_be_told_is_left_to_a_person(accident: Accident, target: str) -> None:
    """Without a time of the chunk's own in the target, rows with its keys may be another chunk's."""
    plan = accident.happens(target, "1")
    payload = accident.lab.run(plan, resume=True)
    assert payload["status"] == "failed"
    assert accident.content(target) == accident.truth(target)
    assert f"TRUNCATE TABLE `accident`.`{accident.sealed}`" in payload["lastError"]
    assert "--clear-window" not in payload["lastError"]
    accident.lab.sql(f"TRUNCATE TABLE {accident.sealed}")
    assert accident.lab.run(plan, resume=True)["status"] == "completed"
    assert accident.content(target) == accident.truth(target)


def test_what_had_arrived_in_part_is_not_moved_again_and_its_window_can_be_filled_anew(accident: Accident) -> None:
    plan = accident.happens("keyed", "user < 3")
    before = accident.content("keyed")
    payload = accident.lab.run(plan, resume=True)
    assert payload["status"] == "failed"
    assert "holds some of its rows" in payload["lastError"]
    assert f"run --plan-id {plan['planId']} --replay-failed --clear-window" in payload["lastError"]
    assert accident.content("keyed") == before
    assert accident.lab.run(plan, replay_failed=True, clear_window=True)["status"] == "completed"
    assert accident.content("keyed") == accident.truth("keyed")


@pytest.mark.parametrize("restart", [True, False])
def test_rows_that_were_there_before_are_not_taken_for_the_chunks(accident: Accident, restart: bool) -> None:
    """Where the server lived on, a move was made or not, so they are no reason to ask."""
    accident.lab.sql("INSERT INTO keyed SELECT * FROM src")
    rows, checksum = accident.truth("keyed")
    # An earlier test has started it.
    while not restart and accident.lab.value("SELECT uptime()") < 3:
        time.sleep(0.1)
    plan = accident.happens("keyed", restart=False, allow_existing_rows=True)
    # A part of the target at least as young as the sealed parts may be a merge of them.
    accident.lab.sql("INSERT INTO keyed VALUES ('2024-12-31 00:00:00', 99, 0)")
    if restart:
        accident.dies()
    payload = accident.lab.run(plan, resume=True)
    assert payload["status"] == ("failed" if restart else "completed")
    twice = (2 * rows, 2 * checksum % 2**64)
    held = accident.lab.content("keyed", CASES["keyed"].names, tail="WHERE ts >= '2025-01-01'")
    assert held == ((rows, checksum) if restart else twice)


def test_a_bucket_under_the_sources_own_name_is_no_window(accident: Accident) -> None:
    """Days, in a column that is called like the time they were made of, lie before the hours they came from."""
    lab = accident.lab
    lab.sql(
        "CREATE TABLE rounded (ts DateTime('UTC'), user UInt32, x Nullable(Float64)) ENGINE = MergeTree ORDER BY user"
    )
    select = "SELECT toStartOfDay(ts) AS ts, user, x FROM src"
    plan = lab.plan("rounded", "2025-01-01", "2025-01-01T06:00", 3, select=select, filter_table=lab.table("src"))
    assert lab.run(plan, step=once("sealed", GONE, nth=2))["chunkCounts"]["done"] == 1
    (name,) = [table for table in lab.leftovers() if lab.value(f"SELECT count() FROM {table}")]
    lab.sql(f"INSERT INTO rounded SELECT * FROM {name}")
    accident.dies()
    assert accident.lab.run(plan, resume=True)["status"] == "failed"
    assert accident.lab.value("SELECT count() FROM rounded") == 360


def test_a_column_of_days_under_the_sources_own_name_is_no_dead_end(accident: Accident) -> None:
    """A bound inside a day cannot be written for it; the keys alone tell that nothing has arrived."""
    lab = accident.lab
    lab.sql("CREATE TABLE daily (ts Date, user UInt32, x Nullable(Float64)) ENGINE = MergeTree ORDER BY user")

    select = "SELECT toDate(ts) AS ts, user, x FROM src"
    plan = lab.plan("daily", "2025-01-01", "2025-01-01T06:00", 6, select=select, filter_table=lab.table("src"))
    assert lab.run(plan, step=once("sealed", GONE))["status"] == "failed"
    accident.dies()
    assert accident.lab.run(plan, resume=True)["status"] == "completed"
    assert accident.lab.value("SELECT count() FROM daily") == 360


@pytest.mark.parametrize(
    ("order", "lifetime", "arrives", "rounded"),
    [
        ("user", 0, True, False),
        ("(user, toDate(ts))", 0, False, False),
        ("(user, ts)", 0, True, True),
        ("(user, ts)", 0, False, False),
        ("user", 3600, False, False),
    ],
)
def test_rows_that_merges_may_have_removed_are_left_to_a_person(
    accident: Accident, order: str, lifetime: int, arrives: bool, rounded: bool
) -> None:
    """Rows that cancelled the rows of another chunk are gone with them, and moved again they would cancel nothing."""
    lab = accident.lab
    columns = "ts DateTime('UTC'), user UInt32, sign Int8"
    lab.sql(
        f"CREATE TABLE changes ({columns}) ENGINE = MergeTree ORDER BY ts",
        "INSERT INTO changes SELECT toDateTime('2025-01-01', 'UTC') + number * 60, number % 180,"
        " if(number < 180, 1, -1) FROM numbers(360)",
        f"CREATE TABLE live ({columns}) ENGINE = CollapsingMergeTree(sign) ORDER BY {order}"
        f" SETTINGS old_parts_lifetime = {lifetime}",
    )
    select = f"SELECT {'toStartOfDay(ts) AS ts' if rounded else 'ts'}, user, sign FROM changes"
    window = ("2025-01-01", "2025-01-01T06:00", 3)
    plan = lab.plan("live", *window, select=select, filter_table=lab.table("changes"))
    assert lab.run(plan, step=once("sealed", GONE, nth=2))["chunkCounts"]["done"] == 1
    (sealed,) = [table for table in lab.leftovers() if lab.value(f"SELECT count() FROM {table}")]
    if arrives:
        lab.sql(f"INSERT INTO live SELECT * FROM {sealed}", "OPTIMIZE TABLE live FINAL")
    accident.dies()
    lab = accident.lab
    payload = lab.run(plan, resume=True)
    if lifetime or (order == "(user, ts)" and not rounded):
        # The target would list the hashes of parts that had arrived; or no other chunk has rows with the same keys.
        assert payload["status"] == "completed"
    else:
        assert payload["status"] == "failed"
        assert "(CollapsingMergeTree) may have removed all of its rows" in payload["lastError"]
        # Cancelled rows of another window cannot be filled again with this one.
        assert ("--clear-window" in payload["lastError"]) is rounded
        if not arrives:
            lab.sql(f"INSERT INTO live SELECT * FROM {sealed}")
        lab.sql(f"TRUNCATE TABLE {sealed}")
        assert lab.run(plan, resume=True)["status"] == "completed"
    assert lab.rows("SELECT user FROM live GROUP BY user HAVING sum(sign) != 0") == []
