"""Diagnose a plan or a target, and name the commands that help."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from ..clickhouse import catalog, diagnostics
from ..clickhouse.client import ClickHouse
from ..clickhouse.cluster import one_server
from ..clickhouse.leftovers import live_queries
from ..core.coverage import FilledTwice, find_filled_twice
from ..core.facts import Misalignment, QueryFacts, ServerFacts
from ..core.findings.judge import judge, worst_first
from ..core.findings.registry import Finding, RuleContext, Severity
from ..core.findings.signal import signal_of
from ..core.names import show_table
from ..core.plan import Plan
from ..core.plan_words import guarantee
from ..core.remedy import plan_command
from ..core.replay import select_chunks
from ..core.run_state import ChunkStatus, Run
from ..core.tables import TableName
from ..errors import Advice, Flag, MisalignedError, RequestError, ServerError, StatementRefusedError
from ..state.run_log import RunLog
from . import adding_up, chunk_sizing, plan_inputs
from .filled_windows import meeting_plans
from .lease import utc_now
from .plan_findings import adds_up_payload, finding_payload, plan_case, sentences
from .session import Payload, Session
from .sites import sites_of, target_of, why_another

_NO_SERVER = "ClickHouse: none was named (--clickhouse-url, CLICKHOUSE_URL)"


def diagnose(session: Session, plan_id: str | None = None, target: TableName | None = None) -> Payload:
    """
    Return the diagnosis of a plan, or of a target without a plan, with remedies.

    The server is checked if one is configured. ``notLookedAt`` lists the checks that were not possible.

    Raises:
        RequestError: Neither plan nor target is given, the plan does not exist, or a target comes without a configured
            server.
        ServerError: The server could not be asked about a target without a plan.
    """
    if plan_id is None:
        if target is None:
            raise RequestError(
                "Neither a plan nor a target was named.",
                remedy=Advice("write {} or {}", Flag("--plan-id", "ID"), Flag("--target", "db.table")),
            )
        with session.connected_to_one() as server:
            return _doctor_payload(_target_case(session, server, target), target=show_table(target))
    plan = session.store.load_plan(plan_id)
    log = session.store.open_run(plan)
    twice = _filled_twice(session, plan, log.run)
    case, unseen = replace(plan_case(session, plan, log.run), twice=twice), [_NO_SERVER]
    if session.server is not None:
        try:
            if plan.shards:
                return _doctor_shards(session, log, replace(plan_case(session, plan, log.run), twice=twice))
            with session.connected_to_one() as server:
                facts = inspect_server(session, server, plan)
                # Read the run again after the server check: a chunk's claim is in the log before its query exists.
                case = replace(
                    plan_case(session, plan, log.refresh()),
                    twice=twice,
                    server=without_ended(facts, partial(live_queries, server)),
                )
            unseen = []
        except ServerError as error:
            unseen = [f"ClickHouse: {error.message}"]
    return _doctor_payload(case, target=show_table(plan.target), unseen=unseen)


def _doctor_shards(session: Session, log: RunLog, case: RuleContext) -> Payload:
    """
    Return the diagnosis of a plan and of each of its shards.

    The messages about a shard begin with the shard's name. Shards that cannot be inspected are listed as not looked at.
    """
    more: list[Finding] = []
    unseen: list[str] = []
    with session.connected() as address, sites_of(address, log.plan) as sites:
        for site in sites:
            try:
                server = one_server(site.server)
                plan = site.plan.model_copy(update={"environment": server.address})
                target = target_of(server, plan)
                facts = inspect_server(session, server, plan)
                here = replace(
                    plan_case(session, plan, log.refresh()), server=without_ended(facts, partial(live_queries, server))
                )
            except (ServerError, RequestError) as error:
                unseen.append(f"{site.name}: {error.message}")
                continue
            said = judge(replace(here, server=None))
            found = [finding for finding in judge(here) if finding not in said]
            more += [one._replace(message=f"{_begun(site.name)}: {one.message}") for one in found]
            unseen += [f"{site.name}: {text}" for text in facts.unseen]
            if why := why_another(server, site, target):
                unseen.append(f"{site.name}: {why}")
    return _doctor_payload(case, target=show_table(log.plan.target), unseen=unseen, more=more)


def _begun(text: str) -> str:
    return text[:1].upper() + text[1:]


def _filled_twice(session: Session, plan: Plan, run: Run) -> tuple[FilledTwice, ...]:
    """Return the stretches that both this plan and a second plan of the state folder have filled."""
    stretches = find_filled_twice([(plan, run), *meeting_plans(session.store, plan)])
    return tuple(stretch for stretch in stretches if plan.plan_id in (stretch.first, stretch.second))


def without_ended(facts: ServerFacts, look: Callable[[], Iterable[QueryFacts]]) -> ServerFacts:
    """
    Return the facts without queries that have ended meanwhile, because the claims of such queries may have ended, too.

    Args:
        look: A function that returns the currently running queries. It is not called if the facts have no queries.
    """
    if not facts.queries:
        return facts
    still = {query.query_id for query in look()}
    return replace(facts, queries=tuple(query for query in facts.queries if query.query_id in still))


def inspect_server(session: Session, server: ClickHouse, plan: Plan) -> ServerFacts:
    """
    Return the server facts that the rules need for one plan.

    If a table is missing, or a statement's reads are unknown, the facts have no misfit, cutover or estimate.
    """
    target = plan.target
    sources = list(dict.fromkeys(one.table for one in plan.statements if one.table is not None))
    facts = diagnostics.server_facts(server, target, plan, sources, session.store.plan_ids())
    scans = [scan.facts for scan in facts.scans if scan.facts is not None]
    if facts.storage is None or facts.missing_sources or len(scans) < len(plan.statements):
        return facts
    table = plan_inputs.target_facts(server, target)
    misfit, proposed, judged = None, None, False
    try:
        scans = plan_inputs.read_queries(server, table, plan, scans)
        judged = True
        adding_up.check_bounds(server, table, plan, scans)
    except MisalignedError as error:
        proposal = plan_command(plan, *error.proposal) if error.proposal else None
        misfit = Misalignment(sentences(error), proposal)
    except RequestError as error:
        misfit = Misalignment(sentences(error), None)
    except StatementRefusedError as error:
        judged = False
        facts = replace(facts, unseen=(*facts.unseen, f"chunk bounds: {error.message}"))
    try:
        facts = replace(facts, seam=plan_inputs.cutover(server, table, plan))
    except StatementRefusedError as error:
        facts = replace(facts, unseen=(*facts.unseen, f"rows of the target: {error.message}"))
    estimate = chunk_sizing.estimate_plan(server, plan)
    if estimate is not None and judged:
        try:
            proposed = chunk_sizing.propose_hours(server, table, plan, scans, estimate)
        except StatementRefusedError as error:
            facts = replace(facts, unseen=(*facts.unseen, f"chunk length: {error.message}"))
    return replace(facts, misfit=misfit, estimate=estimate, proposed_hours=proposed)


def _target_case(session: Session, server: ClickHouse, target: TableName) -> RuleContext:
    views = catalog.feeding_views(server, target)
    sources = list(dict.fromkeys(source for view in views for source in view.sources))
    facts = diagnostics.server_facts(server, target, None, sources, session.store.plan_ids())
    return RuleContext(moment=utc_now(), server=facts)


def _doctor_payload(
    case: RuleContext, *, target: str, unseen: Sequence[str] = (), more: Sequence[Finding] = ()
) -> Payload:
    findings = worst_first([*judge(case), *more])
    plan, run, facts = case.plan, case.run, case.server
    sized = {"backfill_chunks_small", "backfill_chunks_large", "backfill_disk_space"}
    proposed = facts.proposed_hours if facts is not None and sized & {finding.code for finding in findings} else None
    failed = [] if plan is None or run is None else [c.id for c in select_chunks(plan, run, ChunkStatus.FAILED)]
    return {
        "ok": not any(finding.severity is Severity.ERROR for finding in findings),
        "command": "doctor",
        "planId": None if plan is None else plan.plan_id,
        "target": target,
        "status": None if run is None else run.status,
        "signal": signal_of(case),
        "issueCodes": sorted({finding.code for finding in findings}),
        "recommendations": list(dict.fromkeys(finding.hint for finding in findings if finding.hint)),
        "failedChunkIds": failed,
        "findings": [finding_payload(finding) for finding in findings],
        "guarantee": None if plan is None else guarantee(plan.write_mode),
        "addsUp": None if plan is None else adds_up_payload(plan),
        "estimate": None if facts is None else chunk_sizing.estimate_payload(facts.estimate, proposed),
        "pace": None if run is None else mean_pace(run),
        "notLookedAt": [*unseen, *(facts.unseen if facts is not None else ())],
    }


def mean_pace(run: Run) -> Payload | None:
    """
    Return the mean seconds per done chunk and the rows per second, as JSON.

    Return None if no chunk is done, or if the total duration of the done chunks is 0.
    """
    done = run.count(ChunkStatus.DONE)
    if not done or not run.seconds:
        return None
    each = run.seconds / done
    return {
        "secondsPerChunk": round(each, 3),
        "rowsPerSecond": round(run.rows / run.seconds),
    }
