"""Random calls: each ends with an exit code of the contract, and with a message."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_backfill.cli.flags import COMMANDS, COMMON
from airflow_provider_backfill.cli.main import main
from airflow_provider_backfill.core.events import ChunkDone, ChunkFailed, RunCancelled
from airflow_provider_backfill.core.run_state import ContentSums
from airflow_provider_backfill.state.posix import FileBackend
from airflow_provider_backfill.state.store import StateStore
from tests.state import START, chunks_of, make_plan, started

# These wait for a running run, as they must.
_WAITING = {"--watch", "--follow"}
_VALUES = [
    *("", " ", "-", "--", "=", "\n", "\x00", "\x1b[2J", "\u202e", "\udcff\udc80", "é" * 300, "x" * 70_000, "%s%n{}{0}"),
    *(
        "0",
        "-1",
        "1",
        "1.5",
        "nan",
        "inf",
        "1e999",
        "9" * 20,
        "9" * 5_000,
        "٣",
        "\uff11",
        "0x10",
        "1_000",
        "1e-320",
        "+6",
    ),
    *("6h", "1d", "1mo", "13mo", "month", "partition", "day@Europe/Berlin", "day@../../etc/passwd", "6|rows=1", "0mo"),
    *("2025", "2025-01-01", "2025-02-30", "2025-01-02T00:00:00+99:00", "9999-12-31T24:00", "0000-01-01", "0001-01-01"),
    *("db.t", "shop.orders", "a.b.c", "`a`.`b", '"a"."b"', "a.`b\\`c`", ".", "``.``", "t", "db.t; DROP TABLE x"),
    *(
        "SELECT 1",
        "SELECT * FROM s3('x', 'y', 'z')",
        "(((((((((",
        "stage",
        "replace",
        "insert",
        "text",
        "github",
        "json",
    ),
    *("http://127.0.0.1:9/db", "http://u:p@h:99999/", "chdb://", "://", "s3://a:b@c/d", "file:///dev/null/x", "bash"),
    *("/", "/dev/null", "/dev/zero", "/proc/self/mem", "nowhere/at/all", "state", "odd.yaml", "odd.json", "odd.toml"),
    *("../../x", "0123456789abcdef", "0" * 17, "running", "failed", "off", "s", "ns", "90m", "7d", "9999999999d"),
]
_ODD = {
    "odd.yaml": "a: &a [x,x]\nb: &b [*a,*a]\nbackfill: [*b]\n",
    "odd.json": "[" * 50_000,
    "odd.toml": f"backfill = {'[' * 5_000}{']' * 5_000}\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with plans at every status, a damaged one, and odd files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AIRFLOW_HOME", raising=False)
    for name, text in _ODD.items():
        (tmp_path / name).write_text(text)
    store = StateStore(FileBackend(tmp_path / "state"))
    for number, target in enumerate(("shop.orders", "shop.done", "shop.failed", "shop.cancelled")):
        plan = make_plan(1, target=target)
        (chunk,) = chunks_of(plan)
        store.save_plan(plan)
        log = store.open_run(plan)
        at: dict[str, Any] = {"at": START, "by": "host:1:2:a"}
        if number:
            log.append(started(plan, chunk))
        if number == 1:
            log.append(ChunkDone(**at, chunk_id=chunk.id, attempt=1, content=ContentSums(1, 2), seconds=1))
        if number == 2:
            log.append(ChunkFailed(**at, chunk_id=chunk.id, attempt=1, message="no", final=True))
        if number == 3:
            log.append(RunCancelled(**at))
    (tmp_path / "state" / "plans" / "0123456789abcdef.json").write_text("[" * 50_000)
    return tmp_path


def _words(chance: random.Random, ids: list[str]) -> list[str]:
    command = chance.choice(list(COMMANDS))
    about = COMMANDS[command]
    own = [flag for flag in (*about.flags, *about.more, *COMMON) if flag.name not in _WAITING]
    others = [flag for other in COMMANDS.values() for flag in other.flags if flag.name not in _WAITING]
    words = [command] if chance.random() < 0.97 else []
    if chance.random() < 0.7 and about.flags:
        words += ["--plan-id", chance.choice(ids)] if chance.random() < 0.5 else [chance.choice([*ids, *_VALUES])]
    for _ in range(chance.randrange(6)):
        flag = chance.choice(own if chance.random() < 0.9 else others)
        value = chance.choice(_VALUES)
        if chance.random() < 0.2:
            words.append(f"{flag.name}={value}")
        else:
            words += [flag.name, value] if flag.value and chance.random() < 0.95 else [flag.name]
    if chance.random() < 0.1:
        words.insert(chance.randrange(len(words) + 1), chance.choice(_VALUES))
    # The last one counts: nothing is written outside the folder, and no remote server is contacted.
    words += ["--state-dir", "state"] if chance.random() < 0.9 else []
    return [*words, "--clickhouse-url", "http://127.0.0.1:9/db"] if chance.random() < 0.3 else words


@pytest.mark.parametrize("calls", [150, pytest.param(2_000, marks=pytest.mark.long)])
def test_every_call_ends_with_a_code_and_a_word(folder: Path, calls: int, capsys: pytest.CaptureFixture[str]) -> None:
    ids = StateStore(FileBackend(folder / "state")).plan_ids()
    bad = []
    for seed in range(calls):
        words = _words(random.Random(seed), ids)  # noqa: S311 - the same calls each time
        code = main(words)
        out, err = capsys.readouterr()
        told = "Unexpected error" not in err and "Traceback" not in err and (out or err or "--quiet" in words)
        if code not in (0, 1, 2, 3) or not told:
            bad.append((seed, code, [word[:60] for word in words], err[:300]))
    assert bad == []


@pytest.mark.parametrize("word", ["٣", "\uff11", "9" * 5_000, "1e999", "nan", "-1", "0"])
@pytest.mark.parametrize(
    "flags",
    [
        ["set-parallel", "--parallel"],
        ["run", "--max-load"],
        ["run", "--max-failures"],
        ["check", "--max-age"],
        ["plan", "--target", "a.b", "--from", "2025", "--to", "2026", "--chunk-hours"],
        ["plan", "--target", "a.b", "--from", "2025", "--to", "2026", "--max-chunk-rows"],
    ],
)
def test_a_number_that_is_none_is_a_usage_error(
    folder: Path, flags: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = ["--plan-id", make_plan(1).plan_id] if flags[0] in ("set-parallel", "run") else []
    assert (
        main([flags[0], *plan, *flags[1:], word, "--state-dir", "state", "--clickhouse-url", "http://127.0.0.1:9"]) == 2
    )
    err = capsys.readouterr().err
    assert flags[-1] in err or repr(word)[:1_000] in err


def test_an_argument_that_is_not_utf8_is_a_usage_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Python represents such a byte as a lone surrogate, which cannot be written to a file."""
    assert main(["waive", "--plan-id", make_plan(1).plan_id, "--reason", "caf\udce9", "--state-dir", "state"]) == 2
    assert "An argument is not UTF-8 text." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("r.yaml", "a: &a [x]\nb: *a\n", "line 2 has an alias (*a)"),
        ("r.yaml", "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"b{n}: &b{n} [*a,*a]\n" for n in range(9)), "alias"),
        ("r.yaml", "[" * 5_000, "nested too deeply"),
        ("r.json", "[" * 50_000, "nested too deeply"),
        ("r.toml", f"a = {'[' * 5_000}", "nested too deeply"),
        ("r.json", f'{{"backfill": [{{"target": "a.b", "from": {"9" * 5_000}, "to": 1}}]}}', "not valid JSON"),
        ("r.yaml", f"backfill: [{{target: a.b, from: 0x{'f' * 5_000}, to: 1}}]", "write it in quotes"),
        ("r.yaml", "x" * (5 << 20), "longer than 4 MiB"),
    ],
)
def test_a_file_of_required_backfills_takes_no_more_than_it_is(
    folder: Path, name: str, text: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """449 bytes of aliases took 3 GiB."""
    (folder / name).write_text(text)
    assert main(["check", "--required", name, "--state-dir", "state"]) == 2
    assert reason in capsys.readouterr().err
