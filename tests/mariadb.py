"""A real MariaDB on loopback, in a folder of its own, which logs each statement that it is sent."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from tests.server import free_port


class MariaDb:
    """
    Starts the server on a free port; use it as a context manager.

    Attributes:
        port: The port of its MySQL protocol on 127.0.0.1.
        statements: The log of all statements.
    """

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.statements = folder / "statements.log"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> MariaDb:
        server = shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin")
        if server is None:
            raise RuntimeError("MariaDB is not installed; on Debian: apt-get install mariadb-server")
        user = ("--user=root",) if os.geteuid() == 0 else ()
        data = self._folder / "data"
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db", *user],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        flags = {
            "datadir": data,
            "socket": self._folder / "socket",
            "port": self.port,
            "bind-address": "127.0.0.1",
            "innodb-flush-log-at-trx-commit": 0,
            "general-log": 1,
            "general-log-file": self.statements,
        }
        with (self._folder / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                [server, "--no-defaults", *user, *(f"--{name}={value}" for name, value in flags.items())],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        while self._client("SELECT 1").returncode:
            if time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError(f"MariaDB did not answer: {self._folder / 'server.log'}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def query(self, *statements: str) -> None:
        """Run statements as root."""
        done = self._client("; ".join(statements))
        if done.returncode:
            raise RuntimeError(done.stderr)

    def _client(self, statement: str) -> subprocess.CompletedProcess[str]:
        client = ["mariadb", "--no-defaults", f"--socket={self._folder / 'socket'}", "-u", "root", "-e", statement]
        return subprocess.run(client, check=False, capture_output=True, text=True)
