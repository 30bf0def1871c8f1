"""One marker, given in every way that a user can give a secret: nothing of it is stored or shown."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client

from airflow_provider_backfill.commands.session import Session
from airflow_provider_backfill.options import Options
from airflow_provider_backfill.state.posix import FileBackend
from airflow_provider_backfill.state.store import StateStore
from airflow_provider_backfill.web.views.overview import Overview
from tests.command_line import Answer, Cli

MARKER = "m4rk3rOfASecret"
WINDOW = ("--from", "2025-01-01", "--to", "2025-01-02", "--chunk-hours", "24")
COLUMNS = "(ts DateTime('UTC'), id UInt64)"


@pytest.fixture
def cli(
    clickhouse_url: str,
    database: str,
    tmp_path: Path,
    client: Client,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Cli:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLICKHOUSE_BACKFILL_MAX_RETRIES_PER_CHUNK", "1")
    monkeypatch.setenv("CLICKHOUSE_BACKFILL_RETRY_DELAY_MS", "0")
    client.command(f"CREATE TABLE {database}.orders {COLUMNS} ENGINE = MergeTree ORDER BY id")
    client.command(f"CREATE TABLE {database}.copy {COLUMNS} ENGINE = MergeTree ORDER BY id")
    client.command(
        f"INSERT INTO {database}.orders SELECT toDateTime('2025-01-01', 'UTC') + number, number FROM numbers(9)"
    )
    return Cli(tmp_path / "state", f"{clickhouse_url}/{database}", capsys)


def _state(cli: Cli) -> str:
    return "".join(path.read_text() for path in cli.state.rglob("*") if path.is_file())


def _shown_of(cli: Cli, plan_id: str, tmp_path: Path) -> str:
    """The output of every command and report, and of the page, for a plan."""
    commands = (
        *(("status", "--plan-id", plan_id), ("doctor", "--plan-id", plan_id), ("report", "--plan-id", plan_id)),
        *(("events", "--plan-id", plan_id), ("list",), ("check", "--junit", str(tmp_path / "j.xml"))),
        *(("check", "--format", "github"), ("run", "--plan-id", plan_id, "--verbose", "--replay-failed")),
    )
    answers: list[Answer] = [cli(*words) for words in commands]
    answers += [cli(*words, "--json") for words in commands]
    page = Overview(Session(StateStore(FileBackend(cli.state)), Options(), None, "ada"))
    chunk = page.plan(plan_id)["failed"][0]["chunkId"] if page.plan(plan_id)["failed"] else ""
    asked = [page.plans(), page.plan(plan_id), page.chunk(plan_id, chunk) if chunk else {}]
    return "".join(answer.out + answer.err for answer in answers) + json.dumps(asked) + (tmp_path / "j.xml").read_text()


class _Nothing(BaseHTTPRequestHandler):
    """Knows nothing."""

    def do_GET(self) -> None:
        """Answer immediately; unlike a closed port, a 404 is not retried."""
        self.send_error(404)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def refusing() -> Iterator[int]:
    """The port of a server that answers 404 to every request."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Nothing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


def test_what_a_server_quotes_in_its_errors_is_masked(
    cli: Cli, client: Client, database: str, tmp_path: Path, refusing: int
) -> None:
    """A table of the engine URL has a password in its address, which the error of each chunk quotes."""
    address = f"http://u:{MARKER}@127.0.0.1:{refusing}/x.csv?token={MARKER}&sig={MARKER}"
    client.command(f"CREATE TABLE {database}.remote {COLUMNS} ENGINE = URL('{address}', 'CSV')")
    planned = cli("plan", "--target", f"{database}.copy", "--source", f"{database}.remote", *WINDOW, "--json")
    plan_id = planned.payload.get("planId", "") if planned.code == 0 else ""
    shown = planned.out + planned.err
    if plan_id:
        ran = cli("run", "--plan-id", plan_id, "--verbose")
        assert ran.code == 1
        shown += ran.out + ran.err + _shown_of(cli, plan_id, tmp_path)
    assert f"127.0.0.1:{refusing}" in shown, "the error itself is told"
    assert MARKER not in shown
    assert MARKER not in _state(cli) if cli.state.exists() else True


def test_credentials_in_a_select_stay_in_the_plan_alone(
    cli: Cli, client: Client, database: str, tmp_path: Path
) -> None:
    """The SELECT runs unchanged, so the plan's file has the credentials; the plan warns, and names a better way."""
    select = f"SELECT ts, id FROM orders WHERE id != length(encrypt('aes-128-ecb', 'x', '{MARKER:.<16}'))"
    target = f"{database}.copy"
    planned = cli.json("plan", "--target", target, "--select", select, *WINDOW)
    assert planned["ok"], planned
    (warning,) = [each for each in planned["warnings"] if "encrypt" in each["message"]]
    assert "NAMED COLLECTION" in warning["hint"]
    plan_id = planned["planId"]
    shown = json.dumps(planned) + _shown_of(cli, plan_id, tmp_path)
    again = cli("plan", "--target", target, "--select", select.replace("ts, id", "ts, id + 1 AS id"), *WINDOW)
    assert again.code == 2, "it shows how the two differ"
    preview = cli("plan", "--target", target, "--select", select, *WINDOW, "--chunk-hours", "12", "--dry-run")
    shown += again.out + again.err + preview.out + preview.err
    assert MARKER not in shown
    plan = cli.state / "plans" / f"{plan_id}.json"
    assert MARKER in plan.read_text()
    plan.unlink()
    assert MARKER not in _state(cli)


@pytest.mark.parametrize(
    "words",
    [
        ["--clickhouse-url", "http://u:{}@127.0.0.1:9/"],
        ["--clickhouse-url", "http://127.0.0.1:9/?password={}"],
        ["--clickhouse-url", "http://u:a/{}@127.0.0.1:9/"],
        ["--clickhouse-url", "u:{}@127.0.0.1:9"],
        ["--state-dir", "s3://key:{}@bucket/x"],
        ["--state-dir", "s3://bucket/x?aws_secret_access_key={}"],
        ["--state-dir", "https://h/x?sig={}"],
    ],
)
@pytest.mark.parametrize("more", [[], ["--verbose"], ["--json"]])
def test_a_secret_in_an_address_is_not_shown(cli: Cli, database: str, words: list[str], more: list[str]) -> None:
    given = [word.format(MARKER) for word in words]
    own = Cli(cli.state, "", cli.capsys)
    if words[0] == "--state-dir":
        cli.capsys.readouterr()
        from airflow_provider_backfill.cli.main import main

        code = main(["list", *given, *more])
        out, err = cli.capsys.readouterr()
    else:
        answer = own("plan", "--target", f"{database}.copy", "--source", f"{database}.orders", *WINDOW, *given, *more)
        code, out, err = answer.code, answer.out, answer.err
    assert code in (1, 2)
    assert MARKER not in out + err


@pytest.mark.parametrize(
    "words",
    [
        ["--cluster", "default", "--shard-url", "1=http://u:{}@127.0.0.1:9"],
        ["--cluster", "default", "--shard-url", "1=http://127.0.0.1:9/?password={}"],
        ["--cluster", "default", "--shard-url", "http://u:{}@127.0.0.1:9"],
        ["--cluster", "default", "--shard-url", "u:{}@127.0.0.1:9"],
        ["--setting", "format_avro_schema_registry_url=http://u:{}@127.0.0.1:9/"],
        ["--setting", "rename_files_after_processing=x?token={}"],
        ["--select-file", "https://u:{}@h/x.sql"],
        ["--config", "s3://key:{}@bucket/x"],
    ],
)
@pytest.mark.parametrize("more", [["--verbose"], ["--json"]])
def test_a_secret_in_another_flag_is_not_kept(
    cli: Cli, client: Client, database: str, words: list[str], more: list[str]
) -> None:
    """A refused value is never shown, and a contacted server does not learn it."""
    given = [word.format(MARKER) for word in words]
    answer = cli("plan", "--target", f"{database}.copy", "--source", f"{database}.orders", *WINDOW, *given, *more)
    assert answer.code == 2
    assert MARKER not in answer.out + answer.err
    assert MARKER not in _state(cli) if cli.state.exists() else True
    client.command("SYSTEM FLUSH LOGS")
    found = client.query(
        "SELECT count() FROM system.query_log WHERE position(query, concat('m4rk3r', 'OfASecret')) > 0"
        " AND position(query, {database:String}) > 0"
        " OR arrayExists(x -> position(x, concat('m4rk3r', 'OfASecret')) > 0, mapValues(Settings))",
        {"database": database},
    )
    assert found.result_rows == [(0,)]


@pytest.mark.parametrize("more", [[], ["--verbose"], ["--json"]])
def test_a_token_of_who_is_told_is_not_shown(cli: Cli, database: str, refusing: int, more: list[str]) -> None:
    """The address may contain a token; the output has the answer 404, but not the address."""
    plan_id = cli.json("plan", "--target", f"{database}.copy", "--source", f"{database}.orders", *WINDOW)["planId"]
    address = f"http://127.0.0.1:{refusing}/{MARKER}?token={MARKER}"
    ran = cli("run", "--plan-id", plan_id, "--notify", address, *more)
    assert "the answer was 501" in ran.out + ran.err
    assert MARKER not in ran.out + ran.err + _state(cli)
    refused = cli("run", "--plan-id", plan_id, "--notify", f"http://u:{MARKER}@127.0.0.1:{refusing}/", *more)
    assert refused.code == 2
    assert MARKER not in refused.out + refused.err


@pytest.mark.parametrize("way", ["environment", "file"])
def test_a_password_that_is_refused_is_not_shown(
    cli: Cli, database: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--password-file", str(tmp_path / "password")] if way == "file" else []
    (tmp_path / "password").write_text(MARKER)
    if way == "environment":
        monkeypatch.setenv("CLICKHOUSE_PASSWORD", MARKER)
    cli.url = cli.url.replace("://default@", "://secured@").replace("://127", "://secured@127")
    answer = cli("plan", "--target", f"{database}.copy", "--source", f"{database}.orders", *WINDOW, "--verbose", *words)
    assert answer.code in (1, 2)
    assert MARKER not in answer.out + answer.err


def test_the_servers_own_log_has_no_password(
    cli: Cli, client: Client, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes into a header of the request, never into a statement or its settings."""
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", MARKER)
    cli("plan", "--target", f"{database}.copy", "--source", f"{database}.orders", *WINDOW)
    client.command("SYSTEM FLUSH LOGS")
    found = client.query(
        f"SELECT count() FROM system.query_log WHERE position(query, '{database}') > 0 AND"
        " (position(query, concat('m4rk3r', 'OfASecret')) > 0"
        " OR arrayExists(x -> position(x, concat('m4rk3r', 'OfASecret')) > 0, mapValues(Settings)))"
    )
    assert found.result_rows == [(0,)]


def _replay_as_the_definer(cli: Cli, client: Client, database: str, hint: str) -> None:
    client.command(hint[hint.index("CREATE VIEW") : hint.rindex("` and plan with")])
    made = client.query(
        f"SELECT create_table_query FROM system.tables WHERE table = 'view_replay' AND database = '{database}'"
    )
    assert "DEFINER = reader SQL SECURITY DEFINER" in made.result_rows[0][0]
    source = hint.split("plan with ")[1].split()
    planned = cli.json("plan", "--target", f"{database}.copy", *source, *WINDOW, "--force")
    assert not [each for each in planned["warnings"] if "rights" in each["message"]]
    assert cli.json("run", "--plan-id", planned["planId"])["status"] == "completed"
    assert cli("verify", "--plan-id", planned["planId"]).code == 0


def test_a_view_of_another_definer_is_named(cli: Cli, client: Client, database: str) -> None:
    """With the connection's rights, a replay reads rows that the view's own definer may not read."""
    client.command(
        f"CREATE MATERIALIZED VIEW {database}.view TO {database}.copy DEFINER = reader SQL SECURITY DEFINER"
        f" AS SELECT ts, id FROM {database}.orders"
    )
    planned = cli.json("plan", "--target", f"{database}.copy", *WINDOW)
    (warning,) = [each for each in planned["warnings"] if "rights" in each["message"]]
    assert f"{database}.view runs with the rights of reader" in warning["message"]
    client.command(f"ALTER TABLE {database}.view MODIFY DEFINER default SQL SECURITY DEFINER")
    again = cli.json("plan", "--target", f"{database}.copy", *WINDOW, "--force")
    assert not [each for each in again["warnings"] if "rights" in each["message"]]
    _replay_as_the_definer(cli, client, database, warning["hint"])
