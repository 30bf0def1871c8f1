"""
A whole Airflow: PostgreSQL, scheduler, API server, DAG processor and triggerer, each a process of its own.

With the CeleryExecutor also Redis and two workers.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.airflow.site import AirflowSite
from tests.server import free_port

_COMPONENTS = ("scheduler", "dag-processor", "triggerer")
WORKERS = ("worker-1", "worker-2")


class Postgres:
    """A PostgreSQL in a folder of its own; started as another user by root, whom it refuses."""

    def __init__(self) -> None:
        found = shutil.which("initdb") or next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None)
        if found is None:
            raise RuntimeError("PostgreSQL is not installed; on Debian: apt-get install postgresql")
        self._bin = Path(found).resolve().parent
        # Not below pytest's folders, which are closed to other users.
        self.folder = Path(tempfile.mkdtemp(prefix="backfill-postgres-"))
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            who = pwd.getpwnam("postgres")
            os.chown(self.folder, who.pw_uid, who.pw_gid)
            self._user = {"user": who.pw_uid, "group": who.pw_gid, "extra_groups": []}
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address for SQLAlchemy."""
        return f"postgresql+psycopg2://airflow@127.0.0.1:{self.port}/postgres"

    def start(self) -> Postgres:
        """Make the cluster, start it, and wait until it answers."""
        data = self.folder / "data"
        options = ["-U", "airflow", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(
            [self._bin / "initdb", "-D", data, *options],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=self.folder,
            **self._user,
        )
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self.folder}
        settings |= {"fsync": "off", "max_connections": 200}
        flags = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", data, *flags],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                **self._user,
            )
        ready: list[str | Path] = [self._bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        wait_for(lambda: subprocess.run(ready, check=False).returncode == 0, "PostgreSQL", 60)
        return self

    def query(self, statement: str) -> None:
        """Run a statement."""
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "airflow", "-d", "postgres"]
        subprocess.run([self._bin / "psql", "-q", *where, "-c", statement], check=True)

    def stop(self) -> None:
        """End it, and remove its folder."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Redis:
    """A Redis with a password, in memory only."""

    def __init__(self) -> None:
        self.port = free_port()
        self._password = secrets.token_hex(8)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address for Celery."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def start(self, log: Path) -> Redis:
        """Start it, and wait until it answers."""
        found = shutil.which("redis-server")
        if found is None:
            raise RuntimeError("Redis is not installed; on Debian: apt-get install redis-server")
        flags = ["--bind", "127.0.0.1", "--port", str(self.port), "--requirepass", self._password]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [found, *flags, "--save", "", "--appendonly", "no"],
                stdout=output,
                stderr=output,
                cwd=log.parent,
                start_new_session=True,
            )
        wait_for(self._answers, "Redis", 30)
        return self

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 2) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                return b"+OK" in connection.recv(64)
        except OSError:
            return False

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)


class RunningAirflow(AirflowSite):
    """All of Airflow with LocalExecutor, at work on the DAGs of one folder."""

    def __init__(
        self,
        home: Path,
        state_dir: Path | str,
        dags: Path,
        python: Path | str = sys.executable,
        **environment: str,
    ) -> None:
        super().__init__(home, state_dir, python)
        self.postgres = Postgres()
        self._components: dict[str, subprocess.Popen[bytes]] = {}
        self.environment |= {
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.postgres.url,
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "8",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__API__SECRET_KEY": "one for all of them",
            "AIRFLOW__API_AUTH__JWT_SECRET": "one for all of them, and long enough for its algorithm to like it",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3",
            # A busy machine is slow to answer, and a task that gives up is another case than those of the tests.
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
            "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "180",
            "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "240",
            "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
            "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
            **environment,
        }

    def start(self, timeout: float = 300) -> RunningAirflow:
        """Start everything, and wait until the API answers and the DAGs are known."""
        self.postgres.start()
        super().start(timeout)
        for name in _COMPONENTS:
            self.start_component(name)
        return self

    def start_component(self, name: str, *command: str) -> None:
        """Start one of scheduler, dag-processor, triggerer; or what *command* says, by that name."""
        with (self.home / f"{name}.log").open("ab") as log:
            self._components[name] = subprocess.Popen(
                [*self._airflow, *(command or (name,))],
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill_component(self, name: str, number: int = signal.SIGKILL, timeout: float = 10) -> None:
        """A signal to one of them and to all of its processes, which ends it within *timeout* seconds."""
        process = self._components.pop(name)
        os.killpg(process.pid, number)
        process.wait(timeout)

    def stop(self) -> None:
        """End everything."""
        for process in self._components.values():
            try:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
            except ProcessLookupError:
                continue
        super().stop()
        self.postgres.stop()

    def ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """One request of the administrator to ``/api/v2``; its answer, which must be a success."""
        headers = {"Authorization": f"Bearer {self.token('ada')}"}
        status, answer = self.call(method, f"/api/v2/{path}", body, headers)
        if status >= 300:
            raise AssertionError(f"{method} {path}: {status} {answer}")
        return answer


class CeleryAirflow(RunningAirflow):
    """As RunningAirflow, with Redis and two Celery workers of one slot each: two tasks at once need both."""

    def __init__(self, home: Path, state_dir: Path | str, dags: Path, **environment: str) -> None:
        super().__init__(home, state_dir, dags, **environment)
        self.redis = Redis()
        self.environment |= {
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__CELERY__BROKER_URL": self.redis.url,
            "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{self.postgres.url}",
            "AIRFLOW__CELERY__WORKER_CONCURRENCY": "1",
            **environment,
        }

    def start(self, timeout: float = 300) -> CeleryAirflow:
        """Start everything, and wait until the workers listen."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.redis.start(self.home / "redis.log")
        super().start(timeout)
        for name in WORKERS:
            # Both would serve logs on one port.
            self.start_component(name, "celery", "worker", "--celery-hostname", name, "--skip-serve-logs")
        for name in WORKERS:
            wait_for(partial(self._listens, name), f"{name} listens", 120)
        return self

    def _listens(self, name: str) -> bool:
        if self._components[name].poll() is not None:
            raise RuntimeError(f"{name} ended:\n{self.log_of(name)[-4000:]}")
        return " ready." in self.log_of(name)

    def log_of(self, name: str) -> str:
        """What a component has printed."""
        return (self.home / f"{name}.log").read_text(errors="replace")

    def stop(self) -> None:
        """End everything."""
        super().stop()
        self.redis.stop()


def wait_for(condition: Callable[[], Any], what: str, timeout: float = 120, every: float = 0.2) -> Any:
    """What *condition* gives once it is true."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout:g} s")
        time.sleep(every)
    return found
