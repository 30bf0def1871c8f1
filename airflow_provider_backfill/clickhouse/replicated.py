"""
Stage and publish rows of a replicated target; docs/decisions/0008 has the argument.

The log is the seal: it lists the parts of a verified attempt by their hashes. ``ATTACH PARTITION … FROM`` publishes
these parts, and Keeper remembers their hashes. So a repeated statement adds nothing, on any replica. Each part has a
unique id, so parts with equal rows have different hashes, and rows that are staged again never count as published.
"""

import re
import time
from collections.abc import Iterable, Mapping

from ..core.facts import Replicas, TableFacts
from ..core.plain_text import show_number
from ..core.remedy import command
from ..core.run_state import ContentSums, Staged
from ..core.sql import create_like, literal, quote_table, table_condition
from ..core.tables import TableName
from ..errors import Advice, ServerError
from .attempt import Attempt, OutdatedError, Step
from .client import ClickHouse
from .cluster import AT_ONCE, Keeper, catch_up, create_everywhere, one_server, path_beside
from .foreign_rows import ForeignRowsError, refuse_before_publish
from .interrupted_move import has_arrived
from .proof import Proof
from .publish import is_outdated

# Keeper remembers hashes up to a maximum age and a maximum number. If the age of a hash or the number of hashes reaches
# this share of its limit, the hash counts as possibly forgotten.
_MEMORY_SHARE = 0.5
_WINDOW = re.compile(r"\breplicated_deduplication_window(_seconds)? = (\d+)")
_QUORUM_SECONDS = 30.0


def create_staging(
    server: ClickHouse,
    target: TableFacts,
    replicas: Replicas,
    table: TableName,
    comment: str,
    settings: Mapping[str, int | str],
) -> None:
    """
    Create a table with the target's structure on this server, and queue its creation on the other replicas.

    If neither a cluster nor the database reaches the other replicas, create the table on this server only. Otherwise,
    if this user's inserts need a quorum, wait up to 30 seconds for the quorum.

    Raises:
        ServerError: ClickHouse refused a statement or could not be reached.
    """

    def create(cluster: str) -> str:
        return create_like(
            *(table, target.storage, target.engine_full, comment),
            settings=settings,
            again=cluster != "",
            replicas=replicas,
            cluster=cluster,
        )

    create_everywhere(server, replicas, create)
    if replicas.reaches_all and server.setting("insert_quorum") != "0":
        _wait_for_quorum(server, table)


def _wait_for_quorum(server: ClickHouse, table: TableName) -> None:
    """
    Wait until *table* has as many active replicas as the user's ``insert_quorum`` demands.

    Return after 30 seconds even if there are fewer active replicas. An insert then fails.
    """
    until = time.monotonic() + _QUORUM_SECONDS
    question = (
        "SELECT if(value = 'auto', intDiv(total_replicas, 2) + 1, toUInt64OrZero(value)) <= active_replicas"
        " FROM system.settings, (SELECT total_replicas, active_replicas FROM system.replicas"
        f" WHERE {table_condition(table)}) AS there WHERE name = 'insert_quorum'"
    )
    while server.numbers(question) == (0,) and time.monotonic() < until:
        time.sleep(0.05)


def staged_parts(server: ClickHouse, table: TableName) -> Staged:
    """Return a staging table's name and active parts; this server must be the server that filled the table."""
    rows = server.rows(
        f"SELECT partition_id, hash_of_all_files FROM system.parts WHERE {table_condition(table)} AND active"
        " ORDER BY ALL"
    )
    return Staged(table.table, tuple((str(partition), str(hashed)) for partition, hashed in rows))


def empty_staging(server: ClickHouse, table: TableName, partitions: Iterable[str]) -> None:
    """
    Queue the drop of a staging table's *partitions* on all replicas. Parts that are inserted later stay.

    Raises:
        ServerError: ClickHouse refused the statement or could not be reached.
    """
    if drops := ", ".join(f"DROP PARTITION ID {literal(partition)}" for partition in partitions):
        # The next chunk waits for the drop on this server only after its INSERT.
        settings = {"max_partition_size_to_drop": "0", "alter_sync": 0, **AT_ONCE}
        server.command(f"ALTER TABLE {quote_table(table)} {drops}", settings)


def server_with(server: ClickHouse, table: TableName | None, tries: int = 30) -> ClickHouse:
    """
    Return a connection to one of the servers behind an address, preferably a server with *table*.

    A staging table may exist on some replicas only, if a worker died during its creation. If *tries* tries find no
    server with the table, or if *table* is None, return any server.
    """
    for _ in range(tries):
        chosen = one_server(server)
        if table is None or chosen.numbers(f"EXISTS TABLE {quote_table(table)}") == (1,):
            return chosen
    return one_server(server)


def attach_partitions(
    server: ClickHouse,
    attempt: Attempt,
    replicas: Replicas,
    staged: Staged,
    content: ContentSums,
    proof: Proof | None,
) -> None:
    """
    Publish the partitions of the staged parts, except those that are already in the target.

    Args:
        content: The sums of all staged rows.
        proof: The facts about this attempt's staged rows; None if an earlier attempt staged the rows.

    Raises:
        ServerError: This server lacks unpublished parts or does not catch up, or ClickHouse refused a statement or
            could not be reached. The caller may try again, perhaps on another server.
        ForeignRowsError: The target has rows of other writers in the chunk's window.
        TransitionError: Another worker has taken over the chunk.
        WindowTakenError: Another run is at work on an overlapping window.
        OutdatedError: The target was altered after an earlier attempt had staged the rows, and has none of them.
        InDoubtError: Keeper may have forgotten published parts, and the target has some of the staged rows, or other
            rows with the same keys.
    """
    storage = attempt.target.storage
    table = TableName(attempt.target.beside, staged.table)
    partitions, left = _by_partition(staged), dict[str, set[str]]()
    resumed = unpublished = proof is None
    for partition, hashes in partitions.items():
        missing = hashes - (_published(server, replicas, partition, hashes) if resumed else set())
        unpublished = unpublished and missing == hashes
        if missing:
            # Check only the parts of an earlier attempt: this attempt has just seen its own parts on this server.
            if resumed:
                check_staged(server, attempt, staged, missing)
            forgotten = resumed and _may_be_forgotten(server, attempt.target, replicas, table)
            unpublished = unpublished and not forgotten
            if not (forgotten and has_arrived(server, attempt, table, partition)):
                left[partition] = missing

    def look() -> None:
        refuse_before_publish(server, attempt, content.rows - _rows(server, table, set().union(*left.values())))

    if left:
        # A delayed ATTACH of an earlier attempt fails once the staging table is dropped.
        if unpublished and is_outdated(server, attempt, table):
            outdated = OutdatedError(attempt)
            outdated.unpublished = True
            raise outdated
        try:
            if proof is None:
                look()
            else:
                refuse_before_publish(server, attempt, 0, proof.present)
        except ForeignRowsError as error:
            # If *unpublished* is true, Keeper knows none of the parts and cannot have forgotten any. A delayed ATTACH
            # of an earlier attempt fails once the staging table is dropped.
            error.unpublished = unpublished
            raise
    for partition in partitions:
        if partition in left:
            attempt.fenced(look)
            action = f"ATTACH PARTITION ID {literal(partition)} FROM {quote_table(table)}"
            # A Replicated database with several shards executes this ALTER on each shard. The staging table is empty on
            # the other shards, so do not wait for these shards.
            # The parts are in the target when the statement ends. Waiting for its entry in the queue adds nothing.
            settings = {"query_id": f"{attempt.query_id}.attach.{partition}", "alter_sync": 0, **AT_ONCE}
            server.command(f"ALTER TABLE {quote_table(storage)} {action}", settings)
            del left[partition]
        attempt.step(Step.MOVED)


def _rows(server: ClickHouse, table: TableName, hashes: Iterable[str]) -> int:
    """Return the number of rows in the active parts of *table* with these hashes."""
    names = ", ".join(map(literal, hashes))
    (rows,) = server.numbers(
        f"SELECT sum(rows) FROM system.parts WHERE {table_condition(table)} AND active"
        f" AND hash_of_all_files IN ({names})"
    )
    return rows


def _by_partition(staged: Staged) -> dict[str, set[str]]:
    partitions: dict[str, set[str]] = {}
    for partition, hashed in staged.parts:
        partitions.setdefault(partition, set()).add(hashed)
    return partitions


def _published(server: ClickHouse, replicas: Replicas, partition: str, hashes: Iterable[str]) -> set[str]:
    """Return those of the *hashes* that Keeper remembers as published."""
    names = {f"{partition}_replace_from_{hashed.upper()}": hashed for hashed in hashes}
    return {names[name] for name in Keeper(server, replicas.keeper).children(f"{replicas.path}/blocks", names)}


def check_staged(server: ClickHouse, attempt: Attempt, staged: Staged, hashes: set[str]) -> None:
    """
    Check that this server has the staged parts with these *hashes*, and no parts of earlier chunks beside them.

    First, let the server fetch and drop all parts that it still has to fetch and drop.

    Raises:
        ServerError: A part is missing or too many, or may still arrive, so the parts cannot be published from this
            server; or the server refused a query, or could not be reached.
    """
    table, known = TableName(attempt.target.beside, staged.table), {hashed for _, hashed in staged.parts}
    lagging: ServerError | None = None
    if server.numbers(f"EXISTS TABLE {quote_table(table)}") == (1,):
        try:
            catch_up(server, table)
        except ServerError as error:
            # A replica that waits for a dead replica never catches up. The error below says how to continue.
            lagging = error
    found = _hashes(server, table)
    if lacks := len(hashes - found):
        raise ServerError(
            f"The server that was reached lacks {lacks} of the {len(hashes)} parts in {table} that are verified and "
            f"may not be published yet. {lagging or ''}".rstrip(),
            remedy=Advice(
                "when the replica that has them is back, run `{}`; if it is gone permanently, run `{}`, which fills "
                "the windows of failed chunks again",
                command("resume", attempt.plan.plan_id),
                command("run", attempt.plan.plan_id, "--replay-failed", "--clear-window"),
            ),
        ) from lagging
    if (others := len(found - known)) or lagging:
        raise ServerError(
            f"The server that was reached still has {show_number(others, 'part')} of earlier chunks in {table}, or may "
            f"fetch such parts, and publishing would add the rows again. {lagging or ''}".rstrip(),
            remedy=Advice("when the server has caught up, run `{}`", command("resume", attempt.plan.plan_id)),
        ) from lagging


def _hashes(server: ClickHouse, table: TableName) -> set[str]:
    rows = server.rows(f"SELECT hash_of_all_files FROM system.parts WHERE {table_condition(table)} AND active")
    return {str(hashed) for (hashed,) in rows}


def _may_be_forgotten(server: ClickHouse, target: TableFacts, replicas: Replicas, table: TableName) -> bool:
    """
    Return whether Keeper may have forgotten a published part of the staging *table*.

    Keeper forgets hashes older than ``replicated_deduplication_window_seconds``, and keeps at most
    ``replicated_deduplication_window`` hashes. Return True if the age of the table in Keeper, or the number of hashes
    in Keeper, is at least half of its limit. The age of the parts does not tell: on a replica that was down, a part is
    as old as its fetch.
    """
    names = "('replicated_deduplication_window', 'replicated_deduplication_window_seconds')"
    rows = server.rows(f"SELECT name, toUInt64(value) FROM system.merge_tree_settings WHERE name IN {names}")
    window = {name: int(value) for name, value in rows}
    own = {f"replicated_deduplication_window{m[1] or ''}": int(m[2]) for m in _WINDOW.finditer(target.engine_full)}
    blocks, seconds = (
        {**window, **own}.get(f"replicated_deduplication_window{suffix}", 0) * _MEMORY_SHARE
        for suffix in ("", "_seconds")
    )
    keeper = Keeper(server, replicas.keeper)
    created = keeper.oldest(path_beside(server, replicas, table))
    age = server.numbers("SELECT toUnixTimestamp(now())")[0] - created
    return age >= seconds or keeper.count(f"{replicas.path}/blocks") >= blocks
