"""
Publish a sealed staging table into the target by whole partitions; back up, clear and restore the target's rows.

The write mode ``stage`` moves the partitions; a repeated move finds an empty sealed table and does nothing. The write
mode ``replace`` replaces the target's partitions, and is idempotent.
"""

from collections.abc import Iterable

from ..core.facts import TableFacts
from ..core.instants import render_instant
from ..core.names import quote
from ..core.plain_text import show_number
from ..core.plan import Chunk, Plan, WriteMode
from ..core.remedy import command
from ..core.run_state import ContentSums
from ..core.sql import backup_table, create_like, literal, quote_table, table_condition
from ..core.tables import TableName
from ..core.target_window import window_filter
from ..errors import Advice, Flag, RequestError, ServerError, StatementRefusedError, VerificationError
from .attempt import STAGING_SETTINGS, Attempt, OutdatedError, Step, drop_part, drop_tables
from .client import ClickHouse
from .cluster import catch_up, create_everywhere
from .foreign_rows import ForeignRowsError, refuse_before_publish
from .interrupted_move import drop_parts_already_moved
from .proof import Proof

# The maximum number of tries to delete the rows of a window. A merge or a mutation may rename parts between the query
# and the deletion; the next try finds the new parts.
_CLEAR_TRIES = 20
# The id of a partition that no table has; every partition key permits the id.
_NO_PARTITION = "000000"
# The setting that lets REPLACE PARTITION empty a partition, on servers of version 26.6 or later.
_FROM_EMPTY = "allow_replace_partition_from_empty_source"


def move_partitions(
    server: ClickHouse, attempt: Attempt, sealed: TableName, content: ContentSums, proof: Proof | None
) -> None:
    """
    Move every partition of the sealed table into the target.

    Args:
        content: The sums of all rows that were sealed.
        proof: The facts about this attempt's staged rows; None if an earlier attempt sealed the table.

    Raises:
        ForeignRowsError: The target has rows of other writers in the chunk's window.
        InDoubtError: It is unknown which parts an earlier, interrupted move has copied to the target.
        TransitionError: Another worker has taken over the chunk.
        WindowTakenError: Another run is at work on an overlapping window.
        VerificationError: The sealed table was dropped meanwhile, for example by a worker that awoke after the run
            was completed.
        ServerError: ClickHouse refused a statement or could not be reached.
    """
    if proof is not None:
        partitions = sorted({partition for partition, _ in proof.parts})
        refuse_before_publish(server, attempt, 0, proof.present)
    else:
        _catch_up(server, attempt.target, sealed)
        parts = f"FROM system.parts WHERE active AND {table_condition(sealed)}"
        partitions = sorted(str(name) for (name,) in server.rows(f"SELECT DISTINCT partition_id {parts}"))
        # A dropped table also shows no partitions, so check that the sealed table exists.
        if (there := _rows(server, sealed)) != content.rows and not _exists(server, sealed):
            raise _taken_away(sealed, there, content)
        for partition in partitions:
            drop_parts_already_moved(server, attempt, sealed, partition)
        if there := _rows(server, sealed):
            if there == content.rows:
                _drop_outdated(server, attempt, sealed)
            try:
                refuse_before_publish(server, attempt, content.rows - there)
            except ForeignRowsError as error:
                # If the sealed table still has all of its rows, none was published.
                error.unpublished = there == content.rows
                raise
    for partition in partitions:
        attempt.fenced(lambda: refuse_before_publish(server, attempt, content.rows - _rows(server, sealed)))
        _move(server, attempt, sealed, partition, content)
        attempt.step(Step.MOVED)


def _move(server: ClickHouse, attempt: Attempt, sealed: TableName, partition: str, content: ContentSums) -> None:
    target = quote_table(attempt.target.storage)
    try:
        server.command(
            f"ALTER TABLE {quote_table(sealed)} MOVE PARTITION ID {literal(partition)} TO TABLE {target}",
            {"query_id": f"{attempt.query_id}.move.{partition}"},
        )
    except StatementRefusedError as error:
        if error.name == "UNKNOWN_TABLE" and not _exists(server, sealed):
            raise _taken_away(sealed, 0, content) from error
        raise


def _taken_away(sealed: TableName, there: int, content: ContentSums) -> VerificationError:
    return VerificationError(
        f"{sealed} has {there:,} of {show_number(content.rows, 'row')} that were sealed: the table was dropped before "
        "its publication."
    )


def _drop_outdated(server: ClickHouse, attempt: Attempt, sealed: TableName) -> None:
    """
    Drop a sealed table that lacks columns of the target or has others, so that the next attempt stages the rows again.

    The target was altered since, and takes no partition of the table. Where the log is the seal, do nothing.

    Raises:
        OutdatedError: The table was dropped.
        TransitionError: Another worker has taken over the chunk.
        ServerError: ClickHouse refused a statement or could not be reached.
    """
    if attempt.staged is None and is_outdated(server, attempt, sealed):
        attempt.owned()
        drop_tables(server, [sealed])
        raise OutdatedError(attempt)


def is_outdated(server: ClickHouse, attempt: Attempt, table: TableName) -> bool:
    """Return whether a staging table lacks columns of the target or has others, so that the target takes no rows."""
    both = " OR ".join(f"({table_condition(each)})" for each in (table, attempt.target.storage))
    differing = server.numbers(
        f"SELECT count() FROM (SELECT name, type FROM system.columns WHERE ({both})"
        " AND default_kind NOT IN ('ALIAS', 'EPHEMERAL') GROUP BY name, type HAVING count() = 1)"
    )
    return differing != (0,)


def _rows(server: ClickHouse, table: TableName) -> int:
    (rows,) = server.numbers(f"SELECT sum(rows) FROM system.parts WHERE active AND {table_condition(table)}")
    return rows


def _exists(server: ClickHouse, table: TableName) -> bool:
    return server.numbers(f"SELECT count() FROM system.tables WHERE {table_condition(table, 'name')}") == (1,)


def _catch_up(server: ClickHouse, target: TableFacts, sealed: TableName) -> None:
    """
    Let this server fetch all known parts of *sealed* and of the target; do nothing if the target is not replicated.

    A missing part would be neither moved nor replaced.
    """
    if target.engine.startswith(("Replicated", "Shared")):
        for table in (sealed, target.storage):
            catch_up(server, table)


def replace_partitions(server: ClickHouse, attempt: Attempt, sealed: TableName, proof: Proof | None) -> None:
    """
    Replace partitions of the target by the sealed partitions.

    Empty the target's partitions that have rows in the chunk's window but no sealed rows.

    Args:
        proof: The facts about this attempt's staged rows; None if an earlier attempt sealed the table.

    Raises:
        RequestError: An affected partition has rows outside the chunk, and the plan does not keep such rows; or the
            target has no time column, or the chunk cuts a day of a date column.
        VerificationError: Rows outside the chunk arrived after the plan had copied such rows.
        TransitionError: Another worker has taken over the chunk.
        WindowTakenError: Another run is at work on an overlapping window.
        ServerError: ClickHouse refused a statement or could not be reached.
    """
    storage = attempt.target.storage
    _catch_up(server, attempt.target, sealed)
    if proof is None:
        _drop_outdated(server, attempt, sealed)
    if attempt.plan.keep_outside:
        # After the proof, rows outside the chunk were copied into the sealed table, perhaps into further partitions.
        staged, present, outside = _partitions(server, sealed), _partitions(server, storage, _window(attempt)), 0
        _refuse_new_outside(server, attempt, sealed, staged | present)
    else:
        staged = _partitions(server, sealed) if proof is None else {partition for partition, _ in proof.parts}
        present, outside = _present_and_outside(server, attempt, staged)
    affected = sorted(staged | present)
    if outside:
        raise RequestError(
            f"The partitions {', '.join(affected)} of {attempt.plan.target} hold {show_number(outside, 'row')} "
            f"outside the chunk {render_instant(attempt.chunk.start)} to {render_instant(attempt.chunk.end)}, "
            "which replacing them would delete.",
            remedy=Advice(
                "plan again with {}, or with {}", Flag("--keep-outside"), Flag("--write-mode", WriteMode.STAGE)
            ),
        )
    for partition in affected:
        action = f"REPLACE PARTITION ID {literal(partition)} FROM {quote_table(sealed)}"
        settings = {"max_partition_size_to_drop": "0"}
        if partition not in staged and server.setting(_FROM_EMPTY) is not None:
            # Unlike a DROP, this fails if the sealed table is gone. So a worker that lost its claim and awakes late
            # removes no rows that were published since.
            settings[_FROM_EMPTY] = "1"
        elif partition not in staged:
            # A restart of such a server may bring replaced rows back, but not dropped rows.
            attempt.owned()
            action = f"DROP PARTITION ID {literal(partition)}"
        attempt.fenced(attempt.owned)
        server.command(f"ALTER TABLE {quote_table(storage)} {action}", settings)
        attempt.step(Step.REPLACED)


def _present_and_outside(server: ClickHouse, attempt: Attempt, staged: set[str]) -> tuple[set[str], int]:
    """
    Return the target's partitions with rows in the chunk, and the number of other rows in the affected partitions.

    A partition of the target is affected if it has rows in the chunk, or if its id is in *staged*.
    """
    storage = quote_table(attempt.target.storage)
    # Each SELECT reads few parts. A single SELECT with both conditions would read the whole table.
    questions = [f"SELECT DISTINCT _partition_id, 0 FROM {storage} WHERE {_window(attempt)}"]
    if staged:
        questions.append(_count_outside(attempt, staged))
    found = [(partition, int(rows)) for partition, rows in server.texts(" UNION ALL ".join(questions))]
    present, outside = {partition for partition, rows in found if not rows}, sum(rows for _, rows in found)
    if others := present - staged:
        outside += sum(int(rows) for _, rows in server.texts(_count_outside(attempt, others)))
    return present, outside


def _refuse_new_outside(server: ClickHouse, attempt: Attempt, sealed: TableName, partitions: set[str]) -> None:
    """
    Refuse to delete rows outside the chunk that arrived after the copy of such rows into *sealed*.

    Merges may reduce the number of the target's rows meanwhile, so only a larger number is refused.

    Raises:
        VerificationError: *partitions* of the target have more rows outside the chunk than *sealed* has.
        ServerError: ClickHouse refused a query or could not be reached.
    """
    if not partitions:
        return
    now, copied = (
        sum(int(rows) for _, rows in server.texts(_count_outside(attempt, partitions, table)))
        for table in (attempt.target.storage, sealed)
    )
    if now > copied:
        raise VerificationError(
            f"{show_number(now - copied, 'row')} outside the chunk {render_instant(attempt.chunk.start)} to "
            f"{render_instant(attempt.chunk.end)} arrived in {attempt.plan.target} after such rows had been copied, "
            "and replacing the partitions would delete them.",
            remedy=Advice("once nothing writes to these partitions, run `{}`", command("resume", attempt.plan.plan_id)),
        )


def _count_outside(attempt: Attempt, partitions: Iterable[str], table: TableName | None = None) -> str:
    """Return SQL for the number of rows outside the chunk by partition, in *table* or (None) in the target."""
    storage = quote_table(table or attempt.target.storage)
    return (
        f"SELECT _partition_id, count() FROM {storage} WHERE {_outside(attempt, sorted(partitions))}"
        " GROUP BY _partition_id"
    )


def _window(attempt: Attempt) -> str:
    """Return the condition that a row of the target belongs to the attempt's chunk."""
    return window_filter(attempt.plan, attempt.chunk)


def _outside(attempt: Attempt, partitions: Iterable[str]) -> str:
    names = ", ".join(literal(name) for name in partitions)
    return f"_partition_id IN ({names}) AND NOT coalesce({_window(attempt)}, 0)"


def _partitions(server: ClickHouse, table: TableName, condition: str = "1") -> set[str]:
    """Return the ids of the partitions of *table* with rows that meet *condition*."""
    return {
        name for (name,) in server.texts(f"SELECT DISTINCT _partition_id FROM {quote_table(table)} WHERE {condition}")
    }


def back_up(server: ClickHouse, attempt: Attempt, table: TableName) -> None:
    """
    Copy to the plan's backup table those partitions of the target that a chunk will replace or drop.

    Create the backup table if it does not exist. The copies are hard links and initially need no space.

    Args:
        table: The chunk's staging table.

    Raises:
        TransitionError: Another worker has taken over the chunk.
        RequestError: The target has no time column, or the chunk cuts a day of a date column.
        ServerError: ClickHouse refused a statement or could not be reached.
    """
    storage, backup = attempt.target.storage, backup_table(attempt.plan, attempt.target.storage)
    comment = f"what the backfill {attempt.plan.plan_id} replaced; drop it when it is not needed any more"
    create_everywhere(
        server,
        attempt.target.replicas,
        lambda cluster: create_like(
            *(backup, storage, attempt.target.engine_full, comment),
            settings=attempt.target.allowances,
            again=True,
            replicas=attempt.target.replicas,
            cluster=cluster,
        ),
    )
    held = _partitions(server, storage)
    for partition in sorted(held & (_partitions(server, table) | _partitions(server, storage, _window(attempt)))):
        # No row of the chunk is published before the seal, so a repeated backup copies the same rows.
        attempt.owned()
        # A worker that awakes late would copy the published rows. Its staging table is gone then, so the first command
        # fails. Otherwise, that command does nothing.
        server.command(
            f"ALTER TABLE {quote_table(backup)}"
            f" ATTACH PARTITION ID {literal(_NO_PARTITION)} FROM {quote_table(table)},"
            f" REPLACE PARTITION ID {literal(partition)} FROM {quote_table(storage)}",
            {"max_partition_size_to_drop": "0"},
        )
    attempt.step(Step.BACKED_UP)


def keep_outside(server: ClickHouse, attempt: Attempt, table: TableName) -> None:
    """
    Copy the target's rows outside the chunk into the staging *table*, so that these rows survive the replacement.

    Only rows in partitions that the chunk will replace are copied.

    Raises:
        RequestError: The target has no time column, or the chunk cuts a day of a date column.
        ServerError: ClickHouse refused a statement or could not be reached.
    """
    storage = attempt.target.storage
    affected = _partitions(server, table) | _partitions(server, storage, _window(attempt))
    if not affected:
        return
    # A materialized column keeps its values: an expression such as now() would give others.
    stored = [column for column in attempt.target.columns if column.default_kind not in ("ALIAS", "EPHEMERAL")]
    columns = ", ".join(quote(column.name) for column in stored)
    computed = any(column.default_kind == "MATERIALIZED" for column in stored)
    server.command(
        f"INSERT INTO {quote_table(table)} ({columns}) SELECT {columns} FROM {quote_table(storage)}"
        f" WHERE {_outside(attempt, sorted(affected))}",
        {**STAGING_SETTINGS, **({"insert_allow_materialized_columns": 1} if computed else {})},
    )
    attempt.step(Step.KEPT_OUTSIDE)


def clear_window(server: ClickHouse, attempt: Attempt) -> None:
    """
    Delete the target's rows in the chunk's window.

    Only parts that existed while the claim held are changed. So a worker that sleeps between the check and the deletion
    deletes no rows of a later attempt.

    Raises:
        RequestError: The target has no time column, or the chunk cuts a day of a date column.
        TransitionError: Another worker has taken over the chunk.
        ServerError: Other operations change the parts faster than rows can be deleted, or ClickHouse refused a
            statement or could not be reached.
    """
    storage, where = attempt.target.storage, _window(attempt)
    for _ in range(_CLEAR_TRIES):
        parts = server.rows(
            f"SELECT _part, countIf(NOT coalesce({where}, 0)) FROM {quote_table(storage)}"
            f" WHERE _part IN (SELECT DISTINCT _part FROM {quote_table(storage)} WHERE {where}) GROUP BY _part"
        )
        if not parts:
            attempt.step(Step.CLEARED)
            return
        attempt.owned()
        # Drop each part that has only rows of the window, because a DROP is fast. An ALTER … DELETE processes every
        # part of the table, one after the other.
        for name in [name for name, others in parts if not others]:
            # A re-created table or a restarted server may use a part's name again, so check the claim before each DROP.
            attempt.owned()
            drop_part(server, storage, name)
        if mixed := ", ".join(literal(name) for name, others in parts if others):
            try:
                server.command(
                    f"ALTER TABLE {quote_table(storage)} DELETE WHERE {where} AND _part IN ({mixed})",
                    {"mutations_sync": 2},
                )
            except StatementRefusedError as error:
                # These errors occur if another chunk has dropped one of the parts. The next query finds the rest.
                if error.name not in ("ABORTED", "UNFINISHED"):
                    raise
    raise ServerError(f"The window of chunk {attempt.chunk.id} still holds rows after {_CLEAR_TRIES} deletions.")


def restore(server: ClickHouse, plan: Plan, target: TableFacts, chunks: Iterable[Chunk]) -> int:
    """
    Restore from the backup each partition in which the target or the backup has rows in the windows of *chunks*.

    A partition that is not in the backup is dropped. The function can be repeated, because the backup stays.

    Returns:
        The number of partitions that were restored or dropped.

    Raises:
        RequestError: The target has no time column, or a chunk cuts a day of a date column.
        ServerError: ClickHouse refused a statement, for example because there is no backup, or could not be reached.
    """
    storage, backup = target.storage, backup_table(plan, target.storage)
    _catch_up(server, target, backup)
    kept = _partitions(server, backup)
    touched: set[str] = set()
    for chunk in chunks:
        condition = window_filter(plan, chunk)
        found = _partitions(server, storage, condition) | _partitions(server, backup, condition)
        # Chunks may share a partition. A partition that is not in the backup was empty before, since a chunk makes its
        # backup before it publishes.
        for partition in sorted(found - touched):
            action = (
                f"REPLACE PARTITION ID {literal(partition)} FROM {quote_table(backup)}"
                if partition in kept
                else f"DROP PARTITION ID {literal(partition)}"
            )
            server.command(f"ALTER TABLE {quote_table(storage)} {action}", {"max_partition_size_to_drop": "0"})
            touched.add(partition)
    return len(touched)
