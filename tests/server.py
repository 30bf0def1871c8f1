"""
A real ClickHouse server for tests, without Docker or root.

The npm package of chdb ships ClickHouse as one shared library. Its C entry point
``chdb_query_cmdline`` is that of clickhouse-local, and ``SYSTEM START LISTEN`` makes
it a server with the ordinary HTTP and native interfaces: query ids, KILL QUERY,
system.processes, query_log and progress headers are the real ones.

``ClickHouseServer`` starts, stops, kills and pauses one in a process of its own;
``python -m tests.server --dir DIR --port N`` runs one in the foreground.
Standard library only: the server process must not load anything else.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import ctypes
import hashlib
import http.client
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

PACKAGE_VERSION = "26.7.3-stable.1"
# The builds for Linux that the package "chdb" on npm names.
PACKAGES = {"x86_64": "@chdb/lib-linux-x64-gnu", "aarch64": "@chdb/lib-linux-arm64-gnu"}
# The hashes of npm packages, from the registry's dist.integrity; None where that was not available.
INTEGRITY: dict[str, str | None] = {
    f"@chdb/lib-linux-x64-gnu@{PACKAGE_VERSION}": (
        "sha512-XP97mMqnc5tZpKQywR8N7cLTsHNiTmHr30pC5mzo3jWmukjKn2IBa60c2B/gWUNcuFjOMjWoorQICCqBVj5wpw=="
    ),
    f"@chdb/lib-linux-arm64-gnu@{PACKAGE_VERSION}": None,
    "axe-core@4.11.0": (
        "sha512-ilYanEU8vxxBexpJd8cWM4ElSQq4QctCLKih0TSfjIfCQTeyH/6zVrmIJfLPrKTKJRbiG+cfnZbQIjAlJmF1jQ=="
    ),
}
LIBRARY_VARIABLE = "BACKFILL_TEST_LIBCHDB"

# Each write of the log, and the merges that follow, cost more than most statements of a test: who reads it says
# SYSTEM FLUSH LOGS.
FLUSH_INTERVAL_MS = 10_000

# The query only keeps clickhouse-local alive while its listeners serve; 1,000,000 sleeps of 3 s are 34 days.
_STAY = (
    "SYSTEM START LISTEN HTTP; SYSTEM START LISTEN TCP; "
    "SELECT sleepEachRow(3) FROM numbers(1000000) "
    "SETTINGS max_block_size=1, max_execution_time=0, function_sleep_max_microseconds_per_block=0, log_queries=0 "
    "FORMAT Null"
)

_CONFIG = """\
<clickhouse>
    <logger>
        <level>information</level>
        <log>{directory}/server.log</log>
        <errorlog>{directory}/server.err.log</errorlog>
        <console>0</console>
    </logger>
    <listen_host>127.0.0.1</listen_host>
    <listen_host>127.0.0.2</listen_host>
    <http_port>{http_port}</http_port>
    <tcp_port>{tcp_port}</tcp_port>
    <max_concurrent_queries>100</max_concurrent_queries>
    <mark_cache_size>268435456</mark_cache_size>
    <query_log>
        <database>system</database>
        <table>query_log</table>
        <flush_interval_milliseconds>{flush_interval_ms}</flush_interval_milliseconds>
    </query_log>
    <remote_servers>
        <!-- One process seen twice: two shards for Distributed tables. -->
        <two_shards>
            <shard><replica><host>127.0.0.1</host><port>{tcp_port}</port></replica></shard>
            <shard><replica><host>127.0.0.2</host><port>{tcp_port}</port></replica></shard>
        </two_shards>
        <one_shard>
            <shard><replica><host>127.0.0.1</host><port>{tcp_port}</port></replica></shard>
        </one_shard>
        <!-- This server and its peers. -->
        <replicas>
            <shard>{replicas}</shard>
        </replicas>
    </remote_servers>
    <users_config>{directory}/users.xml</users_config>
    <macros>
        <shard>01</shard>
        <replica>r1</replica>
    </macros>
</clickhouse>
"""

_REPLICA = "<replica><host>127.0.0.1</host><port>{port}</port></replica>"

# Users are fixed: clickhouse-local has no storage in which CREATE USER could keep one.
_USERS = """\
<clickhouse>
    <!-- Off: this build ends by itself when a LIMIT that is reached cuts its connection to another shard. -->
    <profiles><default><prefer_localhost_replica>0</prefer_localhost_replica></default></profiles>
    <quotas><default/></quotas>
    <users>
        <default>
            <password></password>
            <networks><ip>127.0.0.0/8</ip></networks>
            <profile>default</profile>
            <quota>default</quota>
            <named_collection_control>1</named_collection_control>
        </default>
        <secured>
            <password>s3cret/wörd</password>
            <networks><ip>127.0.0.0/8</ip></networks>
            <profile>default</profile>
            <quota>default</quota>
        </secured>
        <writer>
            <password></password>
            <networks><ip>127.0.0.0/8</ip></networks>
            <profile>default</profile>
            <quota>default</quota>
            <grants><query>GRANT SELECT, INSERT ON *.*</query></grants>
        </writer>
        <reader>
            <password></password>
            <networks><ip>127.0.0.0/8</ip></networks>
            <profile>default</profile>
            <quota>default</quota>
            <grants><query>GRANT SELECT ON *.*</query></grants>
        </reader>
    </users>
</clickhouse>
"""

# The password of the user "secured", with characters that must be escaped in a URL.
SECURED_PASSWORD = "s3cret/wörd"


class ServerError(RuntimeError):
    """The test server could not be fetched, started or reached; the message says why."""


def free_port() -> int:
    """
    Return a TCP port of 127.0.0.1 that was free a moment ago.

    Drawn from below the range that the system gives to outgoing connections, which would take it meanwhile.
    """
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def cache_directory() -> Path:
    """Return the folder where fetched libraries are kept, of this user and platform; it may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "airflow-provider-backfill"


def fetch_library() -> Path:
    """
    Return the path of ``libchdb.so``, downloading it once (166 MB) if needed.

    The environment variable ``BACKFILL_TEST_LIBCHDB`` names a file to use instead.
    Two processes may call this at once: each downloads to a folder of its own and one
    of them moves it into the cache.

    Raises:
        ServerError: The file named by the variable is missing, there is no build for this
            machine, or npm is missing or failed.
    """
    given = os.environ.get(LIBRARY_VARIABLE)
    if given:
        if not Path(given).is_file():
            raise ServerError(f"{LIBRARY_VARIABLE} names {given}, which is not a file.")
        return Path(given)
    machine = platform.machine()
    package = PACKAGES.get(machine)
    if package is None or sys.platform != "linux":
        raise ServerError(
            f"There is no ClickHouse library for {sys.platform} on {machine} (only Linux on {' and '.join(PACKAGES)}); "
            "set CLICKHOUSE_URL to a running server instead."
        )
    home = cache_directory() / f"libchdb-{PACKAGE_VERSION}-{machine}"
    library = home / "libchdb.so"
    if library.is_file():
        return library
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix="fetch-") as text:
        scratch = Path(text)
        _download(f"{package}@{PACKAGE_VERSION}", scratch)
        try:
            (scratch / "package").rename(home)
        except OSError:
            # Another process was first: a rename onto a filled folder fails, and theirs is as good.
            if not library.is_file():
                raise
    return library


def _download(package: str, folder: Path) -> None:
    """Download *package* with npm and unpack its library to ``folder/package/libchdb.so``."""
    with tarfile.open(fetch_npm(package, folder)) as archive:
        archive.extract("package/libchdb.so", folder, filter="data")


def fetch_npm(package: str, folder: Path) -> Path:
    """
    Download *package*, ``name@version``, and hold it against its hash in :data:`INTEGRITY`.

    Raises:
        ServerError: npm is missing or failed, or what it fetched is not what was expected.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise ServerError("npm is needed to fetch ClickHouse for the tests; install Node.js or set CLICKHOUSE_URL.")
    done = subprocess.run(
        [npm, "pack", "--loglevel=error", "--pack-destination", str(folder), package],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd=folder,
    )
    archives = list(folder.glob("*.tgz"))
    if done.returncode != 0 or len(archives) != 1:
        raise ServerError(f"npm pack {package} failed with {done.returncode}: {done.stderr.strip() or 'no archive'}")
    with archives[0].open("rb") as file:
        found = "sha512-" + base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
    if (expected := INTEGRITY[package]) is not None and found != expected:
        archives[0].unlink()
        raise ServerError(f"npm gave another {package} than was expected: {found} instead of {expected}.")
    return archives[0]


class ClickHouseServer:
    """
    One ClickHouse server in a subprocess, its data in a folder of its own.

    It listens on 127.0.0.1 and 127.0.0.2 only. Users without a password: ``default`` (all
    rights), ``writer`` (SELECT and INSERT only, no CREATE), ``reader`` (SELECT only); the user
    ``secured`` has all rights and the password ``SECURED_PASSWORD``. It ends with the process
    that started it, even when that one is killed. Usable as a context manager (start, stop).

    Args:
        directory: Folder for data and logs; created when missing. One running server per folder.
        http_port: Port of the HTTP interface; a free one when None.
        tcp_port: Port of the native interface, used by Distributed tables (clusters
            ``one_shard`` and ``two_shards``); a free one when None.
        peers: Native ports of the other servers of the cluster ``replicas``.
    """

    def __init__(
        self,
        directory: str | Path,
        http_port: int | None = None,
        tcp_port: int | None = None,
        peers: Sequence[int] = (),
    ) -> None:
        self.directory = Path(directory).resolve()
        self.http_port = http_port or free_port()
        self.tcp_port = tcp_port or free_port()
        self.peers = peers
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address for clickhouse-connect and ``CLICKHOUSE_URL``: ``http://default@127.0.0.1:PORT``."""
        return f"http://default@127.0.0.1:{self.http_port}"

    @property
    def pid(self) -> int | None:
        """The process id while it runs (also while paused), else None."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def running(self) -> bool:
        """Whether the process exists; a paused one does, and answers nothing."""
        return self.pid is not None

    def start(self, timeout: float = 60) -> ClickHouseServer:
        """
        Start the server and return once it answers a query; on a running one do nothing.

        User tables of an earlier start on the same folder are there again, the log tables
        of ``system`` start empty.

        Args:
            timeout: Seconds to wait for the first answer.

        Raises:
            ServerError: It ended or did not answer in time; the message has the end of its log.
        """
        if self.running:
            return self
        library = fetch_library()
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "console.log").open("ab") as console:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, str(Path(__file__).resolve())),
                    *("--dir", str(self.directory), "--port", str(self.http_port), "--tcp-port", str(self.tcp_port)),
                    *("--library", str(library), "--follow", str(os.getpid())),
                    *(f"--peer={port}" for port in self.peers),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                # A group of its own: Ctrl-C in the terminal must reach the tests, not the server.
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout
        while not self.answers():
            code = self._process.poll()
            if code is not None:
                raise ServerError(f"ClickHouse ended with {code} while starting.\n{self.log_tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise ServerError(f"ClickHouse did not answer within {timeout:g} s.\n{self.log_tail()}")
            time.sleep(0.05)
        return self

    def answers(self, timeout: float = 2) -> bool:
        """Whether this server, and not another on its port, answers a query within *timeout* seconds."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=timeout)
        try:
            connection.request("POST", "/", "SELECT path FROM system.disks WHERE name = 'default' FORMAT RawBLOB")
            return connection.getresponse().read().decode() == f"{self.directory / 'data'}/"
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def log_tail(self, lines: int = 30) -> str:
        """Return the last *lines* lines of each log file that has any, each under its name."""
        found = []
        for name in ("console.log", "server.err.log", "server.log"):
            path = self.directory / name
            if path.is_file() and path.stat().st_size:
                tail = path.read_text(errors="replace").splitlines()[-lines:]
                found.append("\n".join([f"--- {path}", *tail]))
        return "\n".join(found) or f"(no log in {self.directory})"

    def stop(self, timeout: float = 20) -> None:
        """End the server with SIGTERM, and with SIGKILL after *timeout* seconds; safe when it is not running."""
        self._end(signal.SIGTERM, timeout)

    def kill(self) -> None:
        """Kill the server with SIGKILL; safe if it is not running."""
        self._end(signal.SIGKILL, 20)

    def _end(self, how: signal.Signals, timeout: float) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(how)
        # A paused process takes SIGTERM only after it is woken.
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def restart(self, timeout: float = 60) -> ClickHouseServer:
        """Stop it if it runs, and start it on the same folder and ports; see ``start``."""
        self.stop()
        return self.start(timeout)

    def pause(self) -> None:
        """Freeze the process (SIGSTOP): connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def _signal(self, which: signal.Signals) -> None:
        pid = self.pid
        if pid is None:
            raise ServerError(f"The server in {self.directory} is not running.")
        os.kill(pid, which)

    def __enter__(self) -> ClickHouseServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _prepare(directory: Path, http_port: int, tcp_port: int, peers: Sequence[int]) -> Path:
    """Write the server's configuration into *directory* and return its path; clear what blocks a second start."""
    directory.mkdir(parents=True, exist_ok=True)
    data = directory / "data"
    # clickhouse-local cannot make its log tables again over old ones (error 57).
    for leftover in (data / "data" / "system", data / "metadata" / "system"):
        if leftover.is_symlink():
            leftover.unlink()
        else:
            shutil.rmtree(leftover, ignore_errors=True)
    (directory / "users.xml").write_text(_USERS, encoding="utf-8")
    config = directory / "config.xml"
    config.write_text(
        _CONFIG.format(
            directory=directory,
            http_port=http_port,
            tcp_port=tcp_port,
            flush_interval_ms=FLUSH_INTERVAL_MS,
            replicas="".join(_REPLICA.format(port=port) for port in (tcp_port, *peers)),
        )
    )
    return config


def _follow(parent: int) -> None:
    """End this process when *parent* is gone, so that no server outlives a killed test run."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def serve(directory: Path, http_port: int, tcp_port: int, library: Path, peers: Sequence[int] = ()) -> int:
    """Run the server in this process until it is signalled; return the engine's exit code."""
    config = _prepare(directory, http_port, tcp_port, peers)
    engine = ctypes.CDLL(str(library.resolve()))
    # The function file() reads and writes here, and nowhere else.
    os.chdir(directory)
    arguments = [
        b"clickhouse-local",
        f"--config-file={config}".encode(),
        f"--path={directory / 'data'}".encode(),
        # clickhouse-local reads its log level only from here; its default, trace, costs as much CPU as the queries.
        b"--log-level=warning",
        f"--query={_STAY}".encode(),
    ]
    engine.chdb_query_cmdline.argtypes = [ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)]
    engine.chdb_query_cmdline.restype = ctypes.c_void_p
    # Nothing in this process needs a clean shutdown; the default handler ends it at once, as a server's TERM would.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    result = engine.chdb_query_cmdline(len(arguments), (ctypes.c_char_p * len(arguments))(*arguments))
    return 0 if result else 1


def main(arguments: list[str] | None = None) -> int:
    """Run a server in the foreground; Ctrl-C ends it."""
    parser = argparse.ArgumentParser(prog="python -m tests.server", description="A ClickHouse server for tests.")
    parser.add_argument("--dir", type=Path, required=True, help="folder for data and logs; created when missing")
    parser.add_argument("--port", type=int, default=8123, help="HTTP port (default: %(default)s)")
    parser.add_argument("--tcp-port", type=int, help="native port (default: a free one)")
    parser.add_argument(
        "--peer", type=int, action="append", default=[], help="native port of another server of the cluster; repeatable"
    )
    parser.add_argument("--library", type=Path, help="libchdb.so (default: fetched with npm into the user's cache)")
    parser.add_argument("--follow", type=int, metavar="PID", help="end when this parent process is gone")
    options = parser.parse_args(arguments)
    library = options.library or fetch_library()
    if options.follow is not None:
        _follow(options.follow)
    else:
        print(f"ClickHouse on http://default@127.0.0.1:{options.port} (data in {options.dir})", flush=True)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    with contextlib.suppress(KeyboardInterrupt):
        return serve(options.dir.resolve(), options.port, options.tcp_port or free_port(), library, options.peer)
    return 130


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ServerError as problem:
        sys.exit(str(problem))
