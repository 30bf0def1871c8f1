"""
The command line, with less patience for a replica that is behind: ``python -m tests.cluster.impatient …``.

``BACKFILL_TEST_OFF`` in its environment names a safety that is switched off.
"""

from __future__ import annotations

import os
import sys

from airflow_provider_backfill.cli.main import main
from airflow_provider_backfill.clickhouse import cluster
from tests.system.faults.switches import SWITCHES

# How long to wait for a replica that is behind.
SYNC_SECONDS = 3

if __name__ == "__main__":
    cluster.SYNC_SECONDS = SYNC_SECONDS
    if off := os.environ.get("BACKFILL_TEST_OFF"):
        SWITCHES[off]()
    sys.exit(main(sys.argv[1:]))
