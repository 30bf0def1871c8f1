"""
Plan, run and watch ClickHouse backfills from Airflow, each row written exactly once.

This file has the version, the metadata for Airflow's providers manager, and :class:`.Client`, which is loaded late. At
import, this file loads no other module, because the command line and every ``airflow`` call import it first.
"""

# Type checkers treat a name TYPE_CHECKING as True. Importing typing's constant would cost each start a millisecond.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from .client import Client as Client

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """
    Return :class:`.Client`, which is imported at the first use, so that an import of the package costs nothing.

    Raises:
        AttributeError: The name is not ``Client``.
    """
    if name == "Client":
        from .client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# The options of Airflow's section: name, type, default as text (empty without a default), example or None, description.
_OPTIONS = (
    (
        "state_dir",
        "string",
        "{AIRFLOW_HOME}/clickhouse-backfill",
        "s3://bucket/clickhouse-backfill",
        "Folder or URL of plans, run checkpoints and event logs, within reach of workers, triggerer and API server.",
    ),
    ("chunk_hours", "string", "6", "1d", "Length of a chunk: hours, or text such as 12h, 1d, month, partition."),
    ("max_chunk_rows", "integer", "", "5000000", "Most rows of the source that a chunk reads."),
    ("max_chunk_bytes", "integer", "", "1073741824", "Most uncompressed bytes of the source that a chunk reads."),
    ("max_parallel_chunks", "integer", "1", "4", "Number of parallel chunks; greater than 0."),
    ("max_retries_per_chunk", "integer", "3", None, "Attempts per chunk, the first one included; greater than 0."),
    (
        "retry_delay_ms",
        "float",
        "1000",
        None,
        "Milliseconds before the second attempt of a chunk; doubled for each further one.",
    ),
    (
        "require_idempotency_token",
        "boolean",
        "True",
        None,
        "Give each chunk a deduplication token as a second belt.",
    ),
    (
        "time_column",
        "string",
        "",
        "event_time",
        "Column that the window applies to; empty: found in the source table.",
    ),
    (
        "settings",
        "string",
        "",
        "max_threads=4, max_memory_usage=20000000000",
        "ClickHouse settings for the statements that read the source and fill, part of the plan.",
    ),
    (
        "require_dry_run_before_run",
        "boolean",
        "True",
        None,
        "Run persisted plans only. When False, a run may take plan arguments and plan first.",
    ),
    (
        "require_explicit_window",
        "boolean",
        "True",
        None,
        "Both ends of the window must be given. When False, a missing one is read from the source.",
    ),
    (
        "block_overlapping_runs",
        "boolean",
        "True",
        None,
        "Refuse a run while another one of the same target with an intersecting window is active.",
    ),
    (
        "fail_check_on_required_pending_backfill",
        "boolean",
        "True",
        None,
        "Make the check fail, not only warn, while a planned backfill is not completed.",
    ),
    ("max_window_hours", "float", "720", None, "Longest window in hours that is planned without being forced."),
    ("min_chunk_minutes", "float", "15", None, "Shortest chunk in minutes, also when chunks are split."),
    ("trial_rows", "integer", "2000000", None, "About how many rows a trial reads; a quarter if rules suffice."),
    ("trial_seconds", "float", "20", None, "How long a statement of a trial may take, in seconds."),
)


_INTEGRATION = "ClickHouse Backfill"


def _modules(*names: str) -> dict[str, object]:
    return {"integration-name": _INTEGRATION, "python-modules": [f"{__name__}.{name}" for name in names]}


def get_provider_info() -> dict[str, object]:
    """
    Return the provider's metadata in the form of Airflow's ``provider_info.schema.json``.

    Airflow calls this function in every process, through the entry point group ``apache_airflow_provider``.
    """
    return {
        "package-name": "airflow-provider-backfill",
        "name": "ClickHouse Backfill",
        "description": "Plan, run and watch time-windowed backfills of ClickHouse tables, "
        "each row written exactly once.",
        "versions": [__version__],
        "integrations": [
            {
                "integration-name": _INTEGRATION,
                "external-doc-url": "https://clickhouse.com/docs",
                "tags": ["software"],
            }
        ],
        "operators": [_modules("operators")],
        "sensors": [_modules("sensors")],
        "cli": [f"{__name__}.cli.airflow_command.commands"],
        "triggers": [_modules("triggers")],
        "task-decorators": [
            {"name": "clickhouse_backfill", "class-name": f"{__name__}.task_group.clickhouse_backfill"},
        ],
        # Register the scheme here, because the official ClickHouse provider does not.
        "asset-uris": [{"schemes": ["clickhouse"], "handler": None}],
        "extra-links": [f"{__name__}.airflow_support.links.BackfillPlanLink"],
        "config": {
            "clickhouse_backfill": {
                "description": "Defaults, policy and limits of ClickHouse backfills. Weaker than operator arguments,\n"
                "CLICKHOUSE_BACKFILL_ variables and clickhouse-backfill.toml.",
                "options": {
                    name: {
                        "description": description,
                        "version_added": "0.1.0",
                        "type": kind,
                        "example": example,
                        "default": default,
                    }
                    for name, kind, default, example, description in _OPTIONS
                },
            }
        },
    }
