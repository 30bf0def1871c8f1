"""
The site of the documentation, its code blocks, and what it takes to run a page of them.

Blocks of a page run in their order, in one folder, on one ClickHouse:

- ``bash`` is run, and what it exports stays, ``sql`` is sent, ``python`` is run, and a DAG in it is run by Airflow;
- a block with a title is a file of that name, and what it holds is checked as well;
- ``text`` is what the block before it printed: each line must occur, in order, where ``…`` stands for
  anything, and numbers of seconds may differ;
- ``toml``, ``yaml``, ``json`` and ``ini`` are parsed;
- ``<!-- ends with 1 -->`` before a block is the exit code it must have;
- ``<!-- not run: why -->`` before a block leaves it at a check of its syntax.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from clickhouse_connect.driver.client import Client

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(
    r"(?:<!-- (?P<mark>not run: [^>]+?|ends with \d+) -->\n+)?"
    r'^```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?[^\n]*\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)
_SECONDS = re.compile(r"\d+(\.\d+)? (s|ms)\b")
_FRAME = re.compile(r"[─-╿▀-▟]")


@dataclass(frozen=True)
class Block:
    """
    One block of a page.

    Attributes:
        line: Where it begins.
        title: Name of the file that it is; empty when it is none.
        not_run: Why it is not run; empty when it is.
        code: The exit code that it must have.
    """

    line: int
    language: str
    title: str
    text: str
    not_run: str = ""
    code: int = 0


def blocks(page: Path) -> list[Block]:
    """The blocks of a page that name a language."""
    source = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(source):
        mark = match["mark"] or ""
        found.append(
            Block(
                source.count("\n", 0, match.start("language")) + 1,
                match["language"],
                match["title"] or "",
                match["text"],
                mark.removeprefix("not run: ") if mark.startswith("not run: ") else "",
                int(mark.split()[-1]) if mark.startswith("ends with") else 0,
            )
        )
    return found


def build_site(folder: Path) -> None:
    """Build the site as ``site`` in *folder*; a link or an anchor that leads nowhere is an error."""
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    build = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(build, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class Reader:
    """
    Executes the blocks of a page, in *folder*.

    Args:
        client: The server for blocks of SQL.
        run_dag: Runs the DAG of a file, and returns its final state.
    """

    def __init__(
        self, folder: Path, client: Client | None, environment: dict[str, str], run_dag: Callable[[Path], str]
    ):
        self.folder, self._client, self._run_dag = folder, client, run_dag
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self._environment = {"PATH": path, "HOME": str(folder), "COLUMNS": "120", **environment}
        self._printed = ""
        self._exports = ""
        self._dags = 0

    def do(self, block: Block) -> None:
        """Execute one block, or compare it with the output of the last block."""
        if block.title:
            path = self.folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        action: Callable[[Block], None] = getattr(self, f"_{block.language}")
        action(block)

    def _text(self, block: Block) -> None:
        lines = [_plain(line) for line in self._printed.splitlines()]
        at = 0
        for wanted in filter(None, (_plain(line) for line in block.text.splitlines())):
            pattern = re.compile(".*".join(re.escape(part) for part in wanted.split("…")))
            found = next((number for number in range(at, len(lines)) if pattern.fullmatch(lines[number])), None)
            assert found is not None, f"{wanted!r} was not printed; this was:\n{self._printed}"
            at = found + 1

    def _bash(self, block: Block) -> None:
        if block.not_run:
            subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
            return
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self._exports + block.text],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=600,
        )
        self._printed = done.stdout
        assert done.returncode == block.code, done.stdout
        self._exports += "".join(f"{line}\n" for line in block.text.splitlines() if line.startswith("export "))

    def _sql(self, block: Block) -> None:
        # Without a server the page runs the file that it has written.
        if self._client is None:
            return
        self._printed = ""
        for statement in re.split(r";[ \t]*(?:\n|$)", block.text):
            # Comments alone are no statement.
            if not re.sub(r"--[^\n]*", "", statement).strip():
                continue
            if block.not_run or block.title:
                self._client.command(f"EXPLAIN AST {statement}")
            elif re.match(r"\s*(SELECT|SHOW)\b", statement):
                self._printed += self._client.raw_query(statement, fmt="PrettyCompactMonoBlock").decode()
            else:
                self._client.command(statement)

    def _python(self, block: Block) -> None:
        code = compile(block.text, block.title or "block", "exec")
        if block.not_run:
            return
        # One that can run itself is run by the page.
        if "DAG(" in block.text and "__main__" not in block.text:
            self._dags += 1
            path = self.folder / (block.title or f"dag_{self._dags}.py")
            path.write_text(block.text, encoding="utf-8")
            assert self._run_dag(path) == "success"
        elif not block.title:
            done = subprocess.run(
                [sys.executable, "-c", block.text],
                cwd=self.folder,
                env=self._environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=600,
            )
            self._printed = done.stdout
            assert done.returncode == block.code, done.stdout + done.stderr
        del code

    def _toml(self, block: Block) -> None:
        document = tomllib.loads(block.text)
        if "backfill" not in document:
            from airflow_provider_backfill.option_sources import parse_options

            parse_options(document.get("tool", {}).get("clickhouse-backfill", document))

    def _yaml(self, block: Block) -> None:
        for document in yaml.safe_load_all(block.text):
            assert isinstance(document, dict)

    def _json(self, block: Block) -> None:
        json.loads(block.text)

    def _ini(self, block: Block) -> None:
        parser = configparser.ConfigParser()
        parser.read_string(block.text)
        for section in parser.sections():
            if section == "clickhouse_backfill":
                from airflow_provider_backfill.option_sources import resolve_options

                texts: dict[str, Any] = dict(parser[section])
                resolve_options(environ={}, config_file=None, directory=self.folder, airflow_section=texts)


def _plain(line: str) -> str:
    """A printed line without frames, runs of blanks, and how long things took."""
    return _SECONDS.sub("N s", " ".join(_FRAME.sub(" ", line).split()))
