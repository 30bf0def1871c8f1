"""Doctor as its user meets it: bring a server into a state, read the finding, paste its remedy, look again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest

from airflow_provider_backfill.cli.main import main
from tests.clickhouse.lab import Lab
from tests.command_line import Cli
from tests.conftest import Engine
from tests.server import ClickHouseServer

Finding = dict[str, Any]


class Ward(Lab):
    """A laboratory with a command line on the same state folder and engine."""

    def __init__(self, engine: Engine, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(engine, folder)
        self.cli = Cli(folder, engine.url, capsys)

    def doctor(self, plan: dict[str, Any] | None = None, *words: str) -> dict[str, Finding]:
        """The findings by code; holds that the exit code is 1 exactly when one of them is an error."""
        which = ("--plan-id", plan["planId"]) if plan is not None else ()
        answer = self.cli("doctor", *which, *words, "--json")
        findings = {finding["code"]: finding for finding in answer.payload["findings"]}
        assert answer.code == any(finding["severity"] == "error" for finding in findings.values())
        assert answer.payload["issueCodes"] == sorted(findings)
        return findings

    def paste(self, finding: Finding) -> int:
        """Execute the command of a finding's hint literally; return its exit code for a command of the product."""
        if finding["remedy"] == "sql":
            self.sql(finding["hint"])
            return 0
        program, *words = shlex.split(finding["hint"])
        assert (finding["remedy"], program) == ("command", "clickhouse-backfill")
        return main(words)

    def cured(self, plan: dict[str, Any], code: str) -> str:
        """Hold that a plan has a finding, and no more once its remedy was pasted; the finding's message."""
        finding = self.doctor(plan)[code]
        assert self.paste(finding) == 0
        assert code not in self.doctor(plan)
        message: str = finding["message"]
        return message

    def events(self, name: str = "events", days: int = 4, tail: str = "ORDER BY ts") -> None:
        """A source with one row a minute from 1 January 2025 on."""
        self.sql(
            f"CREATE TABLE {name} (ts DateTime('UTC'), k UInt32, v Float64) ENGINE = MergeTree {tail}",
            f"INSERT INTO {name} SELECT toDateTime('2025-01-01', 'UTC') + number * 60, number % 7, number"
            f" FROM numbers({days * 1440})",
        )

    def target(self, name: str = "filled", tail: str = "PARTITION BY toYYYYMM(ts) ORDER BY (k, ts)") -> None:
        """An empty target of the same columns."""
        self.sql(f"CREATE TABLE {name} (ts DateTime('UTC'), k UInt32, v Float64) ENGINE = MergeTree {tail}")

    def planned(self, **wanted: Any) -> dict[str, Any]:
        """A plan of ``filled`` from ``events``, 1 to 3 January 2025 in chunks of 12 h."""
        wanted = {"start": "2025-01-01", "end": "2025-01-03", "hours": 12, "source": "events", **wanted}
        if "select" in wanted:
            del wanted["source"]
        return self.plan("filled", **wanted)


_USER = """\
<clickhouse>
    <profiles><own>{profile}</own></profiles>
    <users>
        <own>
            <password></password>
            <networks><ip>127.0.0.0/8</ip></networks>
            <profile>own</profile>
            <quota>default</quota>
            {rest}
        </own>
    </users>
</clickhouse>
"""


class Clinic:
    """A server whose configuration and user ``own`` can be changed, with a ward on it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._folder, self._capsys = folder, capsys
        self.server = ClickHouseServer(folder / "clickhouse")

    def user(self, *, grants: tuple[str, ...] = (), profile: str = "", rest: str = "") -> None:
        """What the user ``own`` may do; everything, without *grants*."""
        listed = "".join(f"<query>GRANT {grant}</query>" for grant in grants)
        rest += f"<grants>{listed}</grants>" if grants else ""
        self._write("users.d/own.xml", _USER.format(profile=profile, rest=rest))

    def configure(self, text: str) -> None:
        """Settings of the server itself."""
        self._write("config.d/own.xml", f"<clickhouse>{text}</clickhouse>")

    def _write(self, name: str, text: str) -> None:
        path = self.server.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def ward(self) -> Ward:
        """Start the server, and plan and run as ``default``."""
        self.server.restart()
        client = clickhouse_connect.get_client(dsn=self.server.url, autogenerate_session_id=False)
        client.command("CREATE DATABASE IF NOT EXISTS clinic")
        client.database = "clinic"
        engine = Engine("http", client, "clinic", f"{self.server.url}/clinic")
        return Ward(engine, self._folder / "state", self._capsys)

    def as_own(self, ward: Ward) -> Ward:
        """The same ward for the user ``own``: statements of the test are still those of ``default``."""
        ward.cli.url = ward.cli.url.replace("default@", "own@")
        return ward
