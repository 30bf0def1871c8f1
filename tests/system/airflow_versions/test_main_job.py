"""The main job on each minor version of Airflow: real data, one DAG run, and every row compared with the truth."""

import subprocess
from pathlib import Path

import pytest

from tests.system.airflow_versions.environments import PROJECT, VERSIONS, make

pytestmark = pytest.mark.long


@pytest.mark.parametrize("minor", VERSIONS)
def test_main_job(minor: str, tmp_path: Path) -> None:
    """It ends with 0 only if the target equals the truth."""
    python = make(VERSIONS[minor])
    job = [str(python), str(PROJECT / "dags" / "main_job.py"), "--folder", str(tmp_path / "job")]
    done = subprocess.run(job, cwd=tmp_path, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok: every row of the target equals the truth" in done.stdout
