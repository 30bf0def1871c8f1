"""The page about a sharded cluster does what it says, on two shards with two replicas each."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import clickhouse_connect
import pytest

from tests.cluster.nodes import Cluster
from tests.pages import ROOT, Reader, blocks

PAGE = ROOT / "docs" / "how-to" / "sharded-cluster.md"
# All nodes have one host name here, so a plan of all shards needs their addresses.
_PROGRAM = """\
#!/bin/sh
case "$*" in
"plan --target shop.copy_local "*) ;;
"plan "*) set -- "$@" {addresses} ;;
esac
exec {python} -m airflow_provider_backfill.cli "$@"
"""


def _no_dag(_: Path) -> str:
    raise AssertionError("the page has no DAG")


@pytest.mark.long
def test_the_page_does_what_it_says(square: Cluster, tmp_path: Path) -> None:
    addresses = " ".join(f"--shard-url {node.shard}={node.url.replace('default@', '')}" for node in square.nodes)
    program = tmp_path / "bin" / "clickhouse-backfill"
    program.parent.mkdir()
    program.write_text(_PROGRAM.format(addresses=addresses, python=sys.executable))
    program.chmod(0o755)
    url = square.nodes[0].url
    client = clickhouse_connect.get_client(dsn=url, autogenerate_session_id=False)
    reader = Reader(
        tmp_path, client, {"CLICKHOUSE_URL": url, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}, _no_dag
    )
    try:
        for block in blocks(PAGE):
            try:
                reader.do(block)
            except AssertionError as error:
                pytest.fail(f"line {block.line}: {error}", pytrace=False)
    finally:
        for node in square.start().nodes:
            node.query("DROP DATABASE IF EXISTS shop SYNC")
