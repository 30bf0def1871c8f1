"""
Add the command ``airflow clickhouse-backfill``: the console script inside Airflow's command line.

Airflow imports this file at every call of ``airflow``, so the file imports little. Arguments, output and exit codes are
those of the console script. Airflow's ``[clickhouse_backfill]`` section is a further source of options.
"""

import argparse
import sys
from typing import Any

from airflow.cli.cli_config import ActionCommand, Arg


class _Words(Arg):
    """The argument for all following words, including flags; the console script parses the words."""

    def add_to_parser(self, parser: argparse.ArgumentParser) -> None:
        # Without prefix characters, Airflow takes no word for a flag, not even -h.
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
    """Run the console script with ``args.words`` and exit with its code, since Airflow ignores a command's result."""
    from ..airflow_support.session import airflow_section
    from .main import main

    sys.exit(main(args.words, airflow_section=airflow_section()))
