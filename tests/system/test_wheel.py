"""What a stranger installs: the wheel's and the sdist's content, and the tutorial, followed with the wheel alone."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.pages import ROOT, Reader, blocks

TUTORIAL = ROOT / "docs" / "tutorial" / "first-backfill.md"


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist of this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(["uv", "build", "--quiet", "--out-dir", str(folder)], cwd=ROOT, check=True)
    return folder


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    (wheel,) = distributions.glob("*.whl")
    return wheel


def test_the_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "airflow_provider_backfill"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert package == set(tracked.stdout.split())
    assert "airflow_provider_backfill/py.typed" in package
    assert "airflow_provider_backfill/web/static/index.html" in package


def test_the_sdist_has_what_its_tests_need(distributions: Path) -> None:
    (path,) = distributions.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "uv.lock", "tests/server.py"} <= names
    assert {"docker-compose.yaml", ".env.example", "changelog.d/README.md", "SECURITY.md"} <= names
    tops = {name.split("/")[0] for name in names}
    assert not tops & {"dist", ".venv", ".git", ".demo", "site", "logs"}


@pytest.mark.long
def test_the_tutorial_with_only_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """A clean environment; the page's blocks in order; the page in Airflow is there."""
    environment = tmp_path / "venv"
    subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, str(environment)], check=True)
    python = environment / "bin" / "python"
    install = ["uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python)]
    constraints = tmp_path / "constraints.txt"
    locked = ["uv", "export", "--quiet", "--frozen", "--no-hashes", "--no-emit-project", "--all-groups", "--all-extras"]
    subprocess.run([*locked, "--output-file", str(constraints)], cwd=ROOT, check=True)
    subprocess.run([*install, "--constraints", str(constraints), f"{wheel}[embedded]"], check=True)

    folder = tmp_path / "first-backfill"
    folder.mkdir()
    reader = Reader(folder, None, {"PATH": f"{environment / 'bin'}:/usr/bin:/bin"}, lambda _: "")
    for block in blocks(TUTORIAL):
        try:
            reader.do(block)
        except AssertionError as error:
            pytest.fail(f"{TUTORIAL.name}, line {block.line}: {error}", pytrace=False)

    page = (
        "from importlib.resources import files; import airflow_provider_backfill as p;"
        " print(p.__file__); print(len(files(p).joinpath('web/static/index.html').read_text()))"
    )
    done = subprocess.run([str(python), "-c", page], cwd=folder, capture_output=True, text=True, check=True)
    where, length = done.stdout.split()
    assert where.startswith(str(environment))
    assert int(length) > 0
    done = subprocess.run(
        [str(environment / "bin" / "clickhouse-backfill"), "--help"], capture_output=True, text=True, check=True
    )
    assert "usage: clickhouse-backfill COMMAND" in done.stdout
