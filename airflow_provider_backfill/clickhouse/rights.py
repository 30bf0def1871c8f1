"""Check the rights that a plan needs and the settings of its statements."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..core.facts import ConstrainedSetting, MissingGrant, TableFacts
from ..core.names import quote
from ..core.plan import Plan, WriteMode
from ..core.sql import literal, quote_table
from ..core.tables import TableName
from .attempt import STAGING_SETTINGS
from .client import ClickHouse

# Settings that the statements of a plan with staging tables send, with their values; None means any value.
_SENT: dict[str, str | None] = {
    **{name: str(value) for name, value in STAGING_SETTINGS.items()},
    "additional_table_filters": None,
    "log_comment": None,
    "max_partition_size_to_drop": "0",
    "max_table_size_to_drop": "0",
    "mutations_sync": "2",
    "send_progress_in_http_headers": "1",
    "http_headers_progress_interval_ms": "10000",
}
# Settings that the statements of a plan without staging tables send, with their values; None means any value.
_SENT_DIRECTLY: dict[str, str | None] = {
    "additional_table_filters": None,
    "log_comment": None,
    "insert_deduplicate": "1",
    "async_insert": "0",
    "distributed_foreground_insert": "1",
    "skip_unavailable_shards": "0",
    "send_progress_in_http_headers": "1",
    "http_headers_progress_interval_ms": "10000",
}


def missing_grants(
    server: ClickHouse, target: TableFacts, mode: WriteMode | None, sources: Iterable[TableName]
) -> tuple[MissingGrant, ...]:
    """
    Return the rights that a plan of the write mode *mode* needs and the user lacks.

    If *mode* is None, check the rights for a mode with staging tables.
    """
    needed = [("SELECT", quote_table(source)) for source in sources]
    if mode is WriteMode.INSERT:
        # An EXPLAIN in a FROM clause needs the right CREATE TEMPORARY TABLE, which CREATE TABLE includes.
        needed += [("INSERT", quote_table(target.storage)), ("CREATE TEMPORARY TABLE", "*.*")]
    else:
        # Staging tables and fences have names that are unknown beforehand, so the rights must cover the database.
        databases = [f"{quote(database)}.*" for database in target.databases]
        rights = ["SELECT", "INSERT", "CREATE TABLE", "DROP TABLE", "ALTER DELETE"]
        if target.engine.startswith("Shared"):
            rights.append("ALTER SETTINGS")
        if " TTL " in target.engine_full:
            rights.append("ALTER TTL")
        needed += [(right, database) for database in databases for right in rights]
        needed += [("TABLE ENGINE", target.engine), ("SELECT", "system.parts")]
        if target.engine.startswith("Replicated"):
            needed += [*(("SYSTEM SYNC REPLICA", database) for database in databases), ("SELECT", "system.zookeeper")]
    if not server.embedded:
        needed += [("SELECT", "system.processes")]
    return tuple(MissingGrant(right, on) for right, on in needed if not _granted(server, right, on))


def _granted(server: ClickHouse, right: str, on: str) -> bool:
    return bool(server.value(f"CHECK GRANT {right} ON {on}"))


def constrained_settings(server: ClickHouse, plan: Plan | None) -> tuple[ConstrainedSetting, ...]:
    """
    Return the settings in the product's statements that this user may not set to the needed values.

    The result includes ``readonly`` if the user's value of this setting is not 0. With the value 1, the user may change
    no setting, and the result has only ``readonly``. If *plan* is None, check the settings of a plan with staging
    tables.
    """
    sent = _SENT_DIRECTLY if plan is not None and plan.write_mode is WriteMode.INSERT else _SENT
    if plan is not None and plan.use_tokens:
        sent = {**sent, "insert_deduplication_token": None}
    elif sent is _SENT_DIRECTLY:
        sent = {**sent, "insert_deduplicate": "0", "deduplicate_insert_select": "disable"}
    if server.embedded:
        sent = {name: value for name, value in sent.items() if "http" not in name}
    names = ", ".join(map(literal, ("readonly", *sent)))
    found = server.rows(
        "SELECT name, value, readonly, min, max, disallowed_values FROM system.settings"
        f" WHERE name IN ({names}) ORDER BY name"
    )
    read_only = next((row for row in found if row[:2] == ("readonly", "1")), None)
    return tuple(_refused(sent, found if read_only is None else [read_only]))


def _refused(sent: Mapping[str, str | None], found: Iterable[tuple[Any, ...]]) -> Iterator[ConstrainedSetting]:
    for name, value, tied, low, high, disallowed in found:
        wanted = "0" if name == "readonly" else sent[name]
        if wanted == value:
            continue
        if name == "readonly":
            yield ConstrainedSetting(name, "0", value, "so nothing may be written")
        elif tied:
            yield ConstrainedSetting(name, wanted or "a text", value, "and may not be changed")
        elif wanted is not None and wanted in disallowed:
            yield ConstrainedSetting(name, wanted, value, "and that value is disallowed")
        elif wanted is not None and wanted.isdigit():
            if low is not None and float(wanted) < float(low):
                yield ConstrainedSetting(name, wanted, value, f"and must be at least {low}")
            if high is not None and float(wanted) > float(high):
                yield ConstrainedSetting(name, wanted, value, f"and must be at most {high}")
