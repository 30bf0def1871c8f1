"""Compare staged rows with the source's rows: each proof must detect its kinds of loss and duplication."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_backfill.clickhouse.client import ClickHouse
from airflow_provider_backfill.core.plan import RowProof, WriteMode
from tests.clickhouse.lab import Lab
from tests.conftest import Engine

COLUMNS = "(ts DateTime('UTC'), user UInt32) ENGINE = MergeTree PARTITION BY toStartOfHour(ts) ORDER BY (user, ts)"
DAYS = ("2025-01-01", "2025-01-03", 24)
PER_HOUR = "SELECT toStartOfHour(ts) AS ts, user FROM {} GROUP BY ts, user"


@pytest.fixture
def days(lab: Lab) -> Lab:
    """Two days with a row a minute, and an empty target."""
    return lab.with_two_days(COLUMNS)


def _lose_a_part(lab: Lab, table: str) -> None:
    name = lab.value(f"SELECT name FROM system.parts WHERE active AND table = '{table}' ORDER BY name LIMIT 1")
    lab.sql(f"ALTER TABLE {table} DROP PART '{name}'")


def _lose_all(lab: Lab, table: str) -> None:
    lab.sql(f"TRUNCATE TABLE {table}")


def _write_twice(lab: Lab, table: str) -> None:
    lab.sql(f"INSERT INTO {table} SELECT * FROM {table} LIMIT 1")


def _others_in_their_place(lab: Lab, table: str) -> None:
    parts = lab.rows(f"SELECT name FROM system.parts WHERE active AND table = '{table}'")
    lab.sql(f"INSERT INTO {table} SELECT ts + 1, user FROM {table}")
    lab.sql(*(f"ALTER TABLE {table} DROP PART '{name}'" for (name,) in parts))


STRIKES = (_lose_a_part, _lose_all, _write_twice)


@pytest.mark.parametrize(
    ("proof", "select", "strike"),
    [
        *((RowProof.WRITTEN, "", strike) for strike in STRIKES),
        *((RowProof.CONTENT, PER_HOUR, strike) for strike in STRIKES),
        *(
            pytest.param(*case, strike, marks=pytest.mark.long)
            for case in ((RowProof.WRITTEN, PER_HOUR), (RowProof.CONTENT, ""))
            for strike in STRIKES
        ),
        # No count detects this; nothing that fills a separate table does this.
        (RowProof.CONTENT, "", _others_in_their_place),
    ],
)
def test_what_is_staged_otherwise_than_written_is_staged_anew(
    days: Lab, proof: RowProof, select: str, strike: Callable[[Lab, str], None]
) -> None:
    """Between staging and proof, rows of the attempt are lost or duplicated."""
    given = {"select": select.format(days.table("src"))} if select else {"source": "src"}
    plan = days.plan("dst", *DAYS, row_proof=proof, write_mode=WriteMode.REPLACE, **given)
    left = iter([True])

    def step(at: str) -> None:
        if at == "staged" and next(left, False):
            (staged,) = (name for name in days.leftovers() if name.endswith("_1"))
            strike(days, staged)

    payload = days.run(plan, step=step)
    assert (payload["status"], payload["attempts"]) == ("completed", 3)
    assert days.content("dst") == days.content(f"({given['select']})" if select else "src")


class _Limited(Lab):
    """A server whose user may read a limited number of rows, with a profile that drops further rows silently."""

    def server(self) -> ClickHouse:
        server = super().server()
        for name, value in {"max_rows_to_read": 500, "read_overflow_mode": "break", "max_block_size": 100}.items():
            server._client.set_client_setting(name, value)
        return server


@pytest.mark.parametrize("select", ["", PER_HOUR])
def test_a_limit_that_cuts_answers_short_is_an_error(days: Lab, engine: Engine, tmp_path: Path, select: str) -> None:
    """A part of a chunk's rows, which the server calls a success, is not published."""
    given = {"select": select.format(days.table("src"))} if select else {"source": "src"}
    plan = days.plan("dst", *DAYS, **given)
    payload = _Limited(engine, days.folder, days.options).run(plan)
    assert payload["status"] == "failed"
    assert "TOO_MANY_ROWS" in payload["lastError"]
    assert days.value("SELECT count() FROM dst") == 0


def test_the_proof_is_part_of_what_a_plan_is(days: Lab) -> None:
    """It is kept, so that every worker of the plan holds to it; the source is asked again for `content` only."""
    for proof, asked in ((RowProof.WRITTEN, False), (RowProof.CONTENT, True)):
        plan = days.plan("dst", *DAYS, source="src", row_proof=proof, force=True)
        assert (plan["proof"], plan["statements"][0]["verifiedAgainstSource"]) == (proof, asked)
