"""The command line without a ClickHouse: words, messages, exit codes, secrets, and imports."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from airflow_provider_backfill import __version__
from airflow_provider_backfill.cli import console, environment, parser, progress
from airflow_provider_backfill.cli.main import main
from airflow_provider_backfill.cli.text import show_moment, show_seconds
from airflow_provider_backfill.commands import list as list_command
from airflow_provider_backfill.core.events import ChunkDone, ChunkFailed, ChunkStarted, RunStarted
from airflow_provider_backfill.core.plan import Plan
from airflow_provider_backfill.core.replay import apply_event, new_run
from airflow_provider_backfill.core.run_state import ContentSums, Run
from airflow_provider_backfill.state.posix import FileBackend
from airflow_provider_backfill.state.store import StateStore
from tests.command_line import PROGRAM, REPOSITORY, Cli
from tests.state import make_plan
from tests.unit.test_imports import HEAVY, _loaded

COMMANDS = (
    *("plan", "run", "resume", "status", "cancel", "doctor", "check", "coverage"),
    *("set-parallel", "pause", "events", "verify", "undo", "waive", "repair", "clean", "list", "completion"),
)
START = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder without configuration, so that ``./.clickhouse-backfill`` would be seen if it were made."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def bare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """A command line without a ClickHouse."""
    return Cli(tmp_path / "state", "", capsys)


@pytest.fixture
def plan(bare: Cli) -> Plan:
    """A stored plan of four chunks."""
    return _store_plan(bare.state, "shop.orders")


def _store_plan(state: Path, target: str, hours: float = 6) -> Plan:
    plan = make_plan(int(24 / hours), hours=hours, target=target, environment="http://127.0.0.1:8123")
    StateStore(FileBackend(state)).save_plan(plan)
    return plan


# ---------------------------------------------------------------- words


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"clickhouse-backfill {__version__}\n"
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert all(f"\n  {command} " in overview for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_every_flag(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    for flag in parser.flags_of(command).values():
        assert re.search(rf"^  {flag.name}( {re.escape(flag.value)})? +\S+", text, re.MULTILINE), flag.name


def test_common_options_stand_before_or_after_the_command(bare: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    expected = bare.json("list")
    for words in (
        ["--json", "--state-dir", str(bare.state), "list"],
        ["list", "--state-dir", str(bare.state), "--json"],
        [f"--state-dir={bare.state}", "list", "--json"],
    ):
        assert main(words) == 0
        assert json.loads(capsys.readouterr().out) == expected


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ([], "No command was given", "plan, run, resume"),
        (["plann"], "'plann' is not a command", "did you mean clickhouse-backfill plan?"),
        (["list", "--frce"], "list has no flag --frce", "--help"),
        (["plan", "--targt", "a.b"], "plan has no flag --targt", "did you mean --target?"),
        (["--nonsense"], "has no flag --nonsense", "--help"),
        (["list", "--plan-id", "0123456789abcdef"], "list has no flag --plan-id", "--plan-id belongs to run"),
        (["list", "0123456789abcdef"], "Unexpected argument '0123456789abcdef'", "--help"),
        (["status", "0123", "4567"], "'0123' and '4567' name 2 things", "keep one"),
        (["status", "0123", "--plan-id", "4567"], "'0123' and --plan-id 4567 name two things", "keep one"),
        (["status", "--last", "--plan-id", "4567"], "--plan-id and --last exclude each other", "keep one"),
        (["status", "0123"], "begins with 0123", "clickhouse-backfill list"),
        (["status", "--last"], "There is no plan in", "clickhouse-backfill plan"),
        (["run", "--target", "a.b"], "There is no plan of a.b", "clickhouse-backfill list"),
        (["status", "0123456789abcdef", "--chunks", "broken"], "--chunks is 'broken'", "pending, running, done"),
        (["list", "--status", "lost"], "--status is 'lost'", "planned, running"),
        (["run", "0123456789abcdef", "--notify", "ftp://host"], "--notify takes an http", "https://"),
        (["completion", "csh"], "--shell is 'csh'", "bash, zsh, fish"),
        (["completion"], "--shell is missing", "completion"),
        (["status", "--plan-id"], "--plan-id needs a value", "--plan-id ID"),
        (["plan", "--target", "--from", "2025-01-01"], "--target needs a value", "--target DATABASE.TABLE"),
        (["list", "--json=yes"], "--json takes no value", "--json alone"),
        (["plan", "--targ", "a.b"], "plan has no flag --targ", "--target"),
        (["status"], "No plan was named", "clickhouse-backfill list"),
        (["run"], "No plan was named", "--last"),
        (["plan", "--from", "2025-01-01", "--to", "2025-01-02"], "--target is missing", "--target database.table"),
        (["plan", "--target", "a.b", "--to", "2025-01-02"], "--from is missing", "policy.requireExplicitWindow"),
        (["plan", "--target", "a.b", "--from", "2025-01-02"], "--to is missing", "policy.requireExplicitWindow"),
        (["status", "--plan-id", "xyz"], "'xyz' is not a plan id", "16 hex digits"),
        (["run", "--from", "2025"], "--from belongs to plan: policy.requireDryRunBeforeRun is true", "plan"),
        (
            ["run", "--plan-id", "0123456789abcdef", "--from", "2025"],
            "A stored plan cannot be changed by --from",
            "drop",
        ),
        (["run", "--plan-id", "0123456789abcdef", "--max-parallel-chunks", "0"], "maxParallelChunks is 0", "default"),
        (["run", "--plan-id", "0123456789abcdef", "--max-parallel-chunks", "two"], "'two'", "default"),
        (["check", "--target", "nodot"], "The target 'nodot' is not a table name", "database.table"),
        (["list", "--config", "nowhere.toml"], "nowhere.toml does not exist", "--config"),
    ],
)
def test_misuse_is_exit_2_and_says_what_to_type(bare: Cli, words: list[str], message: str, hint: str) -> None:
    answer = bare(*words)
    assert answer.code == 2
    assert answer.out == ""
    first, second = answer.err.splitlines()
    assert message in first
    assert hint in second
    assert not bare.state.exists()


@pytest.mark.parametrize(
    ("sources", "named"),
    [
        (["--source", "a.c", "--select", "SELECT 1"], "--source and --select exclude"),
        (["--source", "a.c", "--select-file", "x.sql"], "--source and --select-file exclude"),
        (["--select", "SELECT 1", "--select-file", "x.sql"], "--select and --select-file exclude"),
    ],
)
def test_rows_come_from_one_source(bare: Cli, sources: list[str], named: str) -> None:
    answer = bare("plan", "--target", "a.b", "--from", "2025-01-01", "--to", "2025-01-02", *sources)
    assert (answer.code, named in answer.err) == (2, True)


@pytest.mark.parametrize(
    ("flag", "value", "allowed"),
    [("--write-mode", "upsert", "stage, replace, insert"), ("--time-unit", "min", "s, ms, us, ns")],
)
def test_a_bad_choice_names_the_value_and_what_is_allowed(bare: Cli, flag: str, value: str, allowed: str) -> None:
    answer = bare("plan", "--target", "a.b", "--from", "2025-01-01", "--to", "2025-01-02", flag, value)
    assert answer.code == 2
    assert f"{flag} is '{value}'" in answer.err
    assert allowed in answer.err


@pytest.mark.parametrize("content", [None, b"  \n", b"\xff\xfe"])
def test_a_select_file_must_hold_a_select(bare: Cli, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "statement.sql"
    if content is not None:
        path.write_bytes(content)
    window = ("--from", "2025-01-01", "--to", "2025-01-02")
    answer = bare("plan", "--target", "a.b", *window, "--select-file", str(path))
    assert answer.code == 2
    assert str(path) in answer.err


@pytest.mark.parametrize("words", [["plann"], ["status"], ["status", "--plan-id", "xyz"], ["list", "--frce"]])
def test_errors_as_json_are_one_object_on_stdout(bare: Cli, words: list[str]) -> None:
    payload = bare.json(*words)
    assert set(payload) == {"ok", "command", "error", "hint", "exitCode"}
    assert (payload["ok"], payload["exitCode"]) == (False, 2)
    assert payload["command"] == (words[0] if words[0] in COMMANDS else "")


# ---------------------------------------------------------------- without a server


@pytest.mark.parametrize("url", ["", "http://user@127.0.0.1:9/db"])
def test_readers_need_no_server(bare: Cli, plan: Plan, url: str) -> None:
    """Readers use only the state folder, with an unknown address or without an answer there."""
    bare.url = url
    assert bare.json("status", "--plan-id", plan.plan_id)["status"] == "planned"
    assert [entry["planId"] for entry in bare.json("list")["plans"]] == [plan.plan_id]
    check = bare("check", "--json")
    assert check.code == 1
    assert check.payload["plugins"]["backfill"]["findingCodes"] == ["backfill_required_pending"]
    doctor = bare("doctor", "--plan-id", plan.plan_id, "--json")
    assert (doctor.code, doctor.payload["signal"]) == (0, "waiting")
    assert len(doctor.payload["notLookedAt"]) == 1
    assert bare.files() == [f"plans/{plan.plan_id}.json"]


@pytest.mark.parametrize("url", ["", "http://user@127.0.0.1:9/db", "nonsense"])
def test_cancel_is_recorded_whatever_can_be_reached(bare: Cli, plan: Plan, url: str) -> None:
    """Workers on other hosts obey the log; that this process cannot reach the server must not stop it."""
    bare.url = url
    answer = bare("cancel", "--plan-id", plan.plan_id, "--reason", "wrong month", "--json")
    assert answer.code == 0
    assert answer.payload["status"] == "cancelled"
    assert answer.payload["queries"].startswith("not looked at")
    (event,) = bare.events(plan.plan_id)
    assert (event["type"], event["reason"]) == ("RunCancelled", "wrong month")


def test_a_second_cancel_changes_nothing(bare: Cli, plan: Plan) -> None:
    bare("cancel", "--plan-id", plan.plan_id)
    payload = bare.json("cancel", "--plan-id", plan.plan_id)
    assert (payload["ok"], payload["noop"]) == (True, True)
    assert len(bare.events(plan.plan_id)) == 1


@pytest.mark.parametrize("words", [("plan", "--target", "a.b", "--from", "2025-01-01", "--to", "2025-01-02"), ("run",)])
def test_what_needs_a_server_says_so(bare: Cli, plan: Plan, words: tuple[str, ...]) -> None:
    answer = bare(*words, *(["--plan-id", plan.plan_id] if words == ("run",) else []))
    assert answer.code == 2
    assert "CLICKHOUSE_URL" in answer.err
    assert bare.files() == [f"plans/{plan.plan_id}.json"]


def test_the_account_that_runs_it_is_in_the_log(bare: Cli, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that a variable can change would be an invented one."""
    monkeypatch.setenv("USER", "somebody")
    monkeypatch.setenv("LOGNAME", "somebody")
    bare("cancel", "--plan-id", plan.plan_id)
    (event,) = bare.events(plan.plan_id)
    owner = Path(f"/proc/{os.getpid()}").owner()
    assert event["by"] == f"{owner}@{os.uname().nodename}"


def test_the_state_folder_comes_from_flag_environment_file_or_here(
    bare: Cli, plan: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def folder(*words: str) -> str:
        assert main(["list", "--json", *words]) == 0
        return str(json.loads(capsys.readouterr().out)["stateDir"])

    assert folder() == str(Path.cwd() / ".clickhouse-backfill")
    Path("clickhouse-backfill.toml").write_text('stateDir = "from-file"\n')
    assert folder() == str(Path.cwd() / "from-file")
    monkeypatch.setenv("CLICKHOUSE_BACKFILL_STATE_DIR", "from-environment")
    assert folder() == str(Path.cwd() / "from-environment")
    assert folder("--state-dir", "from-flag") == str(Path.cwd() / "from-flag")
    assert [path.name for path in Path.cwd().iterdir()] == ["clickhouse-backfill.toml"]


def test_an_unknown_state_url_is_not_taken_for_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--state-dir", "ftp://host/x"]) == 2
    assert "ftp://host/x" in capsys.readouterr().err
    assert list(Path.cwd().iterdir()) == []


# ---------------------------------------------------------------- advice, secrets, mishaps


def test_advice_carries_the_flags_it_needs(bare: Cli, plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    """Pasted as printed, it must find the same state folder; a password is left out of it."""
    state = bare.state.with_name("with space")
    bare.state.rename(state)
    url = "http://me:hidden-word@127.0.0.1:9/db"
    words = ["status", "--plan-id", plan.plan_id, "--state-dir", str(state), "--clickhouse-url", url, "--json"]
    assert main(words) == 0
    advice = shlex.split(json.loads(capsys.readouterr().out)["next"])
    assert advice == [
        *("clickhouse-backfill", "run", "--state-dir", str(state), "--clickhouse-url", "http://me@127.0.0.1:9/db"),
        *("--plan-id", plan.plan_id),
    ]
    # What a person wrote stays as it was written.
    reason = "clickhouse-backfill run did it"
    assert main(["waive", "--plan-id", plan.plan_id, "--reason", reason, "--state-dir", str(state), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reason"] == reason


@pytest.mark.parametrize("verbose", [[], ["--verbose"]])
def test_an_unexpected_error_is_one_line_without_secrets(
    bare: Cli, monkeypatch: pytest.MonkeyPatch, verbose: list[str]
) -> None:
    def explode(*_: object, **__: object) -> None:
        raise ValueError("cannot use http://me:pass%2Fword@host/ with pass/word or fromenv")

    monkeypatch.setattr(list_command, "list_plans", explode)
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", "fromenv")
    bare.url = "http://me:pass%2Fword@127.0.0.1:9/"
    answer = bare("list", *verbose, "--json")
    assert answer.code == 1
    assert "ValueError: cannot use" in answer.payload["error"]
    assert ("Traceback" in answer.err) == bool(verbose)
    for secret in ("pass%2Fword", "pass/word", "fromenv"):
        assert secret not in answer.out + answer.err


def test_an_interrupt_is_no_traceback(bare: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(list_command, "list_plans", interrupt)
    answer = bare("list")
    assert (answer.code, answer.err) == (130, "clickhouse-backfill: Interrupted.\n")


def test_an_interrupt_inside_code_from_text_ends_with_130_too(tmp_path: Path) -> None:
    """Otherwise ``python -m`` would end by SIGINT, with any exit code of the program."""
    (tmp_path / "sitecustomize.py").write_text(
        "import airflow_provider_backfill.cli.main as cli\n"
        "def main():\n"
        "    try:\n"
        "        eval('(_ for _ in ()).throw(KeyboardInterrupt)')\n"
        "    except KeyboardInterrupt:\n"
        "        return 130\n"
        "cli.main = main\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "airflow_provider_backfill.cli", "list"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (130, "")


def test_a_reader_that_leaves_is_no_traceback(bare: Cli, plan: Plan) -> None:
    """``clickhouse-backfill list | true``"""
    process = bare.start("list")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(30) == 1
    assert process.stderr.read() == ""
    process.stderr.close()


def test_the_password_is_read_from_flag_environment_or_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def password(*words: str) -> str | None:
        return environment.read_password(parser.parse(["list", *words]))

    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("one\n")
    second.write_text("two\r\n")
    assert password() is None
    monkeypatch.setenv("CLICKHOUSE_PASSWORD_FILE", str(first))
    assert password() == "one"
    monkeypatch.setenv("CLICKHOUSE_PASSWORD", "three")
    assert password() == "three"
    assert password("--password-file", str(second)) == "two"


def test_a_missing_password_file_is_exit_2(bare: Cli, plan: Plan) -> None:
    bare.url = "http://me@127.0.0.1:9/"
    answer = bare("run", "--plan-id", plan.plan_id, "--password-file", "nowhere")
    assert answer.code == 2
    assert "nowhere cannot be read: No such file" in answer.err


# ---------------------------------------------------------------- start


@pytest.mark.parametrize("command", ["status", "list", "check", "doctor"])
def test_readers_load_nothing_heavy(bare: Cli, plan: Plan, command: str) -> None:
    """A status command must start quickly; importing Airflow or the client would take seconds."""
    words = [command, "--state-dir", str(bare.state), *(["--plan-id", plan.plan_id] if "s" in command[:1] else [])]
    if command == "doctor":
        words += ["--plan-id", plan.plan_id]
    program = f"from airflow_provider_backfill.cli.main import main; main({words!r})"
    assert _loaded("-c", program) & HEAVY == set()


def test_the_version_loads_the_standard_library_only() -> None:
    loaded = _loaded("-m", "airflow_provider_backfill.cli", "--version") - _loaded("-c", "pass")
    assert loaded <= set(sys.stdlib_module_names) | {"airflow_provider_backfill"}


def test_it_is_a_module_and_a_script() -> None:
    done = subprocess.run([*PROGRAM, "--version"], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout == f"clickhouse-backfill {__version__}\n"


# ---------------------------------------------------------------- output


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.034, "0.03 s"),
        (1.26, "1.3 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (7_500, "2 h 5 min"),
        (90_061, "1 d 1 h"),
    ],
)
def test_seconds_for_people(seconds: float, text: str) -> None:
    assert show_seconds(seconds) == text


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        ("2025-01-01T00:00:00.000Z", "2025-01-01"),
        ("2025-01-01T06:00:00.000Z", "2025-01-01 06:00"),
        ("2025-01-01T06:00:05.000Z", "2025-01-01 06:00:05"),
        ("2025-01-01T00:00:00.250Z", "2025-01-01 00:00:00.250"),
    ],
)
def test_moments_for_people(moment: str, text: str) -> None:
    assert show_moment(moment) == text


def _started(plan: Plan, run: Run) -> list[ChunkStarted]:
    """Claims of every chunk of *plan*, folded into *run*."""
    events = []
    apply_event(run, RunStarted(at=START, by="me"))
    for chunk in plan.chunks():
        event = ChunkStarted(
            at=START,
            by="worker",
            chunk_id=chunk.id,
            attempt=1,
            start=chunk.start,
            end=chunk.end,
            query_id="q",
            lease_seconds=60,
        )
        apply_event(run, event)
        events.append(event)
    return events


def _done(started: ChunkStarted) -> ChunkDone:
    return ChunkDone(
        at=START, by="worker", chunk_id=started.chunk_id, attempt=1, content=ContentSums(1000, 1), seconds=0.5
    )


def test_a_small_plan_gets_a_line_for_each_chunk(bare: Cli, plan: Plan) -> None:
    run, out = new_run(plan), io.StringIO()
    lines = progress.LineProgress(out, lambda: run)
    for event in _started(plan, run):
        lines.report(event)
        done = _done(event)
        apply_event(run, done)
        lines.report(done)
    assert out.getvalue().splitlines() == [
        "00:00:00Z  1/4  2025-01-01 00:00 to 06:00  1,000 rows in 0.50 s",
        "00:00:00Z  2/4  2025-01-01 06:00 to 12:00  1,000 rows in 0.50 s",
        "00:00:00Z  3/4  2025-01-01 12:00 to 18:00  1,000 rows in 0.50 s",
        "00:00:00Z  4/4  2025-01-01 18:00 to 2025-01-02 00:00  1,000 rows in 0.50 s",
    ]


def test_a_large_plan_gets_few_lines_and_every_failure(bare: Cli) -> None:
    """A log of 100,000 lines hides the three failures that matter, and reading the run for each would cost."""
    plan = _store_plan(bare.state, "shop.large", hours=0.25)
    run, out, looks = new_run(plan), io.StringIO(), []

    def look() -> Run:
        looks.append(1)
        return run

    lines = progress.LineProgress(out, look)
    for index, event in enumerate(_started(plan, run)):
        lines.report(event)
        if index % 32 == 5:
            lines.report(
                ChunkFailed(at=START, by="worker", chunk_id=event.chunk_id, attempt=1, message="no memory", final=False)
            )
            continue
        lines.report(_done(event))
    shown = out.getvalue().splitlines()
    assert sum("failed, will be retried: no memory" in line for line in shown) == 3
    assert len(shown) == 4
    assert len(looks) == 5


def test_rate_and_time_left_count_from_the_first_look(bare: Cli, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """The speed of an earlier run says nothing about this run."""
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    run = new_run(plan)
    events = _started(plan, run)
    apply_event(run, _done(events[0]))
    pace = progress.RateMeter(run)
    clock[0] += 10
    assert pace.text(run) == ""
    apply_event(run, _done(events[1]))
    assert re.fullmatch(r"about 20 s left, until \d\d:\d\d, 6\.0 chunks/min, writes 100 rows/s", pace.text(run))


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    show: Callable[[io.StringIO], str] = lambda out: console.paint("failed", "failed", out)  # noqa: E731
    monkeypatch.setenv("TERM", "xterm")
    assert show(Terminal()) == "\x1b[31mfailed\x1b[0m"
    assert show(io.StringIO()) == "failed"
    monkeypatch.setenv("NO_COLOR", "1")
    assert show(Terminal()) == "failed"
