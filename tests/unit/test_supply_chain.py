"""Downloads are pinned by commit, digest or hash."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from tests import server

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_actions_are_pinned_by_commit() -> None:
    """A tag can be moved; the comment names the version of the commit."""
    lines = [line.strip() for path in WORKFLOWS for line in path.read_text().splitlines() if "uses:" in line]
    assert lines
    for line in lines:
        assert re.fullmatch(r"- uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_images_are_pinned_by_digest() -> None:
    """A tag can be moved; it names the version of the digest."""
    text = (ROOT / "docker-compose.yaml").read_text()
    images = re.findall(r"^\s*(?:image:|FROM) (\S+)$", text, re.MULTILINE)
    assert len(images) >= 8
    for image in images:
        own = image.startswith("airflow-provider-backfill:")
        assert own or re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*@sha256:[0-9a-f]{64}", image), image


def test_the_lock_is_audited() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert any("pip-audit" in step.get("run", "") for step in workflow["jobs"]["audit"]["steps"])


def test_the_linter_of_the_page_is_pinned_by_hash() -> None:
    """And installed without running anything of it."""
    wanted = json.loads((ROOT / "package.json").read_text())["devDependencies"]
    locked = json.loads((ROOT / "package-lock.json").read_text())["packages"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in wanted.values())
    assert locked.pop("")["devDependencies"] == wanted
    assert len(locked) > 1
    assert all(package["integrity"].startswith("sha512-") for package in locked.values())
    assert "npm ci --ignore-scripts" in (ROOT / "Makefile").read_text()


def test_npm_is_asked_in_one_place_only() -> None:
    """A hash verifies the download there."""
    asking = [path.name for path in (ROOT / "tests").rglob("*.py") if '"pack", "--' in path.read_text()]
    assert sorted(asking) == ["server.py", "test_supply_chain.py"]


def test_another_package_than_was_expected_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "npm"
    program.write_text("#!/bin/sh\nprintf 'something else' > x.tgz\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(server.ServerError, match=r"npm gave another axe-core@4\.11\.0"):
        server.fetch_npm("axe-core@4.11.0", tmp_path)
    assert not (tmp_path / "x.tgz").exists()
