"""The command line, with less patience for a replica that is behind: ``python -m tests.cluster.impatient …``."""

from __future__ import annotations

import sys

from airflow_provider_backfill.cli.main import main
from airflow_provider_backfill.clickhouse import cluster

if __name__ == "__main__":
    cluster.SYNC_SECONDS = 3
    sys.exit(main(sys.argv[1:]))
