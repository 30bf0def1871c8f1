"""The scenes of a data engineer's day, each in at most three commands, judged by the content of the target."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.clickhouse.lab import Lab
from tests.command_line import Answer, Cli, finish, wait_until

WINDOW = ("--from", "2025-01-01", "--to", "2025-01-05")


class Day:
    """A server with four days of orders, a command line, and a count of the commands that were typed."""

    def __init__(self, lab: Lab, cli: Cli) -> None:
        self.lab, self._cli, self.typed = lab, cli, 0
        self.database = lab.engine.database

    def types(self, *words: str, code: int = 0) -> Answer:
        """Type one command; names of tables get their database."""
        self.typed += 1
        answer = self._cli(*(word.replace("shop.", f"{self.database}.") for word in words))
        assert answer.code == code, answer.out + answer.err
        return answer

    def count(self, table: str) -> int:
        """Rows of a table."""
        return int(self.lab.value(f"SELECT count() FROM {table}"))


@pytest.fixture
def day(http_lab: Lab, capsys: pytest.CaptureFixture[str]) -> Day:
    """The shop before work begins."""
    http_lab.sql(
        "CREATE TABLE orders (id UInt64, ts DateTime('UTC'), amount UInt32) ENGINE = MergeTree"
        " PARTITION BY toDate(ts) ORDER BY ts",
        "INSERT INTO orders SELECT number, toDateTime('2025-01-01', 'UTC') + number * 60, 1 FROM numbers(5760)",
        "CREATE TABLE daily (day Date, amount UInt64) ENGINE = SummingMergeTree ORDER BY day",
        "CREATE MATERIALIZED VIEW daily_mv TO daily AS"
        " SELECT toDate(ts) AS day, sum(amount) AS amount FROM orders GROUP BY day",
        "CREATE TABLE copy AS orders",
    )
    return Day(http_lab, Cli(http_lab.folder, http_lab.engine.url, capsys))


def _filled(day: Day) -> None:
    day.types("plan", "--target", "shop.copy", "--source", "shop.orders", *WINDOW)
    day.types("run", "--last")


def a_view_added_late(day: Day) -> None:
    """Plan, run, verify."""
    day.types("plan", "--target", "shop.daily", *WINDOW)
    day.types("run", "--last")
    day.types("verify", "--last")
    assert day.lab.rows("SELECT day, sum(amount) FROM daily GROUP BY day ORDER BY day")[0][1] == 1440


def a_spoilt_month(day: Day) -> None:
    """Rebuild existing rows, with a backup."""
    day.lab.sql("INSERT INTO copy SELECT id, ts, 9 FROM orders")
    words = ("--source", "shop.orders", "--write-mode", "replace", "--chunk-by", "day", "--backup")
    day.types("plan", "--target", "shop.copy", *words, *WINDOW)
    day.types("run", "--last")
    assert day.lab.value("SELECT sum(amount) FROM copy") == 5760


def a_new_column(day: Day) -> None:
    """Fill a new table of the new shape."""
    day.lab.sql("CREATE TABLE wide (id UInt64, ts DateTime('UTC'), double UInt64) ENGINE = MergeTree ORDER BY ts")
    select = "SELECT id, ts, amount * 2 AS double FROM shop.orders".replace("shop.", f"{day.database}.")
    day.types("plan", "--target", "shop.wide", "--select", select, *WINDOW)
    day.types("run", "--last")
    assert day.lab.value("SELECT sum(double) FROM wide") == 2 * 5760


def stop_and_go_on(day: Day) -> None:
    """Pause a running plan, and resume it in the morning."""
    cli, words = day._cli, ("--source", f"{day.database}.orders", "--chunk-hours", "1", *WINDOW)
    plan_id = cli.json("plan", "--target", f"{day.database}.copy", *words)["planId"]
    process = cli.start("run", "--plan-id", plan_id)
    wait_until(lambda: any(event["type"] == "ChunkDone" for event in cli.events(plan_id)))
    day.types("pause", "--last", "--reason", "the morning load")
    assert finish(process).code == 1
    day.types("resume", "--last")
    assert day.count("copy") == 5760


def one_chunk_fails(day: Day) -> None:
    """Find the failed chunk, fix the source, resume."""
    day.lab.sql("CREATE TABLE rates (day Date, rate UInt8) ENGINE = MergeTree ORDER BY day")
    day.lab.sql("INSERT INTO rates SELECT toDate('2025-01-01') + number, number != 2 FROM numbers(4)")
    day.lab.sql("CREATE TABLE priced (id UInt64, ts DateTime('UTC'), price UInt64) ENGINE = MergeTree ORDER BY ts")
    select = (
        "SELECT id, ts, amount * r.rate + throwIf(r.rate = 0, 'no rate for a day') AS price"
        " FROM shop.orders AS o INNER JOIN shop.rates AS r ON toDate(o.ts) = r.day"
    ).replace("shop.", f"{day.database}.")
    words = ("--select", select, "--filter-table", "shop.orders", "--chunk-by", "day", "--no-trial")
    day._cli(*(w.replace("shop.", f"{day.database}.") for w in ("plan", "--target", "shop.priced", *words, *WINDOW)))
    day.types("run", "--last", code=1)
    failed = day.types("status", "--last", "--chunks", "failed")
    assert "2025-01-03" in failed.out
    assert "no rate for a day" in failed.out
    day.lab.sql("ALTER TABLE rates UPDATE rate = 1 WHERE rate = 0 SETTINGS mutations_sync = 2")
    day.types("resume", "--last")
    assert day.count("priced") == 5760


def cancel(day: Day) -> None:
    """One command, and a resume is possible."""
    day.types("plan", "--target", "shop.copy", "--source", "shop.orders", *WINDOW)
    day.types("cancel", "--last", "--reason", "the wrong table")
    day.types("run", "--last", code=2)


def two_people_plan_the_same(day: Day) -> None:
    """The second plan of rows that are there is refused."""
    _filled(day)
    answer = day.types(
        "plan", "--target", "shop.copy", "--source", "shop.orders", "--chunk-hours", "12", *WINDOW, code=2
    )
    assert "has filled the window: " in answer.err
    assert "already holds 5,760 rows" in answer.err
    assert day.count("copy") == 5760


def the_gate(day: Day) -> None:
    """Red while a plan is unfinished, green after."""
    day.types("plan", "--target", "shop.copy", "--source", "shop.orders", *WINDOW)
    assert day._cli("check").code == 1
    day.types("run", "--last")
    day.types("check")


def which_windows_are_filled(day: Day) -> None:
    """Without a window the question is about all that was planned."""
    _filled(day)
    assert "100.0%" in day.types("coverage", "--target", "shop.copy").out


def what_did_it_cost(day: Day) -> None:
    """A table for the ticket."""
    _filled(day)
    answer = day.types("report", "--last", "--format", "markdown")
    assert "| processor |" in answer.out
    assert "| written | 5,760 rows |" in answer.out


def undo(day: Day) -> None:
    """What was replaced is back."""
    day.lab.sql("INSERT INTO copy SELECT id, ts, 9 FROM orders")
    words = ("--source", "shop.orders", "--write-mode", "replace", "--chunk-by", "day", "--backup")
    day.types("plan", "--target", "shop.copy", *words, *WINDOW)
    day.types("run", "--last")
    day.types("undo", "--last")
    assert day.lab.value("SELECT sum(amount) FROM copy") == 9 * 5760


def copy_from_another_server(day: Day) -> None:
    """The same two commands, with remote() in the SELECT."""
    port = day.lab.value("SELECT tcpPort()")
    select = (
        f"SELECT id, ts, amount FROM remote('127.0.0.1:{port}', '{day.database}', 'orders')"
        " WHERE ts >= {chunk_from:DateTime} AND ts < {chunk_to:DateTime}"
    )
    day.types("plan", "--target", "shop.copy", "--select", select, *WINDOW)
    day.types("run", "--last")
    assert day.count("copy") == 5760


SCENES: tuple[Callable[[Day], None], ...] = (
    a_view_added_late,
    a_spoilt_month,
    a_new_column,
    copy_from_another_server,
    stop_and_go_on,
    one_chunk_fails,
    cancel,
    two_people_plan_the_same,
    the_gate,
    which_windows_are_filled,
    what_did_it_cost,
    undo,
)


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_a_scene_takes_three_commands_at_most(day: Day, scene: Callable[[Day], None]) -> None:
    scene(day)
    assert day.typed <= 3
