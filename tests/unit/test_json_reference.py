"""Every key of a JSON answer is on the reference page: ``--json`` is an interface of other programs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_backfill.core.plan import Plan
from airflow_provider_backfill.state.store import StateStore
from tests.command_line import Cli
from tests.state import save_broken_run

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "json.md"
SECTIONS = {
    "status, run, resume, pause, cancel": (["status", "--chunks", "failed"], ["pause"], ["cancel"]),
    "events": (["events"],),
    "list": (["list"],),
    "check": (["check"],),
    "coverage": (["coverage", "--target", "shop.orders"],),
    "report": (["report"],),
    "doctor": (["doctor"],),
    "waive, repair": (["waive", "--reason", "it is a test"], ["repair"]),
}
# Described on a page of their own, or in a section that is linked.
_ELSEWHERE = {"events", "findings", "estimate", "pace", "verification"}


@pytest.fixture
def plan(store: StateStore) -> Plan:
    """A run with a done, a failed and a pending chunk."""
    return save_broken_run(store)


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            if key not in _ELSEWHERE:
                yield from _keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _keys(inner)


def _section(title: str) -> str:
    text = PAGE.read_text(encoding="utf-8")
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


@pytest.mark.parametrize("title", SECTIONS)
def test_every_key_is_described(cli: Cli, plan: Plan, title: str) -> None:
    described = set(re.findall(r"`(\w+)`", _section(title))) | {"ok", "command", "backfill", "plugins", "message"}
    for words in SECTIONS[title]:
        named = [] if words[0] in ("list", "check", "coverage") else ["--plan-id", plan.plan_id]
        missing = set(_keys(cli.json(*words, *named))) - described
        assert not missing, words


def test_a_finding_is_described(cli: Cli, plan: Plan) -> None:
    findings = cli.json("status", plan.plan_id)["findings"]
    assert findings
    assert set(findings[0]) <= set(re.findall(r"`(\w+)`", _section("Findings")))


def test_an_error_is_described(cli: Cli) -> None:
    text = PAGE.read_text(encoding="utf-8").split("\n## ", 1)[0]
    assert set(cli.json("status", "zz")) <= set(re.findall(r"`(\w+)`", text))
