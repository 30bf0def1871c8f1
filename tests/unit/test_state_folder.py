"""The state folder against other users of the machine, and against manual changes to its files."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_backfill.commands.session import Session
from airflow_provider_backfill.errors import DamagedStateError, StateError
from airflow_provider_backfill.options import Options
from airflow_provider_backfill.state.posix import FileBackend
from airflow_provider_backfill.state.store import StateStore
from airflow_provider_backfill.web.views.overview import Overview
from tests.command_line import Cli
from tests.state import make_plan, started

PLAN = make_plan()
OTHER = make_plan(target="shop.others")
FIRST = next(PLAN.chunks())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def store(folder: Path) -> StateStore:
    return StateStore(FileBackend(folder))


@pytest.fixture(autouse=True)
def wide_umask() -> Iterator[None]:
    """With the widest umask, narrow permissions are intended."""
    before = os.umask(0)
    yield
    os.umask(before)


def _work(store: StateStore) -> None:
    store.save_plan(PLAN)
    log = store.open_run(PLAN)
    log.append(started(PLAN, FIRST))
    log.write_checkpoint()


def _modes(folder: Path) -> set[tuple[str, str]]:
    paths = [folder, *folder.rglob("*")]
    return {("folder" if path.is_dir() else "file", oct(stat.S_IMODE(path.stat().st_mode))) for path in paths}


def test_files_are_their_owners_alone(folder: Path, store: StateStore) -> None:
    """A plan contains SELECTs, and a log contains messages of the server."""
    _work(store)
    assert _modes(folder) == {("folder", "0o700"), ("file", "0o600")}


@pytest.mark.parametrize(("mode", "files", "folders"), [(0o770, "0o660", "0o770"), (0o777, "0o666", "0o777")])
def test_a_folder_that_lets_its_group_write_shares_its_files(
    folder: Path, store: StateStore, mode: int, files: str, folders: str
) -> None:
    """Workers of several accounts use one folder, with any umask."""
    folder.mkdir()
    folder.chmod(mode)
    os.umask(0o077)
    _work(store)
    assert _modes(folder) == {("folder", oct(mode)), ("folder", folders), ("file", files)}


@pytest.mark.parametrize("name", ["plans", "runs", "events", "locks"])
def test_no_folder_is_followed_elsewhere(folder: Path, store: StateStore, tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder.mkdir()
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(StateError, match="symbolic link"):
        _work(store)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("name", [f"events/{PLAN.plan_id}.ndjson", f"locks/{PLAN.plan_id}.lock"])
def test_no_file_is_written_through_a_link(folder: Path, store: StateStore, tmp_path: Path, name: str) -> None:
    """Whoever may make a link in the folder could have any file of ours overwritten."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (folder / name).parent.mkdir(parents=True)
    (folder / name).symlink_to(victim)
    with pytest.raises(StateError, match="symbolic link"):
        _work(store)
    assert victim.read_text() == "precious"


def test_a_link_in_place_of_a_file_is_replaced_itself(folder: Path, store: StateStore, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (folder / "runs").mkdir(parents=True)
    _work(store)
    run = folder / "runs" / f"{PLAN.plan_id}.json"
    run.unlink()
    run.symlink_to(victim)
    store.backend.replace(f"runs/{PLAN.plan_id}.json", b"{}")
    assert victim.read_text() == "precious"
    assert not run.is_symlink()


def test_a_dangling_link_does_not_make_a_plan(folder: Path, store: StateStore, tmp_path: Path) -> None:
    (folder / "plans").mkdir(parents=True)
    (folder / "plans" / f"{PLAN.plan_id}.json").symlink_to(tmp_path / "nowhere")
    assert store.save_plan(PLAN) is False
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"shop.orders"', '"shop.payments"'),
        ("2025-01-02", "2025-01-03"),
        ('"engine": "MergeTree"', '"engine": "Log"'),
        ('"stage"', '"insert"'),
        ('"statements": []', '"statements": [] '),
        ('"sha256": "', '"sha256": "0'),
    ],
)
def test_a_plan_that_was_edited_is_refused(store: StateStore, folder: Path, old: str, new: str) -> None:
    """A plan was shown and approved; its text decides which SQL runs."""
    store.save_plan(PLAN)
    path = folder / "plans" / f"{PLAN.plan_id}.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(DamagedStateError) as caught:
        store.load_plan(PLAN.plan_id)
    assert str(path) in caught.value.message


def test_a_plan_without_its_checksum_is_refused(store: StateStore, folder: Path) -> None:
    store.save_plan(PLAN)
    path = folder / "plans" / f"{PLAN.plan_id}.json"
    document = json.loads(path.read_text())
    del document["sha256"]
    path.write_text(json.dumps(document, indent=2))
    with pytest.raises(DamagedStateError, match="its text was changed since it was planned"):
        store.load_plan(PLAN.plan_id)


@pytest.mark.parametrize("name", ["plans/{}.json", "runs/{}.json", "events/{}.ndjson"])
def test_a_file_that_cannot_be_read_hides_no_other_plan(
    folder: Path, store: StateStore, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Such as a folder where the file should be: a finding of that plan, not the end of the look."""
    _work(store)
    store.save_plan(OTHER)
    path = folder / name.format(PLAN.plan_id)
    path.unlink()
    path.mkdir()
    cli = Cli(folder, "", capsys)
    listed = cli.json("list")
    assert [plan["planId"] for plan in listed["plans"]] == [OTHER.plan_id]
    assert [entry["planId"] for entry in listed["damaged"]] == [PLAN.plan_id]
    findings = cli.json("check")["plugins"]["backfill"]["findings"]
    (finding,) = [finding for finding in findings if finding["code"] == "backfill_state_damaged"]
    assert finding["planId"] == PLAN.plan_id
    assert "cannot be read: Is a directory" in finding["message"]
    page = Overview(Session(store, Options(), None, "ada")).plans()
    assert [plan["planId"] for plan in page["plans"]] == [OTHER.plan_id]
    assert [entry["planId"] for entry in page["damaged"]] == [PLAN.plan_id]
    assert cli("status", "--plan-id", PLAN.plan_id).code == 2
    assert cli("status", "--plan-id", OTHER.plan_id).code == 0


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe\n",
        b'{"at":"x","type":"ChunkDone"}\n',
        b'{"at":"yesterday","type":"RunStarted","by":"x"}\n',
        b'{"at":1e999,"type":"RunStarted"}\n',
        b'["type":"ChunkDone"]\n',
        b'{"at":"2025-01-01T00:00:00.000Z","by":"x","type":"ChunkDone","content":[],"seconds":1}\n',
        b'{"at":"9999-99-99","x":"content":[1,2],"seconds":1.2.3}\n',
        b"[" * 20_000 + b'"type":"ChunkDone"\n',
    ],
)
def test_a_damaged_line_is_an_error_of_the_page_that_names_it(store: StateStore, line: bytes) -> None:
    _work(store)
    overview = Overview(Session(store, Options(), None, "ada"))
    overview.plan(PLAN.plan_id)
    with Path(store.event_path(PLAN.plan_id)).open("ab") as file:
        file.write(line)
    for look in (overview.plan, lambda name: overview.chunk(name, FIRST.id), Overview(overview.session).plan):
        with pytest.raises(DamagedStateError, match="line 3"):
            look(PLAN.plan_id)
    assert overview.plans()["verdict"]["damaged"] == 1
