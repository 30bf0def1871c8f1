"""Run the command line as ``python -m airflow_provider_backfill.cli``."""

import sys

from .main import main

code = main()
# CPython remembers a KeyboardInterrupt raised inside exec() or eval() of text, which namedtuple uses. `python -m` would
# then end with SIGINT instead of our exit code. Another exec() clears the memory.
exec("")  # noqa: S102
sys.exit(code)
