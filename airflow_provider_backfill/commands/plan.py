"""Create an immutable plan, or find the existing identical plan."""

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime

from ..clickhouse import attempt, catalog
from ..clickhouse.client import ClickHouse
from ..clickhouse.cluster import catch_up
from ..clickhouse.shards import spreads_over
from ..clickhouse.table_health import target_ttls
from ..core.adding_up.case import Verdict
from ..core.adding_up.merging import signs_tell, verify_caveat
from ..core.adding_up.target import changing_defaults
from ..core.drift import compatibility_token, planned_views
from ..core.facts import ScanFacts, TableFacts
from ..core.findings.registry import Match
from ..core.findings.replica_rules import shards_left_out
from ..core.findings.source_rules import unsent_filter
from ..core.findings.target_rules import constrained, past_ttl
from ..core.findings.window_rules import open_window
from ..core.ids import plan_id
from ..core.instants import render_instant, short_instant
from ..core.masking import literal_calls, mask_secrets
from ..core.model import whole
from ..core.names import is_expression, quote, show_table
from ..core.plan import AddsUp, Plan, Proof, RowProof, Statement, WriteMode
from ..core.plan_words import guarantee, mode_reason, rows_of_shards
from ..core.planner import check_window, write_mode
from ..core.remedy import command
from ..core.request import PlanRequest
from ..core.request_rules import check_request
from ..core.run_state import ChunkStatus, Run
from ..core.select_text import read_select
from ..core.sql import quote_table
from ..core.tables import TableName
from ..errors import Advice, Flag, RequestError, Sql, StatementRefusedError
from . import (
    adding_up,
    chunk_bounds,
    chunk_sizing,
    dealing,
    filled_windows,
    plan_checks,
    plan_inputs,
    source_statements,
    trying,
)
from .filled_windows import meeting_plans
from .lease import has_live_worker, utc_now
from .plan_findings import adds_up_payload, remedy_payload
from .preview import preview
from .session import Payload, Session
from .sites import Ground, ground_of, on_site, shards_payload


def create_plan(session: Session, request: PlanRequest, *, dry_run: bool = False) -> Payload:
    """
    Create an immutable plan, or find the existing plan with the same id and definition; do not run it.

    Args:
        dry_run: Whether to store nothing and to make no trial. The result then has a preview of the plan.

    Returns:
        The plan as JSON. ``existed`` tells whether the state folder already had the plan; only a new plan has
        ``estimate`` and ``warnings``.

    Raises:
        RequestError: The request cannot be planned. The message has the reason, and the hint has a change that helps.
        ServerError: ClickHouse could not be reached, or refused a statement.
    """
    check_request(request)
    limits = session.options.limits

    def check(start: datetime, end: datetime) -> None:
        check_window(
            start,
            end,
            request.chunking,
            max_hours=limits.max_window_hours,
            min_chunk_minutes=limits.min_chunk_minutes,
            force=request.force_large_window,
        )

    if request.start is not None and request.end is not None:
        check(request.start, request.end)
    with session.connected_to_one() as address, ground_of(address, request) as ground:
        server, name, request = ground.server, request.target, ground.request
        target = plan_inputs.target_facts(server, request.target, request.staging_database)
        mode, reason = write_mode(target, request)
        statements, column = source_statements.find_statements(server, target, request)
        for number, there, table in ground.sites:
            with on_site(number):
                if number:
                    _check_alike(there, table, request, statements, column)
                _check_site(there, table, mode, request, statements)
        start, end = plan_inputs.find_window(server, session.options, request, statements[0], column)
        if request.start is None or request.end is None:
            check(start, end)
        time = plan_inputs.target_time(target, column, statements[0].time_kind.unit)
        plan = Plan(
            plan_id=plan_id(show_table(name), start, end, request.chunking.text, column),
            target=name,
            start=start,
            end=end,
            chunk_hours=request.chunking.hours,
            chunk_length=request.chunking.text,
            time_column=column,
            chunk_count=0,
            statements=tuple(statements),
            write_mode=mode,
            mode_reason=reason,
            engine=target.engine,
            use_tokens=session.options.defaults.require_idempotency_token,
            min_chunk_minutes=limits.min_chunk_minutes,
            environment=address.address,
            connection=plan_inputs.connection_of(server, statements),
            target_time=time,
            summed_columns=plan_inputs.summed_columns(target, statements, time),
            keep_outside=request.keep_outside,
            backup=request.backup,
            staging_database=target.staging_database,
            # Only the source can show which rows a direct insert should have written.
            row_proof=RowProof.CONTENT if mode is WriteMode.INSERT else request.row_proof,
            reason=request.reason,
            owner=request.owner,
            allow_existing_rows=request.allow_existing_rows,
            one_shard=request.one_shard,
            nonce=secrets.token_hex(4),
            created_by=session.user,
            whole_tables=tuple(request.whole_tables),
            adds_up=AddsUp(proof=Proof.NOT_SHOWN, accepted=request.accept_partial_groups),
            created_at=utc_now(),
        ).model_copy(update=ground.fields)
        scans = plan_inputs.check_scans(server, target, plan, start, end)
        # A scan does not notice now(), which may change rows between readings. So scan and statement must be row-wise.
        checked = tuple(
            statement.model_copy(update={"row_wise": scan.row_wise and statement.row_wise, "reads": scan.reads})
            for statement, scan in zip(statements, scans, strict=True)
        )
        plan = dealing.with_dealing(address, server, target, plan.model_copy(update={"statements": checked}))
        token = compatibility_token(plan.statements, target, use_tokens=plan.use_tokens)
        plan = plan.model_copy(update={"compatibility_token": token})
        if request.auto_chunks:
            scans = plan_inputs.read_queries(server, target, plan, scans)
            plan = chunk_sizing.resized(server, target, plan, scans)
        existing = session.store.find_plan(plan.plan_id)
        if existing is not None and not request.force:
            shown = {"preview": preview(server, existing, target)} if dry_run else {}
            return {**_plan_payload(session, plan_checks.same_plan(existing, plan), target, existed=True), **shown}
        scans = plan_inputs.read_queries(server, target, plan, scans)
        plan, heavy, counted = chunk_bounds.cut(server, target, plan, scans)
        verdicts = adding_up.check_bounds(server, target, plan, scans)
        dealing.check_stable(plan, verdicts)
        plan = adding_up.with_label(server, target, plan, scans, verdicts)
        plan = _with_existing_rows(session, ground, plan, request.allow_existing_rows)
        returning = plan_checks.returning_partitions(server, target, plan, scans, verdicts)
        for number, there, table in ground.sites:
            with on_site(number):
                local = plan.on_shard(number) if number else plan
                plan_checks.check_rows_outside(there, table, local, returning)
        changing = changing_defaults(target, statements)
        not_compared = _all((changing, *((*verdict.unstable, *verdict.unordered) for verdict in verdicts)))
        chance = _all(verdict.chance for verdict in verdicts)
        said = {"verify_caveat": verify_caveat(plan, target, chance), "signs_tell": signs_tell(plan, target, chance)}
        plan = plan.model_copy(update={"not_compared": not_compared, **said})
        plan = plan.model_copy(
            update={"adds_up": _tried(session, server, target, plan, verdicts, request, counted, dry_run=dry_run)}
        )
        if not dry_run:
            _clean_before(session, ground, plan, existing, force=request.force)
        # The counts from the search for bounds are those of one server, so they are useless for several sites.
        known = counted if len(ground.sites) == 1 else None
        estimates = [chunk_sizing.estimate_plan(there, plan, known) for _, there, _ in ground.sites]
        estimate = max((one for one in estimates if one is not None), key=lambda one: one.rows, default=None)
        rows = None if None in estimates else sum(one.rows for one in estimates if one is not None)
        if plan.dealing is not None and estimate is not None:
            # Each shard reads the same rows, so the sum would count these rows several times.
            rows = estimate.rows
        plan = plan.model_copy(update={"source_rows": rows})
        if not dry_run and not session.store.save_plan(plan):
            # Meanwhile, another process has stored a plan with this id.
            existing = plan_checks.same_plan(session.store.load_plan(plan.plan_id), plan)
            return _plan_payload(session, existing, target, existed=True)
        ttls = target_ttls(server, target, plan)
        found = [
            *open_window(plan, catalog.server_time(server)),
            *past_ttl(plan.target, target.storage, ttls),
            *plan_checks.rows_elsewhere(server, plan),
            *dict.fromkeys(plan_checks.rows_hidden(ground, statements)),
            *_left_out(server, plan, target),
            *constrained(target),
            *plan_checks.rows_return(server, target, plan),
            *_own_settings(plan),
            *_heavy(plan, heavy),
            *_computed_times(plan, scans),
            *_literals(plan),
            *_rights(server, plan),
        ]
        warnings = [{"message": each.message, **remedy_payload(each.remedy)} for each in found]
        described = chunk_sizing.describe(server, target, plan, scans, estimate)
        payload = {**_plan_payload(session, plan, target, existed=False), "estimate": described, "warnings": warnings}
        if dry_run:
            payload |= {"planPath": None, "next": None, "preview": preview(server, plan, target)}
        return payload


def _left_out(server: ClickHouse, plan: Plan, target: TableFacts) -> Iterator[Match]:
    """Report the shards that a plan without shards leaves out; yield nothing if the server refuses the query."""
    if not plan.shards:
        sources = [one.table for one in plan.statements if one.table is not None]
        with suppress(StatementRefusedError):
            yield from shards_left_out(plan, spreads_over(server, target.storage, sources))


def _heavy(plan: Plan, heavy: Sequence[chunk_bounds.HeavyChunk]) -> Iterator[Match]:
    """Report, in one warning, the chunks that read more than the limit because they cannot be cut further."""
    if heavy:
        most = max(heavy, key=lambda chunk: chunk.weight)
        yield Match(
            f"{len(heavy)} of {plan.chunk_count} chunks read more of the source than the limit; the heaviest, "
            f"{short_instant(most.start)} to {short_instant(most.end)}, {most.weight:.1f} times as much. They are cut "
            f"neither by time (a bucket, a partition, or {plan.min_chunk_minutes:g} minutes) nor by the sorting key of "
            "the source (all rows have the same key, or the target cannot add up parts of a result).",
            Advice("raise the limit, lower limits.minChunkMinutes, or write the SELECT so that parts add up"),
        )


def _computed_times(plan: Plan, scans: Sequence[ScanFacts]) -> Iterator[Match]:
    """Report filters that are not sent to other databases and times that use no index, if there are several chunks."""
    for statement, scan in zip(plan.statements, scans, strict=True):
        for one in plan.filters(statement):
            if plan.total_chunks < 2:
                return
            if scan.unsent:
                yield unsent_filter(scan.unsent, one.table, plan.total_chunks)
            elif is_expression(one.column) and not scan.pruned:
                yield Match(
                    f"No index of {show_table(one.table)} is used by {one.column}, so each of the {plan.total_chunks} "
                    "chunks reads all of it.",
                    Advice("use fewer, larger chunks, or add a minmax index on the expression"),
                )


def _tried(
    session: Session,
    server: ClickHouse,
    target: TableFacts,
    plan: Plan,
    verdicts: Sequence[Verdict],
    request: PlanRequest,
    counted: Mapping[int, int] | None,
    *,
    dry_run: bool,
) -> AddsUp:
    """Make a trial unless the plan or the request excludes one, and return the evidence (if any) that chunks add up."""
    set_aside = _all(verdict.waived for verdict in verdicts)
    proof, trial = Proof.BY_RULE, ""
    if plan.chunk_count == 1 and not plan.parts:
        proof = Proof.ONE_CHUNK
    elif set_aside:
        proof, trial = Proof.BY_WORD, "not made: parts of groups are accepted"
    elif not request.trial or dry_run:
        trial = "not made, as a dry run writes nothing" if dry_run else "not made, as --no-trial says"
        if any(verdict.doubts for verdict in verdicts):
            proof = Proof.NOT_SHOWN
    else:
        limits = session.options.limits
        made, trial = trying.try_chunks(
            server, target, plan, verdicts, counted, rows=limits.trial_rows, seconds=limits.trial_seconds
        )
        if any(verdict.doubts for verdict in verdicts):
            proof = Proof.BY_TRIAL if made else Proof.NOT_SHOWN
    return AddsUp(
        proof=proof,
        steps=_all(verdict.steps for verdict in verdicts),
        reads=_all([f"{read.table}: {read.how}" for read in verdict.reads] for verdict in verdicts),
        accepted=request.accept_partial_groups if set_aside else "",
        set_aside=set_aside,
        trial=trial,
        trial_declined=not request.trial,
    )


def _all(lists: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one for each in lists for one in each))


def _own_settings(plan: Plan) -> Iterator[Match]:
    """Report SELECTs whose text has SETTINGS clauses, because these settings apply to every chunk."""
    for statement in plan.statements:
        if names := read_select(statement.select, statement.name).settings:
            yield Match(
                f"{statement.name} has SETTINGS of its own ({', '.join(names)}), with which every chunk runs as well.",
                Advice("remove settings that are not meant for a backfill"),
            )


def _literals(plan: Plan) -> Iterator[Match]:
    """Report calls that may have credentials as literals, because the plan's file contains the statements' text."""
    for statement in plan.statements:
        if calls := literal_calls(statement.select):
            yield Match(
                f"{statement.name} may give credentials as literals to {', '.join(calls)}: the plan's file keeps its "
                "text. What is shown of it is masked.",
                Advice("keep them on the server: CREATE NAMED COLLECTION …, and name it in the call in their place"),
            )


def _rights(server: ClickHouse, plan: Plan) -> Iterator[Match]:
    """Report views that run with another user's rights, because a replay has the rights of the connection's user."""
    selects = {statement.name: statement.select for statement in plan.statements}
    for view, definer in sorted(catalog.foreign_definers(server, planned_views(plan)).items()):
        database, _, table = view.partition(".")
        replay = TableName(database, f"{table}_replay")
        yield Match(
            f"{view} runs with the rights of {definer}, and this replay with those of the connection's user: "
            f"it reads what that user may read, also where {definer} may not.",
            Advice(
                "check what the view reads; to replay with the rights of {}, create `{}` and plan with {}",
                definer,
                Sql(
                    f"CREATE VIEW {quote_table(replay)} DEFINER = {quote(definer)} SQL SECURITY DEFINER"
                    f" AS {selects[view]}"
                ),
                Flag("--source", str(replay)),
            ),
        )


def _check_site(
    server: ClickHouse, target: TableFacts, mode: WriteMode, request: PlanRequest, statements: Sequence[Statement]
) -> None:
    """Check the rights, the insert quorum and the sources on one site, and let its replicas catch up."""
    plan_checks.check_grants(server, target, mode)
    if mode is WriteMode.REPLACE:
        plan_checks.check_hidden_rows(server, target, "REPLACE PARTITION")
    plan_checks.check_quorum(server, target)
    for table, cluster in plan_inputs.replicated_tables(server, statements, target):
        catch_up(server, table, cluster)
    plan_checks.check_shards(server, target, statements, request)


def _check_alike(
    server: ClickHouse, target: TableFacts, request: PlanRequest, statements: Sequence[Statement], column: str
) -> None:
    """Refuse a shard on which the request gives statements or a time column other than *statements* and *column*."""
    own, own_column = source_statements.find_statements(server, target, request)
    if (own, own_column) != (list(statements), column):
        differs = next((one for one in own if one not in statements), own[0])
        raise RequestError(
            f"{differs.name} is another SELECT there, or reads other columns, than on the other shards: "
            f"{mask_secrets(' '.join(differs.select.split()))}",
            hint="make the views and tables of all shards alike, or plan each shard by its own address",
        )


def _with_existing_rows(session: Session, ground: Ground, plan: Plan, allowed: bool) -> Plan:
    """Return the plan with its counts of existing rows; unless *allowed*, refuse a plan that adds to existing rows."""
    counts = {number: plan_inputs.existing_rows(there, target, plan) for number, there, target in ground.sites}
    total = None if None in counts.values() else sum(count or 0 for count in counts.values())
    shards = tuple(shard.model_copy(update={"existing_rows": counts[shard.number]}) for shard in plan.shards)
    plan = plan.model_copy(update={"existing_rows": total, "shards": shards})
    for number, there, target in ground.sites:
        with on_site(number):
            local = plan.on_shard(number) if number else plan
            filled_windows.refuse_existing_rows(session.store, there, target, local, allowed)
    return plan


def _clean_before(session: Session, ground: Ground, plan: Plan, existing: Plan | None, *, force: bool) -> None:
    """
    Kill the queries, drop the staging tables and rename the files of an earlier plan with the same id.

    Raises:
        RequestError: There are staging tables and *force* is False, or a worker of the existing plan is alive.
    """
    left = [
        (server, target, attempt.leftover_tables(server, plan.plan_id, target)) for _, server, target in ground.sites
    ]
    tables = [table for _, _, found in left for table in found]
    if tables and not force:
        raise RequestError(
            f"{len(tables)} staging tables of plan {plan.plan_id} are on the server, such as {tables[0]}, "
            "from a run that this state folder knows nothing of.",
            remedy=Advice(
                "choose the state folder of that run with {}, or pass {} to drop them and plan again",
                Flag("--state-dir"),
                Flag("--force"),
            ),
        )
    if existing is not None:
        run = session.store.open_run(existing).run
        if has_live_worker(run, utc_now()):
            raise RequestError(
                f"{run.count(ChunkStatus.RUNNING)} chunks of plan {existing.plan_id} are running.",
                remedy=Advice("stop it first: {}", command("cancel", existing.plan_id)),
            )
    for server, target, found in left:
        attempt.kill_queries(server, plan.plan_id)
        attempt.drop_tables(server, found, target.replicas)
    if existing is not None:
        session.store.retire_plan(existing.plan_id, f"{utc_now():%Y%m%dT%H%M%S}")


def _meeting(plan: Plan, run: Run) -> Payload:
    """Return a plan with an overlapping window as JSON, with the progress of its run."""
    return {
        "planId": plan.plan_id,
        "from": render_instant(plan.start),
        "to": render_instant(plan.end),
        "status": run.status,
        "done": run.count(ChunkStatus.DONE),
        "total": run.total,
    }


def _plan_payload(session: Session, plan: Plan, target: TableFacts, *, existed: bool) -> Payload:
    return {
        "ok": True,
        "command": "plan",
        "planId": plan.plan_id,
        "target": show_table(plan.target),
        "from": render_instant(plan.start),
        "to": render_instant(plan.end),
        "chunkCount": plan.total_chunks,
        "shards": shards_payload(plan),
        "rowsOfShards": rows_of_shards(plan),
        "chunkHours": None if plan.chunk_hours is None else whole(plan.chunk_hours),
        "chunkLength": plan.chunking.text,
        "chunks": plan.chunking.words,
        "timeColumn": plan.time_column,
        "planPath": session.store.plan_path(plan.plan_id),
        "existed": existed,
        "writeMode": plan.write_mode,
        "modeReason": mode_reason(plan),
        "guarantee": guarantee(plan.write_mode),
        "existingRows": plan.existing_rows,
        "addsUp": adds_up_payload(plan),
        "statements": [
            {"name": s.name, "source": s.source_text, "verifiedAgainstSource": plan.asks_source_again, "reads": s.reads}
            for s in plan.statements
        ],
        "proof": plan.row_proof,
        "missedViews": [str(view) for view in target.views],
        "verify": {"caveat": plan.verify_caveat, "notCompared": list(plan.not_compared)},
        "meetingPlans": [_meeting(other, run) for other, run in meeting_plans(session.store, plan)],
        "next": str(command("status" if existed else "run", plan.plan_id)),
    }
