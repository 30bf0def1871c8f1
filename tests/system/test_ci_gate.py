"""The job of docs/how-to/ci-gate.md: its steps are run as they stand there, on a clean folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from tests.clickhouse.lab import Lab
from tests.conftest import Engine

GUIDE = (Path(__file__).parents[2] / "docs" / "how-to" / "ci-gate.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """The guide's one block of a language."""
    (text,) = re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    return str(text)


class Job:
    """A checkout with ``backfills.toml``, and the job's steps on it."""

    def __init__(self, lab: Lab, checkout: Path) -> None:
        self.lab, self.checkout = lab, checkout
        checkout.mkdir()
        self.declare(f"{lab.engine.database}.filled")

    def declare(self, target: str) -> None:
        """Require January of *target*, in the words of the guide."""
        text = block("toml").replace("shop.orders_daily", target).replace("2025-02-01", "2025-01-03")
        (self.checkout / "backfills.toml").write_text(text)

    def __call__(self) -> subprocess.CompletedProcess[str]:
        """Run the steps that are command lines, the installation left out, as Actions does; the last one's result."""
        job = yaml.safe_load(block("yaml"))["jobs"]["backfills"]
        steps = [step["run"] for step in job["steps"] if "run" in step and step["name"] != "Install"]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {"PATH": path, "HOME": str(self.checkout), "CLICKHOUSE_BACKFILL_STATE_DIR": str(self.lab.folder)}
        assert set(environment) & set(job["env"]) == {"CLICKHOUSE_BACKFILL_STATE_DIR"}
        result: Any = None
        for step in steps:
            result = subprocess.run(
                ["bash", "-e", "-o", "pipefail", "-c", step],
                cwd=self.checkout,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
        finished: subprocess.CompletedProcess[str] = result
        return finished

    def fails_with(self, *codes: str) -> None:
        """Hold that the job fails, with these annotations, and that the report has them as failures."""
        result = self()
        assert result.returncode == 1, result.stderr
        assert re.findall(r"^::error title=(\w+)::", result.stdout, re.MULTILINE) == list(codes)
        report = ElementTree.parse(self.checkout / "backfills.xml").getroot()  # noqa: S314 - our own file
        assert report.attrib["failures"] == str(len(codes))

    def passes(self) -> None:
        """Hold that the job is green."""
        result = self()
        assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture
def job(clickhouse_url: str, database: str, client: Any, tmp_path: Path) -> Job:
    """A job on a source with two days of rows and an empty target."""
    lab = Lab(Engine("http", client, database, f"{clickhouse_url}/{database}"), tmp_path / "state")
    columns = "(ts DateTime('UTC'), v UInt32) ENGINE = MergeTree ORDER BY ts"
    lab.sql(f"CREATE TABLE events {columns}", f"CREATE TABLE filled {columns}")
    lab.sql("INSERT INTO events SELECT toDateTime('2025-01-01', 'UTC') + number * 600, number FROM numbers(288)")
    return Job(lab, tmp_path / "checkout")


WINDOW = ("2025-01-01", "2025-01-03", 12)


def test_the_job_is_a_valid_workflow(tmp_path: Path) -> None:
    path = tmp_path / "backfills.yml"
    path.write_text(block("yaml"))
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_missing_then_pending_then_done(job: Job) -> None:
    """The life of a backfill that a change needs."""
    job.fails_with("backfill_state_absent", "backfill_plan_missing")
    plan = job.lab.plan("filled", *WINDOW, source="events")
    job.fails_with("backfill_required_pending")
    job.lab.run(plan)
    job.passes()


def test_failed(job: Job) -> None:
    select = f"SELECT ts, v + throwIf(v > 100, 'too much') AS v FROM {job.lab.engine.database}.events"
    job.lab.run(job.lab.plan("filled", *WINDOW, select=select))
    job.fails_with("backfill_required_pending", "backfill_chunk_failed_retry_exhausted")


def test_damaged(job: Job) -> None:
    """Whether it is done cannot be known any more, so the gate stays shut."""
    plan = job.lab.plan("filled", *WINDOW, source="events")
    job.lab.run(plan)
    (job.lab.folder / "runs" / f"{plan['planId']}.json").write_text("{")
    job.fails_with("backfill_state_damaged")


def test_waived(job: Job) -> None:
    plan = job.lab.plan("filled", *WINDOW, source="events")
    job.fails_with("backfill_required_pending")
    waive = [sys.executable, "-m", "airflow_provider_backfill.cli", "waive", "--plan-id", plan["planId"]]
    subprocess.run(
        [*waive, "--reason", "the source is gone", "--state-dir", str(job.lab.folder)], check=True, capture_output=True
    )
    job.passes()
    assert "::notice title=backfill_waived::" in job().stdout


def test_a_declaration_that_cannot_be_read_shuts_the_gate(job: Job) -> None:
    (job.checkout / "backfills.toml").write_text("[[backfil]]\n")
    result = job()
    assert result.returncode == 2
    assert "backfil" in result.stderr
