"""What CI sees: each finding of check on real runs, its remedy pasted, and the exit code before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.clickhouse.ward import Finding, Ward


def check(ward: Ward, *words: str) -> tuple[int, dict[str, Finding]]:
    """The exit code and the findings by code."""
    ward.cli.url = ""
    answer = ward.cli("check", *words, "--json")
    ward.cli.url = ward.engine.url
    findings = answer.payload["plugins"]["backfill"]["findings"]
    return answer.code, {finding["code"]: finding for finding in findings}


def with_server(ward: Ward, finding: Finding) -> int:
    """Paste a remedy of check, which knows no address; a person has it in the environment."""
    return ward.paste({**finding, "hint": f"{finding['hint']} --clickhouse-url {ward.engine.url}"})


def test_backfill_required_pending(ward: Ward) -> None:
    assert check(ward)[0] == 0
    ward.planned()
    code, findings = check(ward)
    assert code == 1
    assert "is planned: 0 of 4 chunks are done" in findings["backfill_required_pending"]["message"]
    assert with_server(ward, findings["backfill_required_pending"]) == 0
    assert check(ward) == (0, {})


def test_backfill_chunk_failed_retry_exhausted(ward: Ward) -> None:
    select = f"SELECT ts, k, v + throwIf(k = 3, 'no threes') AS v FROM {ward.engine.database}.events"
    ward.run(ward.planned(select=select))
    code, findings = check(ward)
    assert code == 1
    finding = findings["backfill_chunk_failed_retry_exhausted"]
    assert "4 of 4 chunks" in finding["message"]
    assert "no threes" in finding["message"]
    ward.sql("ALTER TABLE events DELETE WHERE k = 3 SETTINGS mutations_sync = 2")
    assert with_server(ward, finding) == 0
    assert check(ward) == (0, {})


def test_backfill_state_damaged(ward: Ward) -> None:
    """A damaged plan is one finding; a healthy plan is still judged."""
    broken, other = ward.planned(), ward.planned(start="2025-02-01", end="2025-02-02")
    for plan in (broken, other):
        ward.run(plan)
    log = ward.folder / "events" / f"{broken['planId']}.ndjson"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:3], b"garbage\n", *lines[4:]]))
    (ward.folder / "runs" / f"{broken['planId']}.json").unlink()
    code, findings = check(ward)
    assert code == 1
    finding = findings["backfill_state_damaged"]
    assert f"{log}, line 4" in finding["message"]
    assert finding["planId"] == broken["planId"]
    ward.paste(finding)
    assert "backfill_state_damaged" not in check(ward)[1]


def test_a_damaged_plan_file_has_no_command_that_mends_it(ward: Ward) -> None:
    """A lost file can only come from a backup or a new plan, and the message says so."""
    plan = ward.planned()
    (ward.folder / "plans" / f"{plan['planId']}.json").write_bytes(b"")
    finding = check(ward)[1]["backfill_state_damaged"]
    assert "it is empty" in finding["message"]
    assert "backup" in finding["message"]
    assert finding["hint"] == ""


DECLARED = """
[[backfill]]
target = "{database}.filled"
from = 2025-01-01
to = "2025-01-03T12:00:00Z"
reason = "the tax rate of 2025 was wrong"
owner = "billing"
"""


def test_backfill_state_absent(ward: Ward, tmp_path: Path) -> None:
    """A wrong folder must not pass for a finished one."""
    code, findings = check(ward)
    assert (code, set(findings)) == (0, {"backfill_state_absent"})
    assert str(ward.folder) in findings["backfill_state_absent"]["message"]
    assert "no plan found" in ward.cli("check").out
    code, findings = check(ward, "--required", declare(ward, tmp_path))
    assert (code, findings["backfill_state_absent"]["severity"]) == (1, "error")


def declare(ward: Ward, folder: Path) -> str:
    path = folder / "required.toml"
    path.write_text(DECLARED.format(database=ward.engine.database))
    return str(path)


def test_backfill_plan_missing(ward: Ward, tmp_path: Path) -> None:
    """Part of the declared window has a plan; the rest is named and planned by the remedy."""
    ward.sql("CREATE MATERIALIZED VIEW feed TO filled AS SELECT * FROM events")
    required = declare(ward, tmp_path)
    code, findings = check(ward, "--required", required)
    assert code == 1
    message = findings["backfill_plan_missing"]["message"]
    for part in ("required.toml [[backfill]] 1", "the tax rate of 2025 was wrong", "billing", "2025-01-03T12:00"):
        assert part in message
    ward.run(ward.planned())
    code, findings = check(ward, "--required", required)
    assert "covers 2025-01-03T00:00:00.000Z to 2025-01-03T12:00:00.000Z" in findings["backfill_plan_missing"]["message"]
    assert with_server(ward, findings["backfill_plan_missing"]) == 0
    code, findings = check(ward, "--required", required)
    assert (code, set(findings)) == (1, {"backfill_required_pending"})
    assert with_server(ward, findings["backfill_required_pending"]) == 0
    assert check(ward, "--required", required) == (0, {})


def test_a_cancelled_plan_is_no_plan_for_what_is_declared(ward: Ward, tmp_path: Path) -> None:
    required = declare(ward, tmp_path)
    plan = ward.planned(end="2025-01-04")
    assert "backfill_plan_missing" not in check(ward, "--required", required)[1]
    ward.cli("cancel", "--plan-id", plan["planId"])
    assert "backfill_plan_missing" in check(ward, "--required", required)[1]


def test_backfill_waived(ward: Ward) -> None:
    """Shown, and not counted; running it after all ends the waiver."""
    plan = ward.planned()
    words = ("--plan-id", plan["planId"], "--reason", "the source is gone")
    assert ward.cli("waive", *words).code == 0
    code, findings = check(ward)
    assert code == 0
    assert set(findings) == {"backfill_waived"}
    assert findings["backfill_waived"]["severity"] == "info"
    assert "the source is gone" in findings["backfill_waived"]["message"]
    backfill: dict[str, Any] = ward.cli.json("check")["plugins"]["backfill"]
    assert (backfill["requiredCount"], backfill["waivedCount"], backfill["evaluated"]) == (0, 1, 1)
    ward.run(plan)
    assert check(ward) == (0, {})


def test_backfill_policy_relaxed(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unfinished backfills are only warnings then, and check names the policy."""
    ward.planned()
    monkeypatch.setenv("CLICKHOUSE_BACKFILL_FAIL_CHECK_ON_REQUIRED_PENDING_BACKFILL", "false")
    code, findings = check(ward)
    assert code == 0
    assert {code: finding["severity"] for code, finding in findings.items()} == {
        "backfill_required_pending": "warn",
        "backfill_policy_relaxed": "warn",
    }
    monkeypatch.delenv("CLICKHOUSE_BACKFILL_FAIL_CHECK_ON_REQUIRED_PENDING_BACKFILL")
    assert "backfill_policy_relaxed" not in check(ward)[1]


def test_coverage_is_proven_by_done_chunks(ward: Ward) -> None:
    """Two plans, one of which failed in part: their filled windows, and the gaps."""
    words = ("--target", f"{ward.engine.database}.filled", "--from", "2025-01-01", "--to", "2025-01-05")
    assert ward.cli("coverage", *words).code == 1
    select = f"SELECT ts, k, v + throwIf(toHour(ts) < 12, 'mornings') AS v FROM {ward.engine.database}.events"
    first = ward.planned(end="2025-01-02", select=select)
    second = ward.planned(start="2025-01-02", end="2025-01-04")
    for plan in (first, second):
        ward.run(plan)
    payload = ward.cli.json("coverage", *words)
    (server,) = payload["servers"]
    (covered,) = server["covered"]
    assert (covered["from"], covered["to"]) == ("2025-01-01T12:00:00.000Z", "2025-01-04T00:00:00.000Z")
    assert covered["planIds"] == [first["planId"], second["planId"]]
    assert [(gap["from"][:13], gap["to"][:13]) for gap in payload["gaps"]] == [
        ("2025-01-01T00", "2025-01-01T12"),
        ("2025-01-04T00", "2025-01-05T00"),
    ]
    assert server["share"] == 0.625
    text = ward.cli("coverage", *words).out
    assert "62.5% proven" in text
    assert "2025-01-04 to 2025-01-05" in text
    narrow = ("--target", f"{ward.engine.database}.filled", "--from", "2025-01-01T12:00:00Z", "--to", "2025-01-04")
    assert ward.cli("coverage", *narrow).code == 0
    assert ward.cli("coverage", *words[:2], "--from", "2025-01-05", "--to", "2025-01-05").code == 2
