"""The Grafana dashboard and the table of metrics name the metrics that tasks send, all of them and no others."""

from __future__ import annotations

import json
import re
from pathlib import Path

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"
SOURCE = Path(__file__).parents[2] / "airflow_provider_backfill" / "airflow_support" / "task_log.py"


def _sent() -> set[str]:
    source = SOURCE.read_text(encoding="utf-8")
    names = re.findall(r'self\._count\("(\w+)"', source) + re.findall(r'\{_PREFIX\}\.(\w+)"', source)
    conditional = re.findall(r'self\._count\("(\w+)" if .* else "(\w+)"\)', source)
    return {*names, *(name for pair in conditional for name in pair)}


def test_the_dashboard_shows_every_metric() -> None:
    dashboard = json.loads((HOW_TO / "backfills.json").read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    shown = set(re.findall(r"airflow_clickhouse_backfill_(\w+)\{", " ".join(queries)))
    assert shown == _sent() == {"chunks_done", "chunks_failed", "chunk_retries", "rows", "chunk_seconds"}
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


def test_the_table_lists_every_metric() -> None:
    text = (HOW_TO / "alert-and-measure.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `clickhouse_backfill\.(\w+)`", text, re.MULTILINE)) == _sent()
