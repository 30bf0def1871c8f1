"""
Check the ClickHouse settings that a user gives for reading and filling.

Some settings decide whether a chunk gets all rows exactly once. A user's value for such a setting is refused. A value
that contains a credential is refused, too. This module is pure.
"""

import re
from collections.abc import Iterable, Mapping

from ..errors import Advice, Flag, RequestError
from .masking import mask_secrets

# The settings that a user may not give, because an exact result depends on these settings: for example the time filter,
# deduplication, limits of the result, and unavailable shards. The pattern below covers further names.
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
# Refused settings, each with advice on how a SELECT gets the same effect.
_INSTEAD = {"session_timezone": "name the zone in the functions of time, as in toStartOfDay(ts, 'Europe/Berlin')"}
_NAME = re.compile(r"\w+")


def check_settings(names: Iterable[str], what: str) -> None:
    """
    Refuse settings on which an exact result depends.

    Args:
        what: The place of the settings, for the message.

    Raises:
        RequestError: A name cannot be the name of a setting, or the setting is refused; the message has the name.
    """
    for name in names:
        if not _NAME.fullmatch(name):
            raise RequestError(
                f"{name!r} is no name of a setting.", remedy=Advice("write {}", Flag("--setting", "a=1"))
            )
        if name in _INSTEAD:
            raise RequestError(
                f"{what} sets {name}, which moves the buckets of some functions of time, so a plan cannot tell where "
                "chunks cut them.",
                hint=_INSTEAD[name],
            )
        if name in _OURS or _OURS_BY_PART.search(name):
            raise RequestError(
                f"{what} sets {name}, which decides whether a chunk gets its rows, each once: it is set by the plan.",
                hint=f"leave {name} out",
            )


def check_setting_values(settings: Mapping[str, object], what: str) -> None:
    """
    Refuse values that contain a credential, because plans store settings.

    An example is the address of a schema registry with a password.

    Args:
        what: The place of the settings, for the message.

    Raises:
        RequestError: A value contains a credential; the message has the name of the setting, without the value.
    """
    for name, value in settings.items():
        if mask_secrets(str(value)) != str(value):
            raise RequestError(
                f"{what} gives {name} a value with a credential in it. The plan's file and the server's query_log keep "
                "settings as they are.",
                hint="set it in a profile of the ClickHouse user, or use a named collection",
            )


def settings_as_text(settings: Mapping[str, object]) -> dict[str, str]:
    """Return settings as texts, sorted by name, for the server and the plan; a boolean becomes ``1`` or ``0``."""
    return {
        name: str(int(value)) if isinstance(value, bool) else str(value) for name, value in sorted(settings.items())
    }
