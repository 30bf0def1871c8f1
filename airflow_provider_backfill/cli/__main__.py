"""Run the command line as ``python -m airflow_provider_backfill.cli``."""

import sys

from .main import main

sys.exit(main())
