"""
An environment of its own for each minor version of Airflow that is supported, with this package in it.

Everything is resolved as on the day of Airflow's release, which is about what its constraints file has; except for
what the official ClickHouse provider needs newer than that.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[3]

# Who pins by a constraints file has to lift these lines of it.
LIFTED = (
    "apache-airflow-providers-clickhousedb",
    "apache-airflow-providers-common-compat",
    "apache-airflow-providers-common-sql",
    "apache-airflow-providers-standard",
    "backports-zstd",
    # Of the main job.
    "chdb",
    "chdb-core",
    "clickhouse-connect",
    "methodtools",
    "more-itertools",
    "sqlparse",
)


@dataclass(frozen=True)
class Version:
    """
    A minor version of Airflow.

    Attributes:
        minor: What the tests call it.
        airflow: The requirement.
        before: Packages as they were before this day; empty for the newest of all.
        python: The latest Python that it runs on.
        lifted: And those of ``LIFTED`` before this one.
    """

    minor: str
    airflow: str
    before: str = ""
    python: tuple[int, int] = (3, 14)
    lifted: str = "2026-11-20"

    def at_least(self, minor: str) -> bool:
        """Whether it is *minor* or later."""
        return tuple(map(int, self.minor.split("."))) >= tuple(map(int, minor.split(".")))


VERSIONS = {
    version.minor: version
    for version in (
        Version("3.0", "apache-airflow==3.0.6", "2025-09-06", (3, 12)),
        Version("3.1", "apache-airflow==3.1.8", "2026-03-16", (3, 13)),
        # With pydantic 2.14 it fails at every task, whoever's.
        Version("3.2", "apache-airflow==3.2.2", "2026-06-11"),
        Version("3.3", "apache-airflow>=3.3"),
    )
    if sys.version_info[:2] <= version.python
}


def make(version: Version) -> Path:
    """
    Install it, or bring up to date what was installed before.

    Returns:
        The Python of the environment.
    """
    uv = shutil.which("uv")
    if uv is None:
        raise RuntimeError("uv is not installed; pip install uv")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "airflow-provider-backfill"
    key = hashlib.sha256(f"{version}{LIFTED}{sys.version_info[:2]}{PROJECT}".encode()).hexdigest()[:8]
    folder = cache / f"airflow-{version.minor}-{key}"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    dates = []
    if version.before:
        dates = ["--exclude-newer", version.before]
        dates += [word for name in LIFTED for word in ("--exclude-newer-package", f"{name}={version.lifted}")]
    wanted = [version.airflow, "psycopg2-binary", "asyncpg", "-e", str(PROJECT)]
    # What the main job needs, too.
    wanted += ["--group", f"{PROJECT / 'pyproject.toml'}:demo"]
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *dates, *wanted], check=True)
    return python
