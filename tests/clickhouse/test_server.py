"""The tests' own ClickHouse and fixtures: that they are the real thing the other tests take them for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from tests.conftest import Engine
from tests.server import SECURED_PASSWORD, ClickHouseServer, ServerError


def _client(server: ClickHouseServer, user: str = "default", password: str = "") -> Client:
    return clickhouse_connect.get_client(
        host="127.0.0.1",
        port=server.http_port,
        username=user,
        password=password,
        autogenerate_session_id=False,
    )


def _gone(pid: int) -> bool:
    """Return whether the process has ended; a zombie counts, since some init processes reap nothing."""
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def test_engine_is_a_fresh_database_of_either_kind(engine: Engine) -> None:
    """Both kinds answer the same client API, in a database that holds nothing."""
    engine.client.command("CREATE TABLE t (n UInt8) ENGINE = MergeTree ORDER BY n")
    engine.client.insert("t", [[1], [2]], column_names=["n"])

    answer = engine.client.query("SELECT database, total_rows FROM system.tables WHERE database = currentDatabase()")

    assert answer.result_rows == [(engine.database, 2)]


def test_the_query_log_knows_a_query_by_its_id(client: Client) -> None:
    """Tests count the INSERTs that were really executed."""
    client.command("SELECT 1", settings={"query_id": "test-query-log"})
    client.command("SYSTEM FLUSH LOGS")

    kinds = client.query("SELECT type FROM system.query_log WHERE query_id = 'test-query-log' ORDER BY type")

    assert [row[0] for row in kinds.result_rows] == ["QueryStart", "QueryFinish"]


def test_tables_survive_a_kill_and_the_logs_start_anew(own_server: ClickHouseServer) -> None:
    """Fault tests compare the data before and after a crash, and read the logs of the new life."""
    client = _client(own_server)
    client.command("CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n")
    client.command("INSERT INTO t SELECT number FROM numbers(1000)")

    own_server.kill()
    assert not own_server.running
    client = _client(own_server.start())

    assert client.command("SELECT count(), sum(n) FROM t") == ["1000", "499500"]
    client.command("SYSTEM FLUSH LOGS")
    assert (
        client.command("SELECT countIf(query LIKE '%numbers(1000)%' AND query LIKE 'INSERT%') FROM system.query_log")
        == 0
    )


def test_a_paused_server_answers_nothing_until_resumed(own_server: ClickHouseServer) -> None:
    own_server.pause()
    assert not own_server.answers(timeout=0.3)

    own_server.resume()
    assert own_server.answers()


def test_a_paused_server_can_be_stopped(own_server: ClickHouseServer) -> None:
    own_server.pause()
    own_server.stop()
    assert not own_server.running


def test_two_shards_are_the_same_process_twice(own_server: ClickHouseServer) -> None:
    client = _client(own_server)
    client.command("CREATE TABLE base (n UInt8) ENGINE = MergeTree ORDER BY n")
    client.command("CREATE TABLE spread AS base ENGINE = Distributed('two_shards', currentDatabase(), 'base')")
    client.insert("base", [[1]], column_names=["n"])
    assert client.command("SELECT count() FROM spread") == 2


@pytest.mark.parametrize(("user", "may_insert", "may_create"), [("writer", True, False), ("reader", False, False)])
def test_users_with_fewer_rights(own_server: ClickHouseServer, user: str, may_insert: bool, may_create: bool) -> None:
    _client(own_server).command("CREATE TABLE t (n UInt8) ENGINE = MergeTree ORDER BY n")
    client = _client(own_server, user)
    for statement, allowed in (
        ("INSERT INTO t SELECT 1", may_insert),
        ("CREATE TABLE u (n UInt8) ENGINE = MergeTree ORDER BY n", may_create),
    ):
        if allowed:
            client.command(statement)
        else:
            with pytest.raises(DatabaseError, match="ACCESS_DENIED"):
                client.command(statement)


def test_the_secured_user_needs_its_password(own_server: ClickHouseServer) -> None:
    assert _client(own_server, "secured", SECURED_PASSWORD).command("SELECT currentUser()") == "secured"
    with pytest.raises(DatabaseError, match="AUTHENTICATION_FAILED"):
        _client(own_server, "secured", "wrong")


def test_a_taken_port_is_an_error_with_the_log(own_server: ClickHouseServer, tmp_path: Path) -> None:
    """Another server that answers on the port must not be taken for the one that was started."""
    second = ClickHouseServer(tmp_path / "second", http_port=own_server.http_port)
    with pytest.raises(ServerError, match=r"(?s)ended with .* while starting.*Address already in use"):
        second.start()


def test_the_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """A killed test run must not leave servers behind."""
    program = (
        "import sys, time; from tests.server import ClickHouseServer;"
        "server = ClickHouseServer(sys.argv[1]).start(); print(server.pid, flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "clickhouse")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": ""},
    )
    with owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        owner.kill()
    deadline = time.monotonic() + 10
    while not _gone(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _gone(pid)
