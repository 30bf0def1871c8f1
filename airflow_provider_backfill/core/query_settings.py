"""
ClickHouse settings that a user gives for the statements that read the source and fill. Pure.

Those by which a chunk gets its rows exactly once, or all of them, are ours to set, and are refused by name.
"""

import re
from collections.abc import Iterable, Mapping

from ..errors import Advice, Flag, RequestError
from .masking import mask_secrets

# The settings for an exact result: the filter, no deduplication, whole statements, every shard.
_OURS = frozenset(
    {"additional_table_filters", "additional_result_filter", "log_comment", "async_insert", "wait_for_async_insert"}
    | {"optimize_on_insert", "max_partitions_per_insert_block", "throw_on_max_partitions_per_insert_block"}
    | {"skip_unavailable_shards", "distributed_foreground_insert", "insert_distributed_sync", "insert_quorum"}
    | {"send_progress_in_http_headers", "http_headers_progress_interval_ms", "session_id", "query_id", "database"}
    | {"limit", "offset", "readonly", "mutations_sync", "insert_allow_materialized_columns", "insert_null_as_default"}
    | {"max_partition_size_to_drop", "max_table_size_to_drop", "wait_end_of_query", "max_insert_block_size_rows"}
    | {"ignore_on_cluster_for_replicated_udf_queries", "apply_mutations_on_fly", "distributed_product_mode", "dialect"}
)
_OURS_BY_PART = re.compile(r"insert_deduplic|deduplicate_(?:insert|blocks)|^param_|_overflow_mode(?:_|$)|^limit_")
_NAME = re.compile(r"\w+")


def check_settings(names: Iterable[str], what: str) -> None:
    """
    Refuse settings that are ours.

    Args:
        what: Where they were given.

    Raises:
        RequestError: Names the setting.
    """
    for name in names:
        if not _NAME.fullmatch(name):
            raise RequestError(
                f"{name!r} is no name of a setting.", remedy=Advice("write {}", Flag("--setting", "a=1"))
            )
        if name in _OURS or _OURS_BY_PART.search(name):
            raise RequestError(
                f"{what} sets {name}, which decides whether a chunk gets its rows, each once: it is set by the plan.",
                hint=f"leave {name} out",
            )


def check_setting_values(settings: Mapping[str, object], what: str) -> None:
    """
    Refuse values with a credential in them, such as the address of a schema registry: a plan keeps its settings.

    Args:
        what: Where they were given.

    Raises:
        RequestError: Names the setting, without its value.
    """
    for name, value in settings.items():
        if mask_secrets(str(value)) != str(value):
            raise RequestError(
                f"{what} gives {name} a value with a credential in it. The plan's file and the server's query_log keep "
                "settings as they are.",
                hint="set it in a profile of the ClickHouse user, or use a named collection",
            )


def settings_as_text(settings: Mapping[str, object]) -> dict[str, str]:
    """Return settings as sent and kept in a plan, sorted by name."""
    return {
        name: str(int(value)) if isinstance(value, bool) else str(value) for name, value in sorted(settings.items())
    }
