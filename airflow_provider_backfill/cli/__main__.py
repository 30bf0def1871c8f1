"""Run the command line as ``python -m airflow_provider_backfill.cli``."""

import sys

from .main import main

code = main()
# CPython ends `-m` by SIGINT when an interrupt came inside code from text, such as a named tuple; this forgets it.
exec("")  # noqa: S102
sys.exit(code)
