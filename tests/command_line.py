"""
The command line for tests: in this process if possible, otherwise as a real program.

``Cli`` keeps the state folder and the address; ``Answer`` is the result of a call: exit code, texts, JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_backfill.cli.main import main

PROGRAM = [sys.executable, "-m", "airflow_provider_backfill.cli"]
REPOSITORY = Path(__file__).parents[1]


@dataclass(frozen=True)
class Answer:
    """What one call left: *out* and *err* are stdout and stderr as they were printed."""

    code: int
    out: str
    err: str

    @property
    def payload(self) -> dict[str, Any]:
        """The JSON object on stdout, which must hold nothing else."""
        payload: dict[str, Any] = json.loads(self.out)
        assert self.out == json.dumps(payload) + "\n"
        return payload


@dataclass
class Cli:
    """A command line with a state folder, and a ClickHouse unless *url* is empty."""

    state: Path
    url: str
    capsys: pytest.CaptureFixture[str]
    environment: dict[str, str] = field(default_factory=dict)

    def _common(self) -> list[str]:
        return ["--state-dir", str(self.state), *(["--clickhouse-url", self.url] if self.url else [])]

    def __call__(self, *words: str) -> Answer:
        """Call it in this process."""
        self.capsys.readouterr()
        code = main([*words, *self._common()])
        out, err = self.capsys.readouterr()
        return Answer(code, out, err)

    def json(self, *words: str) -> dict[str, Any]:
        """Call it with ``--json`` and give the object."""
        return self(*words, "--json").payload

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """Start the command line as a separate program, with output in pipes unless *options* say otherwise."""
        environment = {**os.environ, **self.environment, "PYTHONPATH": str(REPOSITORY)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [*PROGRAM, *words, *self._common()]
        return subprocess.Popen(command, env=environment, preexec_fn=_hear_signals, **{**pipes, **options})

    def program(self, *words: str) -> Answer:
        """Run the command line as a separate program, and wait."""
        return finish(self.start(*words))

    def files(self) -> list[str]:
        """The files below the state folder."""
        return sorted(str(path.relative_to(self.state)) for path in self.state.rglob("*") if path.is_file())

    def events(self, plan_id: str) -> list[dict[str, Any]]:
        """The event log, without its opening and without a line that is just being written."""
        path = self.state / "events" / f"{plan_id}.ndjson"
        if not path.exists():
            return []
        lines = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if line["type"] != "LogOpened"]


def _hear_signals() -> None:
    """Restore signals that the parent ignores, such as SIGHUP under nohup, since an ignored signal stays ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def finish(process: subprocess.Popen[str], seconds: float = 120) -> Answer:
    """Wait for a started program, and return its result."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Answer(process.returncode, out, err)


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Return once *condition* is true; fail after *seconds*."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.02)
