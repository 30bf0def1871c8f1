"""Run a cluster in the foreground: ``python -m tests.cluster --shards 2 --replicas 2 DIR``; Ctrl-C ends it."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from tests.cluster.library import Refused
from tests.cluster.nodes import Cluster, ClusterError, why_not_here
from tests.server import ServerError


def main() -> None:
    """Start, print where everything is, and stay."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description="A ClickHouse cluster for tests.")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--name", default="cluster", help="of the cluster (default: %(default)s)")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    if reason := why_not_here():
        sys.exit(reason)
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: sys.exit(0))
    with Cluster(options.folder, options.shards, options.replicas, name=options.name) as cluster:
        for node in cluster.nodes:
            print(f"shard {node.shard} replica {node.replica}: {node.url} (native port {node.tcp_port})")
        print(f"zookeeper: 127.0.0.1:{cluster.zookeeper.port}\nready", flush=True)
        signal.pause()


if __name__ == "__main__":
    try:
        main()
    except (Refused, ClusterError, ServerError) as problem:
        sys.exit(str(problem))
