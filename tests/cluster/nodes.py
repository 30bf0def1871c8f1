"""
A real ClickHouse cluster for tests: shards x replicas and one ZooKeeper, on this machine, without Docker.

``Cluster`` starts them on loopback ports and keeps their data in one folder. Every node is a process of its own,
which can be killed and started again; see :mod:`.engine` for how the library becomes a node.
``python -m tests.cluster --replicas 2 DIR`` runs one in the foreground.

Linux x86-64 only; needs java and Debian's package ``zookeeper``, or ``ZOOKEEPER_CLASSPATH``.
All nodes have one ``hostName()``: tell them apart by ``tcpPort()``, ``serverUUID()`` or the macro ``replica``.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

from tests.cluster.configuration import CONFIG, HEDGED, USERS, ZOO_CFG
from tests.cluster.library import locate
from tests.server import FLUSH_INTERVAL_MS, fetch_library

QUERY_HOST, INTERSERVER_HOST = "127.0.0.1", "127.0.0.2"
# Keeper takes a node for dead after this time.
SESSION_SECONDS = 4
_HERE = Path(__file__).parent
_JARS = (
    *(
        "zookeeper",
        "zookeeper-jute",
        "slf4j-api",
        "slf4j-nop",
        "log4j-1.2",
        "snappy-java",
        "metrics-core",
        "commons-cli",
    ),
    *("netty-all", "netty-buffer", "netty-codec", "netty-common", "netty-handler", "netty-resolver", "netty-transport"),
    *("netty-transport-native-epoll", "netty-transport-native-unix-common"),
)


class ClusterError(RuntimeError):
    """A process of the cluster did not start, or a server refused a query; the message says why."""


def why_not_here() -> str:
    """Why this machine cannot run a cluster; empty when it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"a cluster needs Linux on x86_64, and this is {sys.platform} on {platform.machine()}"
    if not _classpath() or shutil.which("java") is None:
        return "a cluster needs ZooKeeper: apt-get install zookeeper default-jre-headless"
    return ""


def _classpath() -> str:
    jars = [path for name in _JARS if (path := Path("/usr/share/java") / f"{name}.jar").exists()]
    found = ":".join(map(str, jars)) if any(jar.name == "zookeeper.jar" for jar in jars) else ""
    return os.environ.get("ZOOKEEPER_CLASSPATH") or found


def free_port(taken: set[int]) -> int:
    """A port that is free on both loopback addresses, below the range of outgoing connections; it joins *taken*."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        if port in taken:
            continue
        try:
            for host in (QUERY_HOST, INTERSERVER_HOST):
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind((host, port))
        except OSError:
            continue
        taken.add(port)
        return port


class Program:
    """A program that can be started, killed and started again on the same folder and ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """What to run."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether it serves."""
        raise NotImplementedError

    @property
    def alive(self) -> bool:
        """Whether the process exists."""
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start the process and return at once."""
        if self.alive:
            return
        with (self.folder / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                # It ends when the other end is closed.
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
            )

    def wait(self, timeout: float = 60) -> None:
        """
        Return once it serves.

        Raises:
            ClusterError: It ended, or does not serve in time.
        """
        deadline = time.monotonic() + timeout
        while not self.answers():
            if not self.alive or time.monotonic() > deadline:
                self.kill()
                tail = (self.folder / "output.log").read_text(errors="replace")[-2000:]
                raise ClusterError(f"{self.folder.name} did not start:\n{tail}")
            time.sleep(0.05)

    def start(self, timeout: float = 60) -> None:
        """Start it and return once it serves; does nothing when it runs."""
        self.launch()
        self.wait(timeout)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash does; safe when it does not run."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None

    def pause(self) -> None:
        """Freeze it: connections stay open, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen process go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, which: signal.Signals) -> None:
        if self._process is not None:
            os.kill(self._process.pid, which)


class ZooKeeper(Program):
    """The cluster's Keeper."""

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(folder)
        self.port = port
        (folder / "zoo.cfg").write_text(ZOO_CFG.format(folder=folder, port=port))

    def command(self) -> list[str]:
        """Without an fsync for each transaction: a test cluster need not survive a power cut."""
        java = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dzookeeper.forceSync=no"]
        server = ["-cp", _classpath(), "org.apache.zookeeper.server.quorum.QuorumPeerMain"]
        return [sys.executable, str(_HERE / "guard.py"), *java, *server, str(self.folder / "zoo.cfg")]

    def answers(self) -> bool:
        """Whether it says that it is all right."""
        try:
            with socket.create_connection((QUERY_HOST, self.port), 1) as connection:
                connection.sendall(b"ruok")
                return connection.recv(4) == b"imok"
        except OSError:
            return False

    def kill(self) -> None:
        """End it; the guard ends java when its stdin is closed, and both are waited for."""
        if self._process is None:
            return
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        self._process = None


class Node(Program):
    """
    One ClickHouse: *url* is its HTTP interface, *tcp_port* the native one, both on 127.0.0.1.

    The user ``default`` has all rights; ``quorum``, too, and its inserts want both replicas; ``alone`` has no right
    to other servers.
    """

    def __init__(self, folder: Path, shard: int, replica: int, http_port: int, tcp_port: int) -> None:
        super().__init__(folder)
        self.shard, self.replica, self.http_port, self.tcp_port = shard, replica, http_port, tcp_port
        self.url = f"http://default@{QUERY_HOST}:{http_port}"

    def command(self) -> list[str]:
        """The engine, in a process of its own."""
        return [sys.executable, str(_HERE / "engine.py"), str(self.folder / "node.json")]

    def answers(self) -> bool:
        """Whether both of its listeners answer; the one for parts is bound last."""
        addresses = [f"http://{host}:{self.http_port}/ping" for host in (INTERSERVER_HOST, QUERY_HOST)]
        try:
            return all(urllib.request.urlopen(address, timeout=5).read() == b"Ok.\n" for address in addresses)  # noqa: S310
        except OSError:
            return False

    def query(self, sql: str, timeout: float = 120, **settings: object) -> str:
        """
        The answer's text, TabSeparated unless the query says otherwise, without its last line's end.

        Raises:
            ClusterError: The server refused it, with its message.
        """
        parameters = urllib.parse.urlencode({"wait_end_of_query": 1, **settings})
        address = f"http://{QUERY_HOST}:{self.http_port}/?{parameters}"
        try:
            with urllib.request.urlopen(address, sql.encode(), timeout=timeout) as answer:
                return str(answer.read().decode().removesuffix("\n"))
        except urllib.error.HTTPError as error:
            raise ClusterError(error.read().decode(errors="replace").strip()) from None

    def number(self, sql: str) -> int:
        """The one integer of an answer."""
        return int(self.query(sql))

    def stop_fetches(self, table: str) -> None:
        """Let the replica of a table fall behind."""
        self.query(f"SYSTEM STOP FETCHES {table}")

    def start_fetches(self, table: str) -> None:
        """Let it catch up again."""
        self.query(f"SYSTEM START FETCHES {table}")


class Cluster:
    """
    Shards x replicas ClickHouse nodes and one ZooKeeper in *folder*; usable as a context manager.

    The folder stays, and starting again in it continues with its data.

    Args:
        name: Of the cluster, in ``system.clusters`` and for ON CLUSTER.
        profile: Settings of the default profile, such as ``{"insert_quorum": 2}``.
        config: XML for the configuration of every node.

    Raises:
        Refused: The library is another build than the nodes know.
    """

    def __init__(
        self,
        folder: Path,
        shards: int = 1,
        replicas: int = 2,
        *,
        name: str = "cluster",
        profile: Mapping[str, object] | None = None,
        config: str = "",
        log_level: str = "warning",
    ) -> None:
        self.folder, self.name = folder.absolute(), name
        self._library = fetch_library().resolve()
        self._places = locate(self._library)
        self._profile, self._config, self._log_level = profile or {}, config, log_level
        count = shards * replicas
        ports = self._ports(1 + 2 * count)
        self.zookeeper = ZooKeeper(self.folder / "zookeeper", ports[0])
        self.nodes = [
            Node(self.folder / f"s{shard}r{replica}", shard, replica, *ports[1 + 2 * index : 3 + 2 * index])
            for index, (shard, replica) in enumerate(
                (s, r) for s in range(1, shards + 1) for r in range(1, replicas + 1)
            )
        ]
        for node in self.nodes:
            self._configure(node)

    def _ports(self, count: int) -> list[int]:
        """The same ports when it starts again, so that the data fits."""
        path = self.folder / "ports.json"
        if path.exists():
            kept: list[int] = json.loads(path.read_text())
            if len(kept) == count:
                return kept
        taken: set[int] = set()
        ports = [free_port(taken) for _ in range(count)]
        self.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(ports))
        return ports

    def _layout(self) -> Iterator[str]:
        for shard in sorted({node.shard for node in self.nodes}):
            yield "<shard><internal_replication>true</internal_replication>"
            for node in self.nodes:
                if node.shard == shard:
                    yield f"<replica><host>{QUERY_HOST}</host><port>{node.tcp_port}</port></replica>"
            yield "</shard>"

    def _configure(self, node: Node) -> None:
        settings = "".join(f"<{name}>{value}</{name}>" for name, value in self._profile.items())
        (node.folder / "users.xml").write_text(USERS.format(settings=settings, hedged=HEDGED))
        (node.folder / "config.xml").write_text(
            CONFIG.format(
                http_port=node.http_port,
                tcp_port=node.tcp_port,
                query_host=QUERY_HOST,
                interserver_host=INTERSERVER_HOST,
                name=node.folder.name,
                cluster=self.name,
                shard=node.shard,
                replica=f"r{node.replica}",
                zookeeper_port=self.zookeeper.port,
                session_ms=SESSION_SECONDS * 1000,
                layout="".join(self._layout()),
                flush_ms=FLUSH_INTERVAL_MS,
                log_level=self._log_level,
                folder=node.folder,
                config=self._config,
            )
        )
        spec = {
            "library": str(self._library),
            "places": self._places,
            "folder": str(node.folder),
            "interserver_host": INTERSERVER_HOST,
            "http_port": node.http_port,
            "log_level": self._log_level,
        }
        (node.folder / "node.json").write_text(json.dumps(spec))
        # clickhouse-local keeps the system database (query_log) on disk where it finds this file.
        system = node.folder / "data" / "metadata" / "system.sql"
        if not system.exists():
            system.parent.mkdir(parents=True, exist_ok=True)
            system.write_text(f"ATTACH DATABASE _ UUID '{uuid.uuid4()}'\nENGINE = Atomic\n")

    def node(self, replica: int, shard: int = 1) -> Node:
        """A node by its numbers, which begin with 1."""
        return next(node for node in self.nodes if (node.shard, node.replica) == (shard, replica))

    def query(self, sql: str) -> str:
        """Run a query on the first node."""
        return self.nodes[0].query(sql)

    def start(self) -> Cluster:
        """Start what does not run, and return once all of it serves."""
        try:
            self.zookeeper.start()
            for node in self.nodes:
                node.launch()
            for node in self.nodes:
                node.wait()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Kill everything."""
        for node in self.nodes:
            node.kill()
        self.zookeeper.kill()

    def __enter__(self) -> Cluster:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
