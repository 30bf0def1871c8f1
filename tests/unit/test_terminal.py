"""Output to a terminal of 80 columns, to a pipe, and without colours."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_backfill.core.events import RunStarted
from airflow_provider_backfill.state.store import open_store
from tests.command_line import PROGRAM, REPOSITORY
from tests.state import START, chunks_of, done, failed, make_plan, started, verified

COLUMNS = 80
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
COMMANDS = ("list", "status --last", "doctor --last", "check", "coverage --target shop.orders", "events --last")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A folder with a run that has failed."""
    folder, plan = tmp_path / "state", make_plan(3)
    store = open_store(str(folder))
    store.save_plan(plan)
    log = store.open_run(plan)
    first, second, third = chunks_of(plan)
    events = (started(plan, first), verified(first), done(first), started(plan, second), failed(second, final=True))
    for event in (RunStarted(at=START, by="somebody@a-host-with-a-long-name"), *events):
        log.append(event)
    for event in (started(plan, third), failed(third, final=True)):
        log.append(event)
    return folder


def in_terminal(words: list[str], environment: dict[str, str]) -> str:
    """What a program writes to a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, COLUMNS))
    done = subprocess.run([*PROGRAM, *words], env=environment, stdout=theirs, stderr=theirs, check=False, timeout=60)
    os.close(theirs)
    said = b""
    try:
        while data := os.read(ours, 65536):
            said += data
    except OSError:
        pass
    finally:
        os.close(ours)
    assert done.returncode in (0, 1), said
    return said.decode().replace("\r\n", "\n")


@pytest.fixture
def environment(state: Path) -> dict[str, str]:
    """No server, and a terminal that knows colours."""
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "CLICKHOUSE_URL")}
    return {
        **kept,
        "TERM": "xterm-256color",
        "CLICKHOUSE_BACKFILL_STATE_DIR": str(state),
        "PYTHONPATH": str(REPOSITORY),
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_colours_are_for_terminals_whose_user_wants_them(command: str, environment: dict[str, str]) -> None:
    words = command.split()
    coloured = in_terminal(words, environment)
    assert ("\x1b[31m" in coloured) is (words[0] != "events")
    plain = {
        "NO_COLOR": in_terminal(words, {**environment, "NO_COLOR": "1"}),
        "dumb": in_terminal(words, {**environment, "TERM": "dumb"}),
    }
    for how, said in plain.items():
        assert "\x1b" not in said, how
    assert COLOUR.sub("", coloured) == plain["NO_COLOR"]
    piped = subprocess.run([*PROGRAM, *words], env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert piped.stdout == plain["dumb"]


def test_a_list_fits_80_columns_and_a_pipe_gets_all_of_it(environment: dict[str, str]) -> None:
    said = COLOUR.sub("", in_terminal(["list"], environment)).splitlines()
    assert max(map(len, said)) <= COLUMNS
    assert said[0].split() == ["PLAN", "STATUS", "DONE", "WINDOW", "(UTC)", "TARGET"]
    piped = subprocess.run([*PROGRAM, "list"], env=environment, capture_output=True, text=True, check=True, timeout=60)
    assert piped.stdout.splitlines()[0].split()[-2:] == ["STARTED", "BY"]


def test_each_recording_is_on_a_page_and_holds_what_was_typed() -> None:
    """Written by ``python -m docs.recordings``."""
    from docs.recordings import IMAGES, SESSIONS

    pages = "".join(page.read_text(encoding="utf-8") for page in IMAGES.parent.glob("how-to/*.md"))
    shown: Callable[[str], str] = lambda text: re.sub(r"&#160;|\s", "", text)  # noqa: E731
    for name, lines in SESSIONS.items():
        assert f"images/{name}.svg" in pages
        said = shown("".join(re.findall(r"<text[^>]*>(.*?)</text>", (IMAGES / f"{name}.svg").read_text("utf-8"))))
        for line in lines:
            first = line.removeprefix("# ").split('"')[0].partition(" WHERE")[0]
            assert shown(first) in said, first
