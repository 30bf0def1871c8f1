"""Power that is cut while state and rows are written: what was never synced is gone, as on a real disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest

from airflow_provider_backfill.core.run_state import ChunkStatus, RunStatus
from airflow_provider_backfill.state.posix import FileBackend
from airflow_provider_backfill.state.store import StateStore
from tests.command_line import Cli, wait_until
from tests.server import ClickHouseServer
from tests.state import make_plan
from tests.system.committer import CHUNK_HOURS
from tests.system.disk import Disk, new_disk

ROOT = Path(__file__).parents[2]
PLAN = make_plan(400, hours=CHUNK_HOURS)
_NO_SYNC = (
    "import os, sys; os.fsync = lambda handle: None; from tests.system.committer import main; main(*sys.argv[1:])"
)
_SYNCS = "import sys; from tests.system.committer import main; main(*sys.argv[1:])"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with new_disk(tmp_path / "power") as disk:
        yield disk


def _writers(code: str, state: Path, notes: Path, count: int) -> list[subprocess.Popen[bytes]]:
    arguments = [str(state), "{}", str(PLAN.chunk_count)]
    return [
        subprocess.Popen([sys.executable, "-c", code, *arguments, str(notes / f"notes-{n}"), "60"], cwd=ROOT)
        for n in range(count)
    ]


def _told(notes: Path) -> set[tuple[str, str, int, str]]:
    """What writers were told; a line that was being written when they were stopped is no answer yet."""
    lines = [line for path in notes.glob("notes-*") for line in path.read_text().split("\n")[:-1]]
    return {(kind, *rest) for kind, *rest in map(json.loads, lines) if kind != "refused"}


def _events(store: StateStore) -> list[dict[str, Any]]:
    """Return the events on a disk without a torn last line, of which nobody was told."""
    data = store.backend.read(f"events/{PLAN.plan_id}.ndjson") or b""
    return [json.loads(line) for line in data.split(b"\n")[:-1]]


def _lost(disk: Disk, code: str, notes: Path, cuts: int) -> list[int]:
    """How many of the acknowledged events are not on the disk, at each of *cuts* moments of three writers' work."""
    state = disk.folder / "state"
    StateStore(FileBackend(state)).save_plan(PLAN)
    disk.sync()
    writers = _writers(code, state, notes, 3)
    lost: list[int] = []
    seen = 0
    try:
        while len(lost) < cuts:
            # Each cut comes when there is something new to lose.
            while len(_told(notes)) < seen + 20:
                assert any(writer.poll() is None for writer in writers), "the writers were done before the last cut"
                time.sleep(0.01)
            for writer in writers:
                os.kill(writer.pid, signal.SIGSTOP)
            told = _told(notes)
            with disk.after_a_power_cut() as folder:
                store = StateStore(FileBackend(folder / "state"))
                log = store.open_run(PLAN)
                written = {(e["type"], e["chunkId"], e["attempt"], e["by"]) for e in _events(store) if "chunkId" in e}
                lost.append(len(told - written))
                if not lost[-1]:
                    assert log.run.count(ChunkStatus.DONE) >= sum(kind == "ChunkDone" for kind, *_ in told)
            seen = len(told)
            for writer in writers:
                os.kill(writer.pid, signal.SIGCONT)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
    return lost


def test_what_was_told_is_on_the_disk_at_any_moment(disk: Disk, tmp_path: Path) -> None:
    """Of what a worker was told nothing is lost, whenever the power goes."""
    assert _lost(disk, _SYNCS, tmp_path, 12) == [0] * 12


def test_this_disk_shows_what_nobody_has_synced(disk: Disk, tmp_path: Path) -> None:
    """Without fsync the same writers lose what they were told, so that the test above can fail."""
    assert sum(_lost(disk, _NO_SYNC, tmp_path, 3)) > 0


def test_a_run_goes_on_after_a_power_cut(disk: Disk, tmp_path: Path) -> None:
    """Work that was cut is repeated by a later attempt, and each chunk ends once."""
    _lost(disk, _SYNCS, tmp_path, 3)
    with disk.after_a_power_cut() as folder:
        writers = _writers(_SYNCS, folder / "state", tmp_path, 3)
        assert [writer.wait(120) for writer in writers] == [0, 0, 0]
        store = StateStore(FileBackend(folder / "state"))
        assert store.open_run(PLAN).run.status is RunStatus.COMPLETED
        ends = Counter(e["chunkId"] for e in _events(store) if e["type"] == "ChunkDone")
        assert set(ends.values()) == {1}
        assert len(ends) == PLAN.chunk_count


COLUMNS = "(ts DateTime('UTC'), id UInt64) ENGINE = MergeTree PARTITION BY toYYYYMMDD(ts) ORDER BY id"
SYNCED = "SETTINGS fsync_after_insert = 1, fsync_part_directory = 1"
WINDOW = ("--from", "2025-01-01", "--to", "2025-03-02")


def _plan(disk: Disk, cli: Cli, settings: str, *flags: str) -> None:
    """Plan a copy of sixty days, with the source and the plan safely on the disk."""
    client = clickhouse_connect.get_client(dsn=cli.url)
    client.command(f"CREATE TABLE src {COLUMNS}")
    client.command("INSERT INTO src SELECT toDateTime('2025-01-01', 'UTC') + number * 720, number FROM numbers(7200)")
    client.command(f"CREATE TABLE dst {COLUMNS} {settings}")
    assert (
        cli("plan", "--target", "default.dst", "--source", "default.src", *WINDOW, *flags, "--force-large-window").code
        == 0
    )
    disk.sync()


@pytest.mark.long
@pytest.mark.parametrize("mode", ["stage", "replace"])
@pytest.mark.parametrize(("settings", "code"), [(SYNCED, 0), ("", 1)], ids=["synced", "by default"])
def test_verify_says_whether_the_server_has_kept_the_rows(
    disk: Disk, tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: str, code: int, mode: str
) -> None:
    """A plan that was completed before the cut: its rows are there, or ``verify`` says that they are not."""
    with ClickHouseServer(disk.folder / "server") as server:
        cli = Cli(tmp_path / "state", server.url, capsys)
        _plan(disk, cli, settings, "--chunk-hours", "24", "--write-mode", mode)
        assert cli("run", "--last").code == 0
        server.pause()
        with disk.after_a_power_cut() as folder, ClickHouseServer(folder / "server") as later:
            cli.url = later.url
            assert cli("verify", "--last").code == code
        server.resume()


@pytest.mark.long
@pytest.mark.parametrize("mode", ["stage", "replace"])
def test_a_run_whose_server_syncs_its_parts_survives_a_cut_at_any_step(
    disk: Disk, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    """Worker, state and server lose their power together; the run that goes on ends with each row once."""
    with ClickHouseServer(disk.folder / "server") as server:
        cli = Cli(disk.folder / "state", server.url, capsys)
        _plan(disk, cli, SYNCED, "--chunk-hours", "24", "--write-mode", mode)
        plan_id = cli.json("status", "--last")["planId"]
        for cut in range(4):
            wanted = len(cli.events(plan_id)) + 5 + 3 * cut
            worker = cli.start("run", "--last", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wait_until(partial(lambda lines: len(cli.events(plan_id)) >= lines, wanted))
            worker.send_signal(signal.SIGSTOP)
            server.pause()
            with disk.after_a_power_cut() as folder:
                worker.kill()
                worker.wait()
                with ClickHouseServer(folder / "server") as later:
                    after = Cli(folder / "state", later.url, capsys)
                    assert after("run", "--last", "--force-environment").code == 0
                    answer = after("verify", "--last")
                    assert answer.code == 0, answer.out
                    client = clickhouse_connect.get_client(dsn=later.url)
                    assert client.query("SELECT count(), uniqExact(id) FROM dst").result_rows == [(7200, 7200)]
                    assert client.query("SELECT name FROM system.tables WHERE database = 'default'").result_rows == [
                        ("dst",),
                        ("src",),
                    ]
            server.resume()
