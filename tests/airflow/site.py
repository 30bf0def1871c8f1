"""A running Airflow for browsers: API server and database in a folder of their own, two users, one state folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pytest

from tests.server import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# The users: an administrator, and a viewer.
USERS = {"ada": "admin", "vera": "viewer"}

CHROMIUM = "/usr/bin/chromium"
CHROMIUM_FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--force-color-profile=srgb"),
]


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start Chromium without a window; skips where playwright is not installed."""
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


class AirflowSite:
    """
    An API server with the simple auth manager; the password of each of ``USERS`` is the user's name.

    Args:
        home: Airflow's home; created when missing.
        state_dir: The state folder that its ``[clickhouse_backfill]`` section names.
        python: Of the environment that it is installed in.
    """

    def __init__(self, home: Path, state_dir: Path | str, python: Path | str = sys.executable) -> None:
        self.home = home
        self._airflow = [str(python), "-m", "airflow"]
        self.port = free_port()
        self.url = f"http://localhost:{self.port}"
        self._log = home / "api-server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._tokens: dict[str, str] = {}
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW__")},
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__CLICKHOUSE_BACKFILL__STATE_DIR": str(state_dir),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in USERS.items()),
        }

    def start(self, timeout: float = 300) -> AirflowSite:
        """Migrate the database, start the server, and wait until it answers."""
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / "passwords.json").write_text(json.dumps({name: name for name in USERS}))
        with self._log.open("wb") as log:
            subprocess.run([*self._airflow, "db", "migrate"], check=True, env=self.environment, stdout=log, stderr=log)
            self._process = subprocess.Popen(
                [*self._airflow, "api-server"], env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + timeout
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Airflow's API server did not start:\n{self._log.read_text()[-4000:]}")
            time.sleep(0.3)
        return self

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/api/v2/version", timeout=5):  # noqa: S310 - our own server
                return True
        except (OSError, urllib.error.URLError):
            return False

    def token(self, user: str) -> str:
        """A bearer token of a user."""
        if user not in self._tokens:
            status, answer = self.call("POST", "/auth/token", {"username": user, "password": user})
            assert status == 201, answer
            self._tokens[user] = answer["access_token"]
        return self._tokens[user]

    def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        """One request with these headers and no others that matter; its status and JSON answer."""
        request = urllib.request.Request(  # noqa: S310 - our own server
            self.url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **(headers or {})},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
                return response.status, json.loads(response.read() or b"{}")
        except urllib.error.HTTPError as error:
            text = error.read()
            try:
                return error.code, json.loads(text or b"{}")
            except ValueError:
                return error.code, {"text": text.decode(errors="replace")}

    def stop(self) -> None:
        """End the server and its workers."""
        if self._process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(10)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
            break

    def __enter__(self) -> AirflowSite:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
