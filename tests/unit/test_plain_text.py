"""Names and reasons of others, as they are shown: they command no terminal and no CI, and draw no line of ours."""

from __future__ import annotations

import io
import json
import unicodedata
from pathlib import Path
from xml.etree import ElementTree

import pytest

from airflow_provider_backfill.cli import console
from airflow_provider_backfill.cli.ci_reports import github_lines, write_junit
from airflow_provider_backfill.core.plain_text import plain_json, plain_line, plain_text, plain_values, state_words
from airflow_provider_backfill.state.posix import FileBackend
from airflow_provider_backfill.state.store import StateStore
from tests.command_line import Cli
from tests.state import make_plan

ESCAPE, BELL, CSI, RIGHT_TO_LEFT = "\x1b", "\x07", "\x9b", "\u202e"
HOSTILE = [
    f"db.{ESCAPE}]0;owned{BELL}",
    f"db.{ESCAPE}[2J{ESCAPE}[1;1H",
    f"db.{CSI}31m",
    f"db.{RIGHT_TO_LEFT}txt.exe",
    "db.a\n::error title=x::gone\rb",
    "::set-env name=PATH::/tmp",
    "  ::stop-commands::x",
    "a ##[add-path]/tmp ##vso[task.setvariable variable=x]y ##teamcity[buildStatus]",
    "a\u2028b\u2029c\x85d\x0be",
    "\ud800half\U000e0041tag\ufeff\u200b",
]


def _harmless(text: str) -> bool:
    lines = text.replace("\n", "").replace("\t", "")
    inert = not any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in lines)
    commands = any(line.lstrip().startswith("::") for line in text.splitlines())
    return inert and not commands and not any(word in text for word in ("##[", "##vso[", "##teamcity["))


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_dangerous_becomes_visible(text: str) -> None:
    line = plain_line(text)
    assert _harmless(line)
    assert len(line.splitlines()) == 1
    assert _harmless(plain_text(text))
    assert plain_values({"name": [text]}) == {"name": [line]}


def test_words_of_all_scripts_stay_as_they_are() -> None:
    text = "Ünïcödé 表 می‌خواهم क्‍ष 👩‍🚒 a:b a::b # ## C# [x]"
    assert plain_line(text) == plain_text(text) == text
    assert plain_text("a\n\tb") == "a\n\tb"
    assert plain_values({"select": "a\nb", "name": "a\nb", "count": 1}) == {
        "select": "a\nb",
        "name": "a\\nb",
        "count": 1,
    }


def test_every_dangerous_letter_is_known() -> None:
    """All of Unicode's control and format characters but the two joiners, which words need."""
    letters = [
        chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp")
    ]
    passing = {letter for letter in letters if plain_line(letter) == letter}
    # Beside the joiners: signs of Arabic, Kaithi, Egyptian and music, which move nothing but their own number.
    assert {
        letter for letter in passing if unicodedata.bidirectional(letter) in ("LRE", "RLE", "LRO", "RLO", "PDF")
    } == set()
    assert passing >= {"\u200c", "\u200d"}
    assert not {letter for letter in passing if ord(letter) < 0x600 or 0x2000 <= ord(letter) < 0x3000} - {
        "\u200c",
        "\u200d",
    }


def test_json_has_the_same_values_and_no_command() -> None:
    payload = {"target": "##[add-path]/tmp", "reason": "\x1b\n::error::"}
    text = plain_json(json.dumps(payload))
    assert json.loads(text) == payload
    assert text.isascii()
    assert "##" not in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("text", HOSTILE)
def test_a_terminal_gets_our_colours_and_nothing_else(text: str) -> None:
    out = io.StringIO()
    console.print_line(out, f"\x1b[31mfailed\x1b[0m {text}\n  {text}")
    console.write(out, text)
    assert _harmless(out.getvalue().replace("\x1b[31mfailed\x1b[0m", ""))


@pytest.mark.parametrize("hostile", HOSTILE)
def test_reports_of_a_ci_are_what_they_are(hostile: str, tmp_path: Path) -> None:
    finding = {"code": "c", "severity": "error", "message": hostile, "planId": "", "hint": hostile, "remedy": "advice"}
    payload = plain_values({"plugins": {"backfill": {"evaluated": 1, "findings": [finding]}}})
    (line,) = github_lines(payload)
    assert line.startswith("::error title=c::")
    assert _harmless(line.removeprefix("::error title=c::"))
    write_junit(payload, tmp_path / "j.xml")
    found = ElementTree.parse(tmp_path / "j.xml").find(".//failure")  # noqa: S314 - we have just written it
    assert found is not None
    assert _harmless(found.get("message", ""))


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_command_passes_a_hostile_name_on(hostile: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The target is in every command's output, an error in the log, a reason in the waiver."""
    hostile = hostile.encode(errors="replace").decode()
    plan = make_plan(target=f"db.`{hostile}`")
    StateStore(FileBackend(tmp_path / "state")).save_plan(plan)
    cli = Cli(tmp_path / "state", "", capsys)
    for words in (
        ["list"],
        ["status", "--plan-id", plan.plan_id],
        ["doctor", "--plan-id", plan.plan_id],
        ["check"],
        ["waive", "--plan-id", plan.plan_id, "--reason", hostile],
        ["status", "--plan-id", hostile],
        ["coverage", "--target", hostile, "--from", hostile, "--to", hostile],
        [hostile],
    ):
        answer = cli(*words)
        assert _harmless(answer.out), words
        assert _harmless(answer.err), words
    cli("check", "--format", "github", "--junit", str(tmp_path / "j.xml"))
    assert _harmless((tmp_path / "j.xml").read_text())


@pytest.mark.parametrize(
    ("status", "shown", "words"),
    [("failed", "", "has failed"), ("failed", "FAILED", "has FAILED"), ("running", "", "is running")],
)
def test_a_status_is_told_as_people_say_it(status: str, shown: str, words: str) -> None:
    assert state_words(status, shown) == words
