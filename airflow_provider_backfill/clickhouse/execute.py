"""
Execute one attempt of one chunk, from an empty staging table to rows in the target.

A retry is safe after any crash, for these reasons:

* Each attempt fills a separate table, so no attempt meets rows of another attempt.
* After a later attempt has claimed the chunk, :attr:`.Attempt.verified` of an earlier attempt raises. The later attempt
  drops the unsealed tables of earlier attempts before it searches for a sealed table. So no earlier attempt can seal a
  table afterwards, and only the sealed table is published. On replicas, and where tables cannot be renamed, the log is
  the seal: only the table in the log is published.
* An attempt that has lost its claim may wake up at any line. It may then kill a query of a later attempt, and the
  later attempt fails and is repeated. Each attempt checks its claim before it drops tables by name, and deletes only
  rows of the target that existed while the attempt held the claim.
* ``stage`` publishes by moving partitions in one direction; moving a missing partition moves nothing. The emptied
  sealed table stays until the log has the chunk as done. On replicas, ``stage`` attaches copies of the parts that
  the log lists, and a repeated statement adds nothing.
* ``replace`` publishes by replacing the target's partitions with the sealed partitions, which is idempotent.
* ``insert`` has no staging table, and guarantees only that each row is written at least once.

The caller decides about retries and writes the events.
"""

from collections.abc import Mapping
from typing import Any

from ..core.column_types import is_comparable
from ..core.facts import TableFacts
from ..core.names import show_table
from ..core.plan import Chunk, Plan, WriteMode
from ..core.planner import refuse_deleting
from ..core.run_state import ContentSums, Staged
from ..core.sql import (
    assignments,
    chunk_filter,
    create_like,
    insert_select,
    literal,
    quote_table,
    sealed_table,
    staging_table,
    table_condition,
)
from ..core.tables import TableName
from ..core.target_window import window_filter
from ..errors import Advice, Flag, RequestError, ServerError, Sql, StatementRefusedError, VerificationError
from . import foreign_rows, proof, publish, replicated
from .attempt import STAGING_SETTINGS, STAGING_TABLE, Attempt, Step, drop_tables, kill_queries, leftover_tables
from .client import ClickHouse
from .cluster import AT_ONCE, catch_up, queue_statement

DELETE_YOURSELF = Advice("delete the rows yourself and plan again with {}", Flag("--force"))
# Settings of the INSERTs directly into the target.
_DIRECT_SETTINGS = {
    "insert_deduplicate": 1,
    "async_insert": 0,
    "distributed_foreground_insert": 1,
}


def run_attempt(server: ClickHouse, attempt: Attempt) -> ContentSums:
    """
    Bring a chunk's rows into the target, or finish the publication of an earlier attempt.

    Returns:
        The content sums of the rows that the target received from this chunk; for ``insert``, the sums of the source
        after the INSERT, or without a checksum the server's count (see :attr:`.ContentSums.is_summed`).

    Raises:
        ServerError: ClickHouse refused a statement or could not be reached.
        VerificationError: The staged rows differ from the source's rows, or the staging table was taken away.
        TransitionError: Another worker has taken over the chunk.
        RequestError: The chunk must not be published, or its window must not be deleted, for example because of rows of
            other writers. An :class:`.InDoubtError` says that it is unknown which rows have arrived.
    """
    plan, chunk = attempt.plan, attempt.chunk
    if attempt.number > 1:
        # Open the session first: on replicas, a worker that sleeps after the check of its claim then loses its server,
        # and kills no queries of a later attempt.
        server.command("SELECT 1")
        attempt.owned()
        kill_queries(server, plan.plan_id, chunk.id)
    for table, cluster in attempt.replicated:
        if not (attempt.catches_up_later and table == attempt.target.storage):
            catch_up(server, table, cluster)
    if plan.write_mode is WriteMode.INSERT:
        return _insert(server, attempt)
    if attempt.target.replicas is not None or not attempt.target.renames:
        return _run_by_log(server, attempt)
    sealed = sealed_table(plan, attempt.target.storage, chunk.id)
    content = _resumable(server, attempt, sealed) if attempt.number > 1 else None
    found = None
    if content is None:
        wanted = _wanted(server, attempt)
        if wanted == proof.NOTHING and plan.write_mode is WriteMode.STAGE:
            return wanted
        found, _ = _stage(server, attempt, _own_table(attempt), wanted)
        content = found.content
        if content == proof.NOTHING and plan.write_mode is WriteMode.STAGE:
            # A chunk without rows is done without publication.
            return content
        _seal(server, attempt, sealed)
        attempt.step(Step.SEALED)
    if plan.write_mode is WriteMode.REPLACE:
        publish.replace_partitions(server, attempt, sealed, found)
    else:
        publish.move_partitions(server, attempt, sealed, content, found)
    return content


def _run_by_log(server: ClickHouse, attempt: Attempt) -> ContentSums:
    """
    Run an attempt where the log is the seal: the target is replicated, or its database cannot rename a table.

    Only the staged table in the log is published; on replicas, only those of its parts that are in the log.

    Returns:
        The content sums of the chunk's rows.
    """
    plan, staged, replicas = attempt.plan, attempt.staged, attempt.target.replicas
    found = None
    if staged is None or attempt.clear:
        if attempt.number > 1:
            attempt.owned()
            if replicas is None:
                _drop_attempts(server, attempt)
            else:
                drop_tables(server, _earlier_tables(server, attempt), replicas)
        if attempt.clear:
            _clear(server, attempt)
        wanted = _wanted(server, attempt)
        if wanted == proof.NOTHING and plan.write_mode is WriteMode.STAGE:
            return wanted
        found, staged = _stage(server, attempt, _own_table(attempt), wanted)
        content = found.content
        attempt.step(Step.SEALED)
    else:
        content = attempt.earlier[max(attempt.earlier)]
    table = TableName(attempt.target.beside, staged.table)
    if plan.write_mode is WriteMode.REPLACE:
        if replicas is not None:
            replicated.check_staged(server, attempt, staged, {hashed for _, hashed in staged.parts})
        publish.replace_partitions(server, attempt, table, found)
    elif replicas is not None:
        replicated.attach_partitions(server, attempt, replicas, staged, content, found)
    else:
        publish.move_partitions(server, attempt, table, content, found)
    return content


def _insert(server: ClickHouse, attempt: Attempt) -> ContentSums:
    """
    Insert directly into the target, and return the content sums of the source, read after the INSERT.

    If the source cannot be read then, return the server's count of the written rows without a checksum.
    """
    if attempt.clear:
        _clear(server, attempt)
    foreign_rows.refuse_before_insert(server, attempt)
    attempt.fenced(lambda: foreign_rows.refuse_before_insert(server, attempt))
    filled = {name for statement in attempt.plan.statements for name in statement.columns}
    stable = all(is_comparable(column.type) for column in attempt.target.columns if column.name in filled)
    order, rows = " ORDER BY ALL" if stable else "", ""
    if attempt.plan.use_tokens and _may_deduplicate(attempt.target):
        before = proof.source_content(server, attempt)
        rows = f"-{before.rows}-{before.checksum}"
    written = _fill(server, attempt, attempt.target.storage, _direct_settings(server, attempt.plan), order, rows)
    attempt.step(Step.INSERTED)
    try:
        return proof.source_content(server, attempt)
    except ServerError:
        # The rows are in the target, and another attempt would insert the rows again. A stop kills this reading, too.
        if not written:
            raise
        return ContentSums(written, 0)


def _wanted(server: ClickHouse, attempt: Attempt) -> ContentSums | None:
    """Return the source's content sums from before staging; None if the source is not summed before staging."""
    plan = attempt.plan
    # For an empty source, only row-wise SELECTs are sure to return no rows; an aggregation may return a row.
    if attempt.sparse and plan.sums_tell and proof.is_empty(server, plan, attempt.chunk):
        return proof.NOTHING
    return proof.source_content(server, attempt) if plan.asks_source_again else None


def _resumable(server: ClickHouse, attempt: Attempt, sealed: TableName) -> ContentSums | None:
    """
    Return the content sums of an earlier attempt's sealed table; None if the rows must be staged again.

    Also drop the unsealed tables of earlier attempts and an unusable sealed table. If *attempt.clear* is set, also
    clear the chunk's window.
    """
    _drop_attempts(server, attempt)
    found = bool(server.numbers(f"SELECT 1 FROM system.tables WHERE {table_condition(sealed, 'name')}"))
    if found:
        # If this attempt still has the claim, the table that was found belongs to an earlier attempt.
        attempt.owned()
    # A sealed table can only belong to the last verified attempt, because each attempt drops the unsealed tables of
    # earlier attempts.
    last = max(attempt.earlier, default=0)
    content = attempt.earlier[last] if found and last and not attempt.clear and not attempt.plan.keep_outside else None
    if found and content is None:
        # The table was sealed before the chunk was done and replayed; or the chunk's window is to be filled again; or
        # the table has copies of rows outside the chunk, which may have changed since.
        drop_tables(server, [sealed])
    if attempt.clear:
        _clear(server, attempt)
    return content


def _clear(server: ClickHouse, attempt: Attempt) -> None:
    """
    Delete the chunk's window from the target, unless a statement moves rows across the bounds of the window.

    Two queries check each statement that is not a copy. The statement's rows for the chunk must lie in the window, and
    its rows for an equally long time after the chunk, up to the plan's end, must lie outside. The target's rows are not
    checked, so rows of other writers are deleted, too.

    Raises:
        RequestError: The target's database would delete rows on other servers as well; the chunk is one of several
            parts of its window; the target has no time column; the chunk cuts a day of a date column; or a statement
            changes the time of rows, for example to the start of their day.
        TransitionError: Another worker has taken over the chunk.
        ServerError: ClickHouse refused a statement or could not be reached, or rows remain after several deletions.
    """
    plan, chunk = attempt.plan, attempt.chunk
    refuse_deleting(attempt.target, DELETE_YOURSELF)
    if chunk.key_range:
        raise RequestError(
            f"Chunk {chunk.id} is one of several parts of its window, so deleting the window would delete the others.",
            remedy=DELETE_YOURSELF,
        )
    window = window_filter(plan, chunk)
    following = Chunk("", chunk.end, min(chunk.end + (chunk.end - chunk.start), plan.end))
    for statement in plan.statements:
        # A copy leaves the time unchanged.
        if statement.copies_table:
            continue
        for reads, condition in ((chunk, f"NOT coalesce({window}, 0)"), (following, window)):
            question = f"SELECT 1 FROM (\n{statement.query}\n) WHERE {condition} LIMIT 1"
            # The id lets a cancel find the query.
            settings = {**chunk_filter(plan, statement, reads), "query_id": f"{attempt.query_id}.window"}
            if reads.start < reads.end and server.numbers(question, settings):
                raise RequestError(
                    f"{statement.name} does not leave {plan.time_column} as it is, so rows of other chunks may lie in "
                    f"the window of chunk {chunk.id} in {plan.target}, which was to be deleted.",
                    remedy=DELETE_YOURSELF,
                )
    publish.clear_window(server, attempt)


def _seal(server: ClickHouse, attempt: Attempt, sealed: TableName) -> None:
    try:
        server.command(f"RENAME TABLE {quote_table(_own_table(attempt))} TO {quote_table(sealed)}")
    except StatementRefusedError as error:
        if error.name == "TABLE_ALREADY_EXISTS" and not attempt.earlier:
            raise RequestError(
                f"{sealed} is left from a run that this state folder knows nothing of.",
                remedy=Advice(
                    "plan again with {}, which drops it, or run {}",
                    Flag("--force"),
                    Sql(f"DROP TABLE {quote_table(sealed)}"),
                ),
            ) from error
        if error.name in ("TABLE_ALREADY_EXISTS", "UNKNOWN_TABLE"):
            raise VerificationError(f"The staging table of chunk {attempt.chunk.id} was taken away.") from error
        raise


def _own_table(attempt: Attempt) -> TableName:
    return attempt.own or staging_table(attempt.plan, attempt.target.storage, attempt.chunk.id, attempt.number)


def _stage(
    server: ClickHouse, attempt: Attempt, table: TableName, wanted: ContentSums | None
) -> tuple[proof.Proof, Staged]:
    """
    Create and fill the staging *table*, verify the rows, and report them to *attempt.verified*.

    If the plan has a backup, also back up the target's partitions that the chunk will replace or drop. If the plan
    keeps rows outside the window, also copy the rows outside the chunk from those partitions into *table*.

    Args:
        wanted: The source's content sums from before staging; None if the source was not summed.

    Returns:
        The proof of the staged rows, and the staging table. The parts of the table are listed only for a replicated
        target.
    """
    plan, replicas = attempt.plan, attempt.target.replicas
    comment = f"backfill of {show_table(attempt.target.name)}, attempt {attempt.number}"
    if attempt.going is None:
        _create(server, attempt.target, table, comment)
    attempt.step(Step.STAGING)
    # A table with one replica cannot meet a quorum; ``plan`` explains the consequence.
    alone = replicas is not None and not replicas.reaches_all
    settings = {**STAGING_SETTINGS, **attempt.threads, **({"insert_quorum": 0} if alone else {})}
    written = _fill(server, attempt, table, settings)
    attempt.step(Step.STAGED)
    found = proof.prove(server, attempt, table, written, wanted)
    attempt.step(Step.VERIFIED)
    # An earlier attempt that verified rows has completed the backup. If it also replaced partitions, a second backup
    # would hold the new rows.
    if plan.backup and not (attempt.earlier and attempt.touched):
        publish.back_up(server, attempt, table)
    if plan.keep_outside:
        publish.keep_outside(server, attempt, table)
    staged = Staged(table.table, ())
    if replicas is not None:
        # If rows outside the chunk were added after the proof, list the parts again.
        staged = replicated.staged_parts(server, table) if plan.keep_outside else Staged(table.table, found.parts)
    # Copies of rows outside the chunk become stale. So no later attempt may publish the table.
    by_log = (replicas is not None or not attempt.target.renames) and not plan.keep_outside
    attempt.verified(found.content, staged if by_log else None, found.reach)
    return found, staged


def _create(server: ClickHouse, target: TableFacts, table: TableName, comment: str) -> None:
    """Create a staging table with the target's structure; no merge changes its rows before publication."""
    storage, engine = target.storage, target.engine_full
    if target.replicas is not None:
        allowed = {**STAGING_TABLE, **target.allowances}
        replicated.create_staging(server, target, target.replicas, table, comment, allowed)
    elif engine.startswith("Shared"):
        # ClickHouse Cloud chooses the engine's arguments, so the CREATE cannot have an engine clause with settings.
        server.command(create_like(table, storage, engine, comment), server.permissive)
        server.command(f"ALTER TABLE {quote_table(table)} MODIFY SETTING {assignments(STAGING_TABLE)}")
    else:
        settings = {**STAGING_TABLE, **target.allowances}
        queue_statement(server, create_like(table, storage, engine, comment, settings=settings), server.permissive)
    # Remove the table's TTL; column TTLs cannot be removed in this way. In a Replicated database, do not wait for all
    # replicas.
    if " TTL " in engine:
        queue_statement(server, f"ALTER TABLE {quote_table(table)} REMOVE TTL", AT_ONCE if target.apart else {})


def _fill(
    server: ClickHouse,
    attempt: Attempt,
    table: TableName,
    settings: Mapping[str, int | str],
    order: str = "",
    rows: str = "",
) -> int | None:
    """
    Insert the rows of all statements of the plan for the chunk into *table*.

    Args:
        order: The ORDER BY clause of the SELECT; empty without one.
        rows: The end of the deduplication token, which differs if the source has other rows; empty without one.

    Returns:
        The number of rows that the server wrote; None if the server reports no number for one of the statements.
    """
    plan, chunk = attempt.plan, attempt.chunk
    written: int | None = 0
    for index, statement in enumerate(plan.statements):
        given: dict[str, Any] = {
            **settings,
            **chunk_filter(plan, statement, chunk),
            "log_comment": f"clickhouse-backfill plan={plan.plan_id} chunk={chunk.id} attempt={attempt.number}",
        }
        if plan.use_tokens:
            given["insert_deduplication_token"] = _token(attempt) + rows + (f"-{index + 1}" if index else "")
        given["query_id"] = attempt.query_id + (f".{index + 1}" if index else "")
        counts = server.command(insert_select(table, statement) + order, given)
        attempt.read(counts.read_rows, counts.read_bytes)
        written = None if written is None or counts.written_rows is None else written + counts.written_rows
    return written


def _token(attempt: Attempt) -> str:
    """
    Return the deduplication token of an attempt's INSERTs.

    A target remembers the tokens of deleted rows, and would discard the rows that replace them. So a plan that was made
    again, and each attempt that clears its window, have their own tokens. A direct INSERT appends the content sums of
    the source: a token names a block by its number, so a retry would lose rows that came to the source meanwhile.
    """
    token = attempt.plan.token(attempt.chunk) + f"-{attempt.plan.nonce or 0}"
    return f"{token}-{attempt.number}" if attempt.clear else token


def _may_deduplicate(target: TableFacts) -> bool:
    """Return whether the target, or a table behind it, may have a log of inserted blocks."""
    alone = target.engine.endswith("MergeTree") and not target.engine.startswith(("Replicated", "Shared"))
    return not alone or "non_replicated_deduplication_window" in target.engine_full


def _direct_settings(server: ClickHouse, plan: Plan) -> dict[str, int | str]:
    """
    Return the settings of an INSERT directly into the target.

    Without tokens, ClickHouse would identify blocks by their content. It would discard the rows of a chunk that equal
    the rows of another chunk, or rows that were deleted. So no block is then deduplicated.
    """
    settings: dict[str, int | str] = dict(_DIRECT_SETTINGS)
    if not plan.use_tokens:
        settings["insert_deduplicate"] = 0
        if server.setting("deduplicate_insert_select") is not None:
            settings["deduplicate_insert_select"] = "disable"
    return settings


def _earlier_tables(server: ClickHouse, attempt: Attempt) -> list[TableName]:
    """
    Return the staging tables on replicas that earlier attempts of the chunk have used alone.

    In write mode ``replace``, a late statement of an earlier attempt fails without its table. Keeper does not remember
    replaced partitions, so nothing else would stop the statement.
    """
    plan, staged = attempt.plan, attempt.staged
    if plan.write_mode is WriteMode.REPLACE:
        ours = f"backfill_{plan.plan_id}_{attempt.chunk.id}_"
        tables = leftover_tables(server, plan.plan_id, attempt.target)
        return [table for table in tables if table.table.startswith(ours)]
    return [] if staged is None else [TableName(attempt.target.beside, staged.table)]


def _drop_attempts(server: ClickHouse, attempt: Attempt) -> None:
    """Drop the unsealed tables of earlier attempts, so that none of them can be sealed later."""
    earlier = [
        staging_table(attempt.plan, attempt.target.storage, attempt.chunk.id, number)
        for number in range(1, attempt.number)
    ]
    names = ", ".join(literal(table.table) for table in earlier)
    found = server.rows(
        f"SELECT name FROM system.tables WHERE database = {literal(attempt.target.beside)} AND name IN ({names})"
    )
    drop_tables(server, [TableName(attempt.target.beside, name) for (name,) in found])
