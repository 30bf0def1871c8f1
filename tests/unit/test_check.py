"""``check`` for CI without a ClickHouse: its counts, and its output for other tools."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from airflow_provider_backfill.cli import ci_reports
from airflow_provider_backfill.cli.required_file import read_required
from airflow_provider_backfill.commands.check import check_backfills
from airflow_provider_backfill.commands.lease import utc_now
from airflow_provider_backfill.commands.session import Session
from airflow_provider_backfill.core.events import RunReplayed
from airflow_provider_backfill.core.names import show_table
from airflow_provider_backfill.core.plan import Plan
from airflow_provider_backfill.core.run_state import ChunkStatus, Run, RunStatus
from airflow_provider_backfill.core.tables import TableName
from airflow_provider_backfill.errors import ConfigError, StateError
from airflow_provider_backfill.options import Options
from airflow_provider_backfill.state.posix import FileBackend
from airflow_provider_backfill.state.store import StateStore
from tests.command_line import Cli
from tests.state import chunks_of, done, failed, make_plan, started

OLD = make_plan(planned_at=utc_now() - timedelta(hours=30))
YOUNG = make_plan(6, planned_at=utc_now(), target="shop.`Ödå 100%`")


@pytest.fixture
def store(cli: Cli) -> StateStore:
    """The state folder with an old and a young plan."""
    store = StateStore(FileBackend(cli.state))
    for plan in (OLD, YOUNG):
        store.save_plan(plan)
    return store


def complete(store: StateStore, plan: Plan) -> None:
    log = store.open_run(plan)
    for chunk in chunks_of(plan):
        log.append(started(plan, chunk))
        log.append(done(chunk))


def result(answer: dict[str, Any]) -> dict[str, Any]:
    backfill: dict[str, Any] = answer["plugins"]["backfill"]
    return backfill


def test_the_payload_is_that_of_the_contract(cli: Cli, store: StateStore) -> None:
    complete(store, OLD)
    answer = cli("check", "--json")
    assert answer.code == 1
    payload = answer.payload
    assert (payload["ok"], payload["failedChecks"]) == (False, ["plugin:backfill"])
    backfill = result(payload)
    (finding,) = backfill.pop("findings")
    assert {key: backfill[key] for key in ("evaluated", "ok", "requiredCount", "activeRuns", "failedRuns")} == {
        "evaluated": 2,
        "ok": False,
        "requiredCount": 1,
        "activeRuns": 0,
        "failedRuns": 0,
    }
    assert backfill["findingCodes"] == ["backfill_required_pending"]
    assert set(finding) == {"code", "severity", "message", "planId", "hint", "remedy"}
    assert finding["planId"] == YOUNG.plan_id


def test_target_narrows(cli: Cli, store: StateStore) -> None:
    complete(store, OLD)
    assert cli("check", "--target", "shop.orders").code == 0
    assert cli("check", "--target", show_table(YOUNG.target)).code == 1


@pytest.mark.parametrize(
    ("age", "severities"),
    [("36h", ["warn", "warn"]), ("1d", ["error", "warn"]), ("1440m", ["error", "warn"]), ("0m", ["error", "error"])],
)
def test_max_age_gives_young_plans_time(cli: Cli, store: StateStore, age: str, severities: list[str]) -> None:
    """A backfill that was planned this morning need not stop every merge of the day."""
    answer = cli("check", "--max-age", age, "--json")
    assert [finding["severity"] for finding in result(answer.payload)["findings"]] == severities
    assert answer.code == ("error" in severities)


@pytest.mark.parametrize("words", [["--max-age", "soon"], ["--max-age", "3"], ["--format", "xml"], ["--format"]])
def test_wrong_flags_are_usage_errors(cli: Cli, words: list[str]) -> None:
    assert cli("check", *words).code == 2


def test_github_gets_one_annotation_per_finding(cli: Cli, store: StateStore) -> None:
    """Percent signs and line breaks would end the workflow command early."""
    answer = cli("check", "--format", "github")
    lines = answer.out.splitlines()
    assert answer.code == 1
    assert len(lines) == 2
    assert all(line.startswith("::error title=backfill_required_pending::") for line in lines)
    assert any("shop.Ödå 100%25" in line for line in lines)
    assert all("%0Aclickhouse-backfill run " in line for line in lines)


def test_junit_fails_for_errors_only(cli: Cli, store: StateStore, tmp_path: Path) -> None:
    log = store.open_run(OLD)
    chunk = chunks_of(OLD)[0]
    log.append(started(OLD, chunk))
    log.append(failed(chunk, final=True).model_copy(update={"message": "bad \x1b[31m<value> & more"}))
    path = tmp_path / "junit.xml"
    assert cli("check", "--max-age", "1h", "--junit", str(path)).code == 1
    suite = ElementTree.parse(path).getroot()  # noqa: S314 - our own file
    cases = {case.attrib["name"]: case for case in suite.iter("testcase")}
    assert (suite.attrib["tests"], suite.attrib["failures"]) == ("4", "2")
    assert len(cases) == 4
    broken = cases[f"backfill_chunk_failed_retry_exhausted {OLD.plan_id}"].find("failure")
    assert broken is not None
    assert "<value> & more" in broken.attrib["message"]
    assert cases[f"backfill_required_pending {YOUNG.plan_id}"].find("failure") is None
    assert cases["0 plans without findings"].find("failure") is None


def test_a_junit_file_that_cannot_be_written_is_an_error(cli: Cli, store: StateStore, tmp_path: Path) -> None:
    """A CI job that shows yesterday's file would be green."""
    answer = cli("check", "--junit", str(tmp_path / "missing" / "junit.xml"))
    assert answer.code == 1
    assert "--junit" in answer.err
    with pytest.raises(StateError):
        ci_reports.write_junit(cli.json("check"), tmp_path)


# ---------------------------------------------------------------- declared backfills


def write(folder: Path, text: str) -> Path:
    path = folder / "required.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_declaration_says_what_where_and_why(tmp_path: Path) -> None:
    """TOML's own dates and times need no quotes; without a zone they are UTC."""
    path = write(
        tmp_path,
        '[[backfill]]\ntarget = "a.`b c`"\nfrom = 2025-01-01\nto = 2025-01-02T06:00:00\nreason = "why"\nowner = "who"\n'
        '[[backfill]]\ntarget = "a.b"\nfrom = "2025-01-01"\nto = 2025-01-02T06:00:00+02:00\n',
    )
    first, second = read_required(path)
    assert (first.target, first.reason, first.owner) == (TableName("a", "b c"), "why", "who")
    assert first.end - first.start == timedelta(hours=30)
    assert second.end - second.start == timedelta(hours=28)
    assert second.where == f"{path} [[backfill]] 2"


def test_an_empty_file_demands_nothing(cli: Cli, tmp_path: Path) -> None:
    assert read_required(write(tmp_path, "")) == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[[backfill]]\ntarget = 'a.b'\n", "has no from, to"),
        ("[[backfill]]\ntarget = 'a.b'\nfrom = 2025-01-01\nto = 2025-01-02\nwho = 'x'\n", "has who"),
        ("[[backfill]]\ntarget = 'ab'\nfrom = 2025-01-01\nto = 2025-01-02\n", "'ab' is not a table name"),
        ("[[backfill]]\ntarget = 'a.b'\nfrom = 'soon'\nto = 2025-01-02\n", "soon"),
        ("[[backfill]]\ntarget = 'a.b'\nfrom = 2025-01-02\nto = 2025-01-02\n", "is not before"),
        ("[[backfill]]\ntarget = 5\nfrom = 2025-01-02\nto = 2025-01-03\n", "'5' is not a table name"),
        ("[backfill]\ntarget = 'a.b'\n", "[[backfill]]"),
        ("[[backfills]]\n", "backfills"),
        ("nonsense", "not valid TOML"),
    ],
)
def test_a_wrong_declaration_names_the_entry(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_required(write(tmp_path, text))
    assert what in str(caught.value)
    assert "required.toml" in str(caught.value)


SAME = {
    "required.toml": "[[backfill]]\ntarget = 'a.b'\nfrom = 2025-01-01\nto = 2025-01-02T06:00:00Z\nowner = 'x'\n",
    "required.yaml": "backfill:\n  - target: a.b\n    from: 2025-01-01\n    to: 2025-01-02T06:00:00Z\n    owner: x\n",
    "required.YML": "backfill: [{target: a.b, from: 2025-01-01, to: '2025-01-02T06:00:00Z', owner: x}]",
    "required.json": '{"backfill": [{"target": "a.b", "from": "2025-01-01", "to": "2025-01-02T06:00Z", "owner": "x"}]}',
}


@pytest.mark.parametrize("name", SAME)
def test_declarations_are_the_same_in_toml_yaml_and_json(tmp_path: Path, name: str) -> None:
    """Teams keep such files in the language of their other files."""
    path = tmp_path / name
    path.write_text(SAME[name])
    (declared,) = read_required(path)
    end = datetime(2025, 1, 2, 6, tzinfo=UTC)
    assert (declared.target, declared.start, declared.end) == (
        TableName("a", "b"),
        datetime(2025, 1, 1, tzinfo=UTC),
        end,
    )
    assert (declared.owner, declared.where) == ("x", f"{path} [[backfill]] 1")


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("r.yaml", "backfill:\n  - target: [", "not valid YAML"),
        ("r.yaml", "- target: a.b\n", "holds a list"),
        ("r.yaml", "backfill: [a.b]\n", "[[backfill]] 1 is 'a.b'"),
        ("r.yaml", "backfill:\n  - target: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("r.json", "{", "not valid JSON"),
        ("r.json", '{"backfill": {}}', "holds backfill"),
    ],
)
def test_a_wrong_declaration_in_yaml_or_json(tmp_path: Path, name: str, text: str, what: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_required(path)
    assert what in str(caught.value)
    assert caught.value.hint


def test_a_missing_declaration_file_is_a_usage_error(cli: Cli, tmp_path: Path) -> None:
    """A gate that reads no file must not be open."""
    assert cli("check", "--required", str(tmp_path / "none.toml")).code == 2


def test_declared_backfills_count_as_required(cli: Cli, store: StateStore, tmp_path: Path) -> None:
    complete(store, OLD)
    text = "[[backfill]]\ntarget = '{}'\nfrom = 2025-01-01\nto = 2025-01-{}\n"
    done_already = write(tmp_path, text.format(OLD.target, "02"))
    assert cli("check", "--target", show_table(OLD.target), "--required", str(done_already)).code == 0
    more = write(tmp_path, text.format(OLD.target, "03"))
    answer = cli("check", "--target", show_table(OLD.target), "--required", str(more), "--json")
    assert answer.code == 1
    assert result(answer.payload)["requiredCount"] == 1
    # Narrowed to another table, it is not looked for.
    assert (
        "backfill_plan_missing" not in cli("check", "--target", show_table(YOUNG.target), "--required", str(more)).out
    )


def test_a_plan_that_vanishes_meanwhile_is_no_finding(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user plans again with --force between the listing and the reading."""
    session = Session(store, Options(), None, "test")
    names = [*store.plan_ids(), "0" * 16]
    monkeypatch.setattr(StateStore, "plan_ids", lambda _: names)
    assert result(check_backfills(session))["evaluated"] == 2


# ---------------------------------------------------------------- the brief look


def brief(store: StateStore, plan: Plan) -> Run:
    ((_, found),) = store.runs([plan.plan_id], brief=True)
    assert not isinstance(found, StateError), found
    return found[1]


def test_a_brief_look_leaves_out_done_chunks_and_nothing_else(store: StateStore) -> None:
    """They are most of a run file: 1,000 plans are judged in a fraction of a second without them."""
    complete(store, OLD)
    log = store.open_run(OLD)
    log.write_checkpoint()
    look = brief(store, OLD)
    assert look.done == {}
    assert replace(look, done=log.run.done) == log.run
    assert look.status is RunStatus.COMPLETED


def test_a_brief_look_folds_what_the_run_file_does_not_have_yet(store: StateStore) -> None:
    """Then the whole run is there, as an event can be about any chunk."""
    log = store.open_run(OLD)
    first, second, *_ = chunks_of(OLD)
    log.append(started(OLD, first))
    log.append(done(first))
    log.write_checkpoint()
    log.append(started(OLD, second))
    log.append(done(second))
    assert brief(store, OLD) == log.run
    log.append(RunReplayed(at=utc_now(), by="someone", statuses=(ChunkStatus.DONE,)))
    assert brief(store, OLD) == log.run


def test_a_brief_look_sees_damage_in_what_it_leaves_out(cli: Cli, store: StateStore) -> None:
    """A block of zeros in the middle of a file, as a power cut leaves it."""
    complete(store, OLD)
    store.open_run(OLD).write_checkpoint()
    path = Path(store.run_path(OLD.plan_id))
    data = path.read_bytes()
    middle = data.index(b'"done":{') + 60
    path.write_bytes(data[:middle] + bytes(40) + data[middle + 40 :])
    assert "backfill_state_damaged" in result(cli.json("check"))["findingCodes"]
