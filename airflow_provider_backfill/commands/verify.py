"""
Compare the target's rows with the current result of the plan's SELECTs, in the windows of the done chunks.

If each row comes from one source row and the target keeps the row unchanged, content sums are compared. Otherwise the
SELECTs fill a private table with the target's structure, and the merged rows of both tables are compared. A comparison
that proves nothing is reported as inconclusive, with the reason.
"""

from collections.abc import Sequence
from enum import StrEnum

from ..clickhouse import catalog
from ..clickhouse.client import ClickHouse
from ..clickhouse.cluster import catch_up, one_server
from ..clickhouse.proof import content_at_source
from ..clickhouse.trial import Difference, compare_merged, compare_signs, private_tables
from ..core.facts import TableFacts
from ..core.instants import render_instant, to_ms
from ..core.names import quote, show_table
from ..core.parameters import of_one_text
from ..core.plain_text import show_number
from ..core.plan import Chunk, Plan, RowProof
from ..core.remedy import command
from ..core.replay import select_chunks
from ..core.run_state import ChunkStatus, ContentSums, Run
from ..core.sql import milliseconds, table_checksum_sql, time_filter
from ..core.target_window import window_filter
from ..core.window import Slice, whole_days
from ..errors import RequestError, StatementRefusedError
from . import plan_inputs
from .session import Payload, Session
from .sites import Site, on_site, sites_of, target_of
from .trying import fill_slices

# Settings for filling the private table. They override the user's insert settings, because the table must contain
# exactly the rows of the SELECTs.
_INSERT = {
    "async_insert": 0,
    "deduplicate_insert_select": "disable",
    "max_partitions_per_insert_block": 0,
    "optimize_on_insert": 0,
}
_SIDES = ("the target", "the source")
_INCONCLUSIVE = 3
_SHOWN = 3


class Verdict(StrEnum):
    """The result of a comparison; a reason accompanies ``INCONCLUSIVE``."""

    EQUAL = "equal"
    DIFFERS = "differs"
    INCONCLUSIVE = "inconclusive"


def verify_plan(session: Session, plan_id: str) -> Payload:
    """
    Compare the current rows of a plan's source and target.

    Returns:
        A payload. ``verdict`` is ``equal``, ``differs`` or ``inconclusive``, for the done chunks. ``why`` has the
        reason for ``inconclusive``, or tells that the shards' shares do not add up. ``ok`` is true only if the rows are
        equal and all chunks are done. ``changedChunks`` lists chunks that differ, and ``differences`` has up to six
        rows for each site. ``exitCode`` is 0 if ``ok``, 3 for ``inconclusive``, and otherwise 1.

    Raises:
        RequestError: The plan does not exist, or none of its chunks is done.
        ServerError: ClickHouse could not be asked.
    """
    plan = session.store.load_plan(plan_id)
    run = session.store.open_run(plan).run
    done = list(select_chunks(plan, run, ChunkStatus.DONE))
    if not done:
        raise RequestError(
            f"No chunk of plan {plan.plan_id} is done, so there is nothing to verify.",
            remedy=command("status", plan.plan_id),
        )
    with session.connected() as address, sites_of(address, plan) as sites:
        found = _of_all_shards(plan, [(site, _compare(site, run)) for site in sites])
        if plan.dealing is not None and (why := _shares_miss(plan, run, sites)):
            found |= {"verdict": Verdict.DIFFERS, "why": why}
    verdict = found["verdict"]
    whole = len(done) == run.total
    code = _INCONCLUSIVE if verdict is Verdict.INCONCLUSIVE else int(verdict is Verdict.DIFFERS or not whole)
    return {
        "ok": code == 0,
        "command": "verify",
        "planId": plan.plan_id,
        "target": show_table(plan.target),
        "chunksVerified": len(done),
        "chunksTotal": run.total,
        **found,
        "notCompared": list(plan.not_compared),
        "exitCode": code,
    }


def _compare(site: Site, run: Run) -> Payload:
    """
    Wait until the replicas of the site have caught up, then compare source and target for the done chunks.

    If content sums cannot be compared, only windows whose chunks are all done are compared.
    """
    plan = site.plan
    with on_site(site.plan.shard):
        server = one_server(site.server)
        target = target_of(server, plan)
        for table, cluster in plan_inputs.replicated_tables(server, plan.statements, target):
            catch_up(server, table, cluster)
        if _is_copy(plan, target):
            return _compare_sums(server, plan, run, target, list(select_chunks(plan, run, ChunkStatus.DONE)))
        return _compare_merged(server, plan, run, target)


def _of_all_shards(plan: Plan, found: Sequence[tuple[Site, Payload]]) -> Payload:
    """
    Combine the results of all sites; without shards, return the result of the only site.

    The combined verdict is the worst: ``differs``, then ``inconclusive``. Each reason, chunk and row names its shard. A
    total is None if the number of a site is unknown.
    """
    if not plan.shards:
        return found[0][1]
    verdicts = [each["verdict"] for _, each in found]
    order = (Verdict.DIFFERS, Verdict.INCONCLUSIVE, Verdict.EQUAL)
    worst = next(verdict for verdict in order if verdict in verdicts)

    def of_all(name: str) -> list[Payload]:
        return [{"shard": site.plan.shard, **entry} for site, each in found for entry in each[name]]

    def total(name: str) -> int | None:
        return None if any(each[name] is None for _, each in found) else sum(each[name] for _, each in found)

    return {
        "verdict": worst,
        "why": "; ".join(f"{site.name}: {each['why']}" for site, each in found if each["why"]),
        "rowsInTarget": total("rowsInTarget"),
        "rowsFromSource": total("rowsFromSource"),
        "changedChunks": of_all("changedChunks"),
        "differences": of_all("differences"),
        "shards": [
            {"shard": site.plan.shard, **{name: each[name] for name in ("verdict", "rowsInTarget", "rowsFromSource")}}
            for site, each in found
        ],
    }


def _shares_miss(plan: Plan, run: Run, sites: Sequence[Site]) -> str:
    """
    Return why the shards' shares do not add up to all rows of the SELECTs; empty if the shares add up.

    Only windows that are done on every shard are compared. The result is also empty if there is no such window, or if
    the key that decides a row's shard has no columns.
    """
    columns = plan.dealing.columns if plan.dealing is not None else ()
    parameters = [parameter for statement in plan.statements for parameter in statement.parameters]
    groups = of_one_text(parameters, plan.bounds_ms(), _finished(plan, run))
    slices = [each for group in groups for each in group]
    if not columns or not slices:
        return ""
    sums = []
    for each in (plan, *(site.plan for site in sites)):
        # The whole is read on the first shard, and each share on its own shard.
        site = next((one for one in sites if one.plan is each), sites[0])
        with on_site(site.plan.shard):
            server = one_server(site.server)
            target = target_of(server, site.plan)
            chunks = [Chunk("", start, end) for start, end in slices]
            found = [content_at_source(server, each, target, chunk, summed=columns) for chunk in chunks]
            sums.append(_total(found))
    whole, shares = sums[0], _total(sums[1:])
    if whole == shares:
        return ""
    return (
        f"the shares of the {len(sites)} shards have {show_number(shares.rows, 'row')} (checksum {shares.checksum}), "
        f"and the whole {whole.rows:,} (checksum {whole.checksum}): the SELECT gives other rows each time, or on "
        "each shard"
    )


def _is_copy(plan: Plan, target: TableFacts) -> bool:
    """
    Return whether content sums of source and target can be compared.

    Each row must come from one source row, and the target must keep rows unchanged and have a time column. If the plan
    adds rows rather than replacing rows, the window must have been empty before the plan. All statements
    must fill the same columns, none of them EPHEMERAL.
    """
    if not plan.sums_tell or plan.target_time is None or (plan.existing_rows and plan.adds_rows):
        return False
    names = plan.statements[0].columns
    same = all(statement.columns == names for statement in plan.statements) and not any(
        column.name in names for column in target.columns if column.default_kind == "EPHEMERAL"
    )
    return same and target.engine in ("MergeTree", "ReplicatedMergeTree", "SharedMergeTree", "Memory")


def _compare_sums(server: ClickHouse, plan: Plan, run: Run, target: TableFacts, done: Sequence[Chunk]) -> Payload:
    """
    Compare each done chunk's sums at the source with the log, and the sums over all done chunks with the target.

    The comparison with the target sums all filled columns. If source and target differ, :func:`_compare_merged` finds
    the rows that differ. The result of that function is returned if no chunk differs from the log and rows may lie
    outside their windows; the verdict ``differs`` then becomes ``inconclusive``.
    """
    changed, read = [], {}
    for chunk in done:
        now, written = content_at_source(server, plan, target, chunk), run.state(chunk.id).content
        if not _is_unchanged(plan, written, now):
            changed.append({**_window(chunk), "written": _sums(written), "sourceNow": _sums(now)})
        if not plan.summed_columns:
            read[chunk] = now
    source = _total(
        [
            read[chunk] if chunk in read else content_at_source(server, plan, target, chunk, whole=True)
            for chunk in _as_one_reads(plan, run, done)
        ]
    )
    columns = plan.statements[0].columns
    here = _condition(plan, [(chunk.start, chunk.end) for chunk in done])
    held = ContentSums(*server.row(table_checksum_sql(target.storage, columns, here)))
    differs = bool(changed) or source != held
    shown = _compare_merged(server, plan, run, target) if source != held else {"changedChunks": [], "differences": []}
    if source != held and not changed and run.reach and plan.target_time and plan.target_time.label is None:
        # Rows whose target time differs from the source time may lie outside the window.
        if shown["verdict"] is Verdict.DIFFERS:
            why = "rows have another time in the target than in the source, so those of other windows lie among them"
            return {**shown, "verdict": Verdict.INCONCLUSIVE, "why": why}
        return shown
    return {
        "verdict": Verdict.DIFFERS if differs else Verdict.EQUAL,
        "why": "",
        "rowsInTarget": held.rows,
        "rowsFromSource": source.rows,
        "changedChunks": changed or shown["changedChunks"],
        "differences": shown["differences"],
    }


def _as_one_reads(plan: Plan, run: Run, done: Sequence[Chunk]) -> list[Chunk]:
    """
    Return the done chunks as one execution of the SELECTs reads them, so that a row in two chunks is read once.

    The parts of a window by key are one, and so are adjacent chunks if the user places the window by query parameters.
    """
    finished = _finished(plan, run)
    parameters = [parameter for statement in plan.statements for parameter in statement.parameters]
    if parameters:
        groups = (group for each in finished for group in of_one_text(parameters, plan.bounds_ms(), [each]))
        return [Chunk("", group[0][0], group[-1][1]) for group in groups]
    found = []
    for chunk in done:
        whole = any(start <= chunk.start and chunk.end <= end for start, end in finished)
        found.append(Chunk("", chunk.start, chunk.end) if chunk.key_range and whole else chunk)
    return list(dict.fromkeys(found))


def _compare_merged(server: ClickHouse, plan: Plan, run: Run, target: TableFacts) -> Payload:
    """
    Fill a private table by the SELECTs, and compare the target's merged rows with the merged rows of this table.

    The verdict is inconclusive if no window is finished, if the target's engine is outside the MergeTree family, or if
    ClickHouse refuses a statement. The verdict is also inconclusive if a difference may not be an error.
    """
    slices = _finished(plan, run)
    filled = {name for statement in plan.statements for name in statement.columns}
    columns = [
        column
        for column in target.columns
        if column.name in filled and column.name not in plan.not_compared and column.default_kind != "EPHEMERAL"
    ]
    empty: Payload = {"rowsInTarget": None, "rowsFromSource": None, "changedChunks": [], "differences": []}
    if not slices or not target.engine.endswith("MergeTree"):
        why = plan.verify_caveat or "no window has all of its chunks done"
        return {"verdict": Verdict.INCONCLUSIVE, "why": why, **empty}
    where, time = _condition(plan, slices), plan.target_time
    # If the SELECT labels rows by another time, a row's time in the target does not identify its chunk.
    told = time is not None and time.label is None and time.column not in plan.not_compared
    at = milliseconds(quote(time.column), time.kind) if time is not None and told else ""
    doubt, signs_tell = plan.verify_caveat, plan.signs_tell
    if run.count(ChunkStatus.DONE) < run.total and run.reach:
        doubt = doubt or "chunks that are not done write to the same times of the target"
        signs_tell = False
    try:
        with private_tables(server, target, plan.plan_id, ("verify",), merges=not signs_tell) as (whole,):
            fill_slices(server, plan, whole, slices, _INSERT)
            counts = [catalog.count_rows(server, table, where) for table in (target.storage, whole)]
            rows = compare_merged(server, target, columns, target.storage, whole, _SIDES, where=where, at=at)
            if signs_tell and (signs := compare_signs(server, target, whole, _SIDES, where=where, at=at or "0")):
                rows, doubt = rows or signs, ""
    except StatementRefusedError as error:
        return {"verdict": Verdict.INCONCLUSIVE, "why": error.message, **empty}
    verdict = Verdict.EQUAL if not rows else Verdict.INCONCLUSIVE if doubt else Verdict.DIFFERS
    return {
        "verdict": verdict,
        "why": doubt if verdict is Verdict.INCONCLUSIVE else "",
        "rowsInTarget": counts[0],
        "rowsFromSource": counts[1],
        "changedChunks": [_window(chunk) for chunk in _chunks_of(plan, run, rows)],
        "differences": [{"givenBy": row.given_by, "row": dict(row.row)} for row in rows[: 2 * _SHOWN]],
    }


def _chunks_of(plan: Plan, run: Run, rows: Sequence[Difference]) -> list[Chunk]:
    """Return the done chunks whose windows contain the time of one of *rows*; empty if no row has a time."""
    times = {row.at for row in rows if row.at is not None}
    return [
        chunk
        for chunk in (select_chunks(plan, run, ChunkStatus.DONE) if times else ())
        if any(to_ms(chunk.start) <= at < to_ms(chunk.end) for at in times)
    ]


def _finished(plan: Plan, run: Run) -> list[Slice]:
    """Return the windows whose chunks are all done, in time order, with adjacent windows joined."""
    chunks = list(select_chunks(plan, run))
    # Several chunks may have the same window: its parts by key, and the chunks of several shards.
    unfinished = {(chunk.start, chunk.end) for chunk in chunks if run.state(chunk.id).status is not ChunkStatus.DONE}
    return _joined([window for chunk in chunks if (window := (chunk.start, chunk.end)) not in unfinished])


def _condition(plan: Plan, slices: Sequence[Slice]) -> str:
    """
    Return the SQL condition that a row of the target lies in *slices*; ``1`` if the plan has no target time column.

    If the target stores dates, the slices are extended to whole days. If the SELECT labels rows by another time, the
    condition applies to the label.
    """
    time = plan.target_time
    if time is None:
        return "1"
    if time.label is not None:
        return " OR ".join(f"({window_filter(plan, Chunk('', *each))})" for each in _joined(slices))
    within = [whole_days(*each) if time.kind.is_date else each for each in _joined(slices)]
    return " OR ".join(f"({time_filter(time.column, time.kind, start, end)})" for start, end in within)


def _joined(slices: Sequence[Slice]) -> list[Slice]:
    joined: list[Slice] = []
    for start, end in sorted(set(slices)):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def _window(chunk: Chunk) -> Payload:
    return {"chunkId": chunk.id, "from": render_instant(chunk.start), "to": render_instant(chunk.end)}


def _total(contents: Sequence[ContentSums]) -> ContentSums:
    return ContentSums(sum(c.rows for c in contents), sum(c.checksum for c in contents) % 2**64)


def _is_unchanged(plan: Plan, written: ContentSums | None, now: ContentSums) -> bool:
    """
    Return whether the source's sums equal the logged sums.

    With :attr:`.RowProof.WRITTEN`, the log has a checksum of the parts instead, so only the row counts are compared.
    If the source was not read after a direct INSERT, the log has no sums, so only source and target are compared.
    """
    if written is not None and not written.is_summed:
        return True
    if plan.row_proof is RowProof.WRITTEN:
        return written is not None and written.rows == now.rows
    return written == now


def _sums(content: ContentSums | None) -> Payload | None:
    return None if content is None else {"rows": content.rows, "checksum": str(content.checksum)}
