"""
The command ``airflow clickhouse-backfill``: the console script, inside Airflow's own command line.

Airflow imports this at every call of ``airflow``, so there is nothing here but the name. Words, output and exit
codes are the console script's; ``[clickhouse_backfill]`` of Airflow's configuration is one more source of options.
"""

import argparse
import sys
from typing import Any

from airflow.cli.cli_config import ActionCommand, Arg


class _Words(Arg):
    """Everything that follows, flags included: the console script reads them, as it does by itself."""

    def add_to_parser(self, parser: argparse.ArgumentParser) -> None:
        # Without such characters no word is a flag of Airflow's; not even -h.
        parser.prefix_chars = ""
        super().add_to_parser(parser)


def commands() -> list[ActionCommand]:
    """Return the commands that Airflow adds to its command line."""
    words: Any = _Words
    about = {"nargs": "*", "metavar": "COMMAND [options]", "help": "those of the console script clickhouse-backfill"}
    return [
        ActionCommand(
            name="clickhouse-backfill",
            help="Plan, run and watch ClickHouse backfills (not those of DAG runs)",
            func=run,
            args=(words(flags=("words",), **about),),
        )
    ]


def run(args: Any) -> None:
    """Run the words; the exit code is the script's, since Airflow drops what a command returns."""
    from ..airflow_support.session import airflow_section
    from .main import main

    sys.exit(main(args.words, airflow_section=airflow_section()))
