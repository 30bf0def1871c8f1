"""
Find and drop the sealed parts that a move had already copied to the target when the server died.

For replicated targets, find out whether staged rows have arrived if Keeper may have forgotten the hashes of the parts.

The target's list of parts shows the hash of a copied part. The hash is gone after the target has merged the part
and removed the old part (``old_parts_lifetime``, up to some minutes). After that, the rows are compared. If the rows do
not decide, or merges may have removed the rows too, InDoubtError asks a person to check.
"""

from collections.abc import Iterable
from contextlib import suppress

from ..core.adding_up.merging import expires, may_erase, merges_keep_times
from ..core.remedy import command
from ..core.sql import literal, quote_table, row_hash, table_checksum_sql, table_condition
from ..core.tables import TableName
from ..core.target_window import window_filter
from ..errors import Advice, InDoubtError, RequestError, Sql, StatementRefusedError
from .attempt import Attempt, drop_part
from .client import ClickHouse
from .foreign_rows import has_times_to_itself
from .table_health import table_setting

# The maximum number of sampled rows per part. The sample is large, since a merge may have removed some of these rows.
_ASKED = 100_000
# The reasons why it is unknown what has arrived, for the target and its engine.
_SOME = "{0} holds some of its rows, or some with the same keys"
_ERASED = "merges of {0} ({1}) may have removed all of its rows since"


def drop_parts_already_moved(server: ClickHouse, attempt: Attempt, sealed: TableName, partition: str) -> None:
    """
    Drop the parts of the sealed partition that have arrived in the target.

    Raises:
        InDoubtError: It is unknown what has arrived: the target has some of the rows, or other rows with the same keys,
            or merges of the target may have removed all of the rows.
        TransitionError: Another worker has taken over the chunk.
    """
    there = {hashed for _, hashed in _parts(server, attempt.target.storage, partition)}
    here = _parts(server, sealed, partition, "active")
    arrived = [name for name, hashed in here if hashed in there]
    missed = [name for name, hashed in here if hashed not in there]
    if (
        missed
        and _may_be_cut(server, attempt, sealed, partition)
        and _has_some(server, attempt, sealed, partition, missed)
    ):
        if not _has_all(server, attempt, sealed, partition):
            raise _cannot_tell(attempt, sealed, partition, _SOME)
        arrived += missed
    elif missed and _may_be_erased(server, attempt, sealed, partition):
        raise _cannot_tell(attempt, sealed, partition, _ERASED)
    for name in arrived:
        # Check the claim before each drop, because the sealed table of a later replay may have the same name.
        attempt.owned()
        drop_part(server, sealed, name)


def has_arrived(server: ClickHouse, attempt: Attempt, table: TableName, partition: str) -> bool:
    """
    Return whether the staged rows of a partition are in the target.

    Call this function only if Keeper may have forgotten the hashes of published parts.

    Raises:
        InDoubtError: The answer is unknown: the target has some of the rows, or other rows with the same keys.
    """
    there = {hashed for _, hashed in _parts(server, attempt.target.storage, partition)}
    here = _parts(server, table, partition, "active")
    missed = [name for name, hashed in here if hashed not in there]
    if not missed:
        return True
    if len(missed) == len(here) and not _has_some(server, attempt, table, partition, missed):
        return False
    if _has_all(server, attempt, table, partition):
        return True
    raise _cannot_tell(attempt, table, partition, _SOME)


def _may_be_cut(server: ClickHouse, attempt: Attempt, sealed: TableName, partition: str) -> bool:
    """
    Return whether a move may have stopped midway: the server died, or lost Keeper during the move.

    In that case, the target's partition has a part that is not older than the oldest sealed part: a moved part, or a
    part merged from moved parts. Except on a Shared engine, the server has also started since the oldest sealed part
    was written. Timestamps have one-second resolution, so one second of slack is allowed.
    """
    of_partition = f"partition_id = {literal(partition)} AND active"
    oldest = _oldest(sealed, partition)
    question = (
        f"SELECT 1 FROM system.parts WHERE {table_condition(attempt.target.storage)} AND {of_partition}"
        f" AND modification_time + 1 >= {oldest} AND {_restarted(attempt, oldest)} LIMIT 1"
    )
    return server.numbers(question) == (1,)


def _may_be_erased(server: ClickHouse, attempt: Attempt, sealed: TableName, partition: str) -> bool:
    """
    Return whether a move may have stopped midway after which merges left no trace of the moved parts.

    In that case, the merges of the target can remove rows without a trace. The target may even have no part left, since
    ClickHouse drops empty parts. But the target lists the hash of a merged part for ``old_parts_lifetime``, so that
    time has passed since the oldest sealed part was written. Also, the server has started since, except on a Shared
    engine.

    Return False, too, if only rows of this chunk can have cancelled each other: moved again, they do so again.
    """
    target = attempt.target
    if not may_erase(target, attempt.plan.summed(attempt.plan.statements[0])):
        return False
    oldest, listed = _oldest(sealed, partition), 0
    # A user who may not see the setting cannot rely on the list.
    with suppress(StatementRefusedError):
        listed = table_setting(server, target.engine_full, "old_parts_lifetime")
    question = f"SELECT {oldest} + {listed} <= now() + 1 AND {_restarted(attempt, oldest)}"
    if server.numbers(question) != (1,):
        return False
    apart = merges_keep_times(attempt.plan, target) and not expires(target)
    return not (apart and has_times_to_itself(server, attempt, sealed, partition))


def _oldest(sealed: TableName, partition: str) -> str:
    """Return SQL for the time when the oldest sealed part of *partition* was written."""
    return (
        f"(SELECT min(modification_time) FROM system.parts WHERE {table_condition(sealed)}"
        f" AND partition_id = {literal(partition)} AND active)"
    )


def _restarted(attempt: Attempt, since: str) -> str:
    """Return the condition that the server has started after the time *since*; always true on a Shared engine."""
    return "1" if attempt.target.engine.startswith("Shared") else f"{since} <= now() - uptime() + 1"


def _has_some(server: ClickHouse, attempt: Attempt, sealed: TableName, partition: str, parts: Iterable[str]) -> bool:
    """
    Return whether the target's partition has rows that equal rows of *parts* of *sealed* in the plan's summed columns.

    A sample of each part suffices, since a part arrives as a whole.
    """
    plan = attempt.plan
    keys, names = row_hash(plan.summed(plan.statements[0])), ", ".join(map(literal, parts))
    where = f"_partition_id = {literal(partition)}"
    window = _window(attempt)
    # Search only the chunk's window if all sealed rows lie there. A row may lie outside, because its bucket may begin
    # before the window.
    if window and not server.numbers(f"SELECT 1 FROM {quote_table(sealed)} WHERE NOT coalesce({window}, 0) LIMIT 1"):
        where += f" AND {window}"
    asked = f"SELECT {keys} FROM {quote_table(sealed)} WHERE _part IN ({names}) LIMIT {_ASKED} BY _part"
    target = quote_table(attempt.target.storage)
    return server.numbers(f"SELECT 1 FROM {target} WHERE {where} AND {keys} IN ({asked}) LIMIT 1") == (1,)


def _has_all(server: ClickHouse, attempt: Attempt, sealed: TableName, partition: str) -> bool:
    """
    Return whether the target's rows in *partition* and in the chunk's window equal the sealed rows of *partition*.

    Return False if rows from before the plan may exist, or if no time column identifies the chunk's rows.
    """
    plan, of_partition = attempt.plan, f"_partition_id = {literal(partition)}"
    # Rows from before the plan may equal the chunk's rows.
    if plan.existing_rows != 0:
        return False
    window = _window(attempt)
    if not window:
        return False
    of_chunk = f"{of_partition} AND {window}"
    columns = plan.summed(plan.statements[0])
    ours = server.numbers(table_checksum_sql(sealed, columns, of_partition))
    return server.numbers(table_checksum_sql(attempt.target.storage, columns, of_chunk)) == ours


def _window(attempt: Attempt) -> str:
    """Return the condition that selects the chunk's rows in the target; empty if no time column identifies them."""
    try:
        return window_filter(attempt.plan, attempt.chunk)
    except RequestError:
        return ""


def _cannot_tell(attempt: Attempt, sealed: TableName, partition: str, why: str) -> InDoubtError:
    plan = attempt.plan
    repair = Advice(
        "insert the missing rows from {}, if any; empty it with {}, and run `{}`",
        sealed,
        Sql(f"TRUNCATE TABLE {quote_table(sealed)}"),
        command("resume", plan.plan_id),
    )
    # Where merges combine rows of several windows, the window alone cannot be filled again.
    alone = merges_keep_times(plan, attempt.target) and not (attempt.chunk.key_range or plan.allow_existing_rows)
    if plan.keeps_time and alone:
        again = command("run", plan.plan_id, "--replay-failed", "--clear-window")
        repair = Advice("if nothing else writes there, run `{}`, which fills the window again; else {}", again, repair)
    return InDoubtError(
        f"ClickHouse or a worker went down while chunk {attempt.chunk.id} was being published, and what had arrived of "
        f"partition {partition} is unknown: {why.format(plan.target, attempt.target.engine)}.",
        remedy=repair,
    )


def _parts(server: ClickHouse, table: TableName, partition: str, condition: str = "1") -> list[tuple[str, str]]:
    """Return name and hash of a partition's parts that meet *condition*; by default, also of inactive parts."""
    found = server.rows(
        f"SELECT name, hash_of_all_files FROM system.parts WHERE {table_condition(table)}"
        f" AND partition_id = {literal(partition)} AND {condition}"
    )
    return [(name, hashed) for name, hashed in found]
