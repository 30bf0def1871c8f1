"""
One attempt of one chunk, from an empty staging table to rows in the target.

Why a retry is safe, whatever died and when:

* An attempt fills a table of its own name, so it never meets what another attempt left.
* :meth:`Attempt.verified` is refused once a later attempt has claimed the chunk, and that one drops
  the tables of earlier attempts before it looks for a sealed one. So at most one table per chunk
  is ever renamed to the sealed name, and only that one is published.
* Publishing moves partitions one way; moving a partition that is gone moves nothing. The emptied
  sealed table stays as a tombstone until the run closes.

Decides nothing about retries and writes no event by itself.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..core.model import Chunk, Content, Plan, Statement, TableFacts, TableName
from ..core.statements import (
    chunk_filter,
    insert_select,
    literal,
    query_id,
    quote_table,
    sealed_table,
    show_table,
    source_content,
    staging_table,
    table_content,
    time_filter,
)
from ..errors import RequestError, ServerError, TransitionError, VerificationError
from .client import Server

_TABLE_EXISTS = 57
_UNKNOWN_TABLE = 60
_PLAIN_ENGINES = frozenset({"MergeTree"})
_INSERT_SETTINGS = {
    # The staging table must hold the very rows of the SELECT: no deduplication, no collapsing, no queue.
    "insert_deduplicate": 0,
    "optimize_on_insert": 0,
    "async_insert": 0,
    # Views and other targets do not hang on a private table; a distributed sub-read must not be partial.
    "max_partitions_per_insert_block": 0,
    "skip_unavailable_shards": 0,
}


class Attempt(NamedTuple):
    """
    What one attempt needs to know.

    Attributes:
        verified: Called with what was staged before it is sealed; raises when the claim is lost.
        step: Called with the name of each step when it is done; may raise to end the attempt.
        earlier: What earlier attempts of the chunk staged, by attempt.
        clear: Whether to delete the chunk's window from the target first.
    """

    plan: Plan
    target: TableFacts
    chunk: Chunk
    number: int
    verified: Callable[[Content], None]
    step: Callable[[str], None]
    earlier: dict[int, Content]
    clear: bool


def kill_queries(server: Server, plan_id: str, chunk_id: str = "") -> int:
    """
    Kill every query of a plan (or of one of its chunks) and wait until they are gone.

    Returns:
        How many queries were found.
    """
    if server.embedded:
        return 0
    prefix = f"backfill-{plan_id}-" + (f"{chunk_id}-" if chunk_id else "")
    found = 0
    # An INSERT that already commits may survive one KILL; asking again waits for it.
    for _ in range(50):
        killed = server.rows(f"KILL QUERY WHERE startsWith(query_id, {literal(prefix)}) SYNC")
        if not killed:
            break
        found = max(found, len(killed))
    return found


def run_attempt(server: Server, attempt: Attempt) -> Content:
    """
    Bring a chunk's rows into the target, or finish what an earlier attempt had sealed.

    Returns:
        What the target got from this chunk.

    Raises:
        ServerError: ClickHouse refused a statement or went away.
        VerificationError: What was staged is not what the source gives.
        TransitionError: Another worker has taken the chunk over.
    """
    plan, chunk = attempt.plan, attempt.chunk
    sealed = sealed_table(plan, attempt.target.storage, chunk.id)
    resumed = None
    if attempt.number > 1:
        kill_queries(server, plan.plan_id, chunk.id)
        _drop_attempts(server, attempt)
        if attempt.clear:
            _clear_window(server, attempt, sealed)
        resumed = _sealed_attempt(server, sealed)
    if resumed is None:
        content = _stage(server, attempt)
        try:
            server.command(f"RENAME TABLE {quote_table(_own_table(attempt))} TO {quote_table(sealed)}")
        except ServerError as error:
            if error.code == _TABLE_EXISTS and not attempt.earlier:
                raise RequestError(
                    f"{sealed} is left from a run that this state folder knows nothing of.",
                    hint=f"plan anew with --force, which drops it, or run DROP TABLE {quote_table(sealed)}",
                ) from error
            if error.code in (_TABLE_EXISTS, _UNKNOWN_TABLE):
                raise TransitionError(f"Another attempt of chunk {chunk.id} has taken over.") from error
            raise
        attempt.step("sealed")
    else:
        content = attempt.earlier[resumed]
    _publish(server, attempt, sealed, resumed=resumed is not None)
    return content


def _own_table(attempt: Attempt) -> TableName:
    return staging_table(attempt.plan, attempt.target.storage, attempt.chunk.id, attempt.number)


def _stage(server: Server, attempt: Attempt) -> Content:
    plan, chunk, table = attempt.plan, attempt.chunk, _own_table(attempt)
    comment = f"backfill of {show_table(attempt.target.name)}, attempt {attempt.number}"
    server.command(
        f"CREATE TABLE {quote_table(table)} AS {quote_table(attempt.target.storage)} COMMENT {literal(comment)}"
    )
    _keep_rows_as_inserted(server, attempt.target, table)
    attempt.step("staging")
    base = query_id(plan.plan_id, chunk.id, attempt.number)
    for index, statement in enumerate(plan.statements):
        token = {"insert_deduplication_token": plan.token(chunk)} if plan.use_tokens else {}
        settings = {
            **_INSERT_SETTINGS,
            **token,
            **chunk_filter(plan, statement, chunk),
            "log_comment": f"clickhouse-backfill plan={plan.plan_id} chunk={chunk.id} attempt={attempt.number}",
        }
        name = {"query_id": base if index == 0 else f"{base}.{index + 1}"}
        server.command(insert_select(table, statement), settings if server.embedded else {**settings, **name})
    attempt.step("staged")
    content = _verify(server, attempt, table)
    attempt.step("verified")
    attempt.verified(content)
    return content


def _keep_rows_as_inserted(server: Server, target: TableFacts, table: TableName) -> None:
    """Let neither a TTL nor a merge that collapses rows change a staging table before it is published."""
    if " TTL " in target.create_query:
        server.command(f"ALTER TABLE {quote_table(table)} REMOVE TTL")
    if target.engine not in _PLAIN_ENGINES:
        server.command(
            f"ALTER TABLE {quote_table(table)} MODIFY SETTING max_bytes_to_merge_at_max_space_in_pool = 1,"
            " max_bytes_to_merge_at_min_space_in_pool = 1"
        )


def _verify(server: Server, attempt: Attempt, table: TableName) -> Content:
    """
    Content sums of the staged rows, held against the source's own answer where that costs one scan.

    Other SELECTs (aggregations, joins) are not run twice, except when they staged nothing: a
    stale replica answers with no rows and success.
    """
    plan = attempt.plan
    columns = plan.statements[0].columns
    staged = Content(*server.rows(table_content(table, columns))[0])
    if all(statement.row_wise and statement.columns == columns for statement in plan.statements):
        answers = [_source_content(server, attempt, statement) for statement in plan.statements]
        wanted = Content(sum(a.rows for a in answers), sum(a.checksum for a in answers) % 2**64)
    elif staged.rows == 0:
        rows = sum(
            server.rows(f"SELECT count() FROM (\n{statement.select}\n)", chunk_filter(plan, statement, attempt.chunk))[
                0
            ][0]
            for statement in plan.statements
        )
        wanted = Content(rows, staged.checksum)
    else:
        return staged
    if staged != wanted:
        raise VerificationError(
            f"Chunk {attempt.chunk.id} staged {staged.rows} rows (checksum {staged.checksum}), "
            f"but the source gives {wanted.rows} rows (checksum {wanted.checksum}).",
            hint="rows of this window still change, or the SELECT gives another result each time; "
            "once the source is at rest, run `clickhouse-backfill resume --plan-id " + plan.plan_id + "`",
        )
    return staged


def _source_content(server: Server, attempt: Attempt, statement: Statement) -> Content:
    settings = chunk_filter(attempt.plan, statement, attempt.chunk)
    return Content(*server.rows(source_content(statement, attempt.target.columns), settings)[0])


def _publish(server: Server, attempt: Attempt, sealed: TableName, *, resumed: bool) -> None:
    """Move every partition of the sealed table into the target."""
    storage = attempt.target.storage
    base = query_id(attempt.plan.plan_id, attempt.chunk.id, attempt.number)
    parts = server.rows(
        "SELECT partition_id, groupArray(hash_of_all_files) FROM system.parts"
        f" WHERE active AND database = {literal(sealed.database)} AND table = {literal(sealed.table)}"
        " GROUP BY partition_id ORDER BY partition_id"
    )
    for index, (partition, hashes) in enumerate(parts):
        if resumed and _already_moved(server, storage, partition, hashes):
            # The server died inside the move: the rows had arrived, but were not yet gone from here.
            action, settings = "DROP", {"max_partition_size_to_drop": "0"}
        else:
            action, settings = "MOVE", {} if server.embedded else {"query_id": f"{base}.move.{partition}"}
        into = f" TO TABLE {quote_table(storage)}" if action == "MOVE" else ""
        server.command(f"ALTER TABLE {quote_table(sealed)} {action} PARTITION ID {literal(partition)}{into}", settings)
        attempt.step(f"moved {index + 1}")


def _already_moved(server: Server, storage: TableName, partition: str, hashes: Sequence[str]) -> bool:
    # Merged parts stay listed as inactive for minutes, so a move shortly before a crash is still seen.
    found = server.rows(
        "SELECT groupUniqArray(hash_of_all_files) FROM system.parts"
        f" WHERE database = {literal(storage.database)} AND table = {literal(storage.table)}"
        f" AND partition_id = {literal(partition)}"
    )[0][0]
    return set(hashes) <= set(found)


def _sealed_attempt(server: Server, sealed: TableName) -> int | None:
    """Which attempt the sealed table came from, or None when there is none."""
    found = server.rows(
        "SELECT comment FROM system.tables"
        f" WHERE database = {literal(sealed.database)} AND name = {literal(sealed.table)}"
    )
    return int(str(found[0][0]).rsplit(" ", 1)[-1]) if found else None


def _drop_attempts(server: Server, attempt: Attempt) -> None:
    """Drop what earlier attempts staged and did not seal; after this none of them can be sealed."""
    own = staging_table(attempt.plan, attempt.target.storage, attempt.chunk.id, 0)
    found = server.rows(
        f"SELECT name FROM system.tables WHERE database = {literal(own.database)}"
        f" AND startsWith(name, {literal(own.table.removesuffix('0'))}) AND NOT endsWith(name, '_sealed')"
    )
    drop_tables(server, [TableName(own.database, name) for (name,) in found])


def _clear_window(server: Server, attempt: Attempt, sealed: TableName) -> None:
    """Delete the chunk's window from the target. Only behind the fence: no earlier query is alive."""
    plan, chunk = attempt.plan, attempt.chunk
    if plan.target_time_kind is None:
        raise VerificationError(f"{plan.target} has no column {plan.time_column}, so its window cannot be cleared.")
    drop_tables(server, [sealed])
    condition = time_filter(plan.time_column, plan.target_time_kind, chunk.start, chunk.end)
    server.command(f"ALTER TABLE {quote_table(attempt.target.storage)} DELETE WHERE {condition}", {"mutations_sync": 2})
    attempt.step("cleared")


def leftover_tables(server: Server, plan_id: str, database: str) -> list[TableName]:
    """Every staging and sealed table of a plan."""
    found = server.rows(
        f"SELECT name FROM system.tables WHERE database = {literal(database)}"
        f" AND startsWith(name, {literal(f'backfill_{plan_id}_')}) ORDER BY name"
    )
    return [TableName(database, name) for (name,) in found]


def drop_tables(server: Server, tables: Sequence[TableName]) -> None:
    """Drop tables that may be gone already."""
    for table in tables:
        server.command(f"DROP TABLE IF EXISTS {quote_table(table)} SYNC", {"max_table_size_to_drop": 0})
