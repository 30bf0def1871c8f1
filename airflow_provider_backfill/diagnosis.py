"""
What is wrong, what is missing, what is proven: ``doctor``, ``check`` and ``coverage``.

They gather cases for the rules, from the state folder one plan at a time, and from a server
where there is one to ask; the rules judge. Nothing is changed, and what could not be looked at
is said.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from . import planning, sizing
from .clickhouse import health, inspect
from .clickhouse.client import Server
from .core import checks
from .core.checks import Case, Covered, Declared
from .core.facts import Misfit, ServerFacts
from .core.identity import render_instant
from .core.model import ChunkStatus, Finding, Plan, Run, RunStatus, Severity, TableName
from .core.run import expand, select_chunks
from .core.statements import parse_table, show_table
from .errors import BackfillError, DamagedStateError, RequestError, ServerError
from .session import Payload, Session
from .worker import now, owner_is_dead

_NO_SERVER = "ClickHouse: none was named (--clickhouse-url, CLICKHOUSE_URL)"


def plan_case(session: Session, plan: Plan, run: Run, *, max_age: timedelta | None = None) -> Case:
    """The case of one plan, as far as the state folder knows it; for status and the page as well."""
    moment = now()
    return Case(
        moment=moment,
        plan=plan,
        run=run,
        dead=frozenset(owner for owner in run.workers if owner_is_dead(run, owner, moment)),
        required=session.options.policy.fail_check_on_required_pending_backfill,
        max_age=max_age,
    )


def state_findings(session: Session, plan: Plan, run: Run) -> list[Payload]:
    """What the rules find in the state folder alone, beside what a status says itself."""
    found = checks.judge(plan_case(session, plan, run))
    return [finding_payload(finding) for finding in found if finding.code != "backfill_required_pending"]


# ---------------------------------------------------------------- check


@dataclass(slots=True)
class _Tally:
    """What ``check`` counts while it goes through the plans."""

    evaluated: int = 0
    pending: int = 0
    active: int = 0
    failed: int = 0
    waived: int = 0
    planned: dict[str, list[Covered]] = field(default_factory=dict)


def check(
    session: Session,
    target: TableName | None = None,
    *,
    max_age: timedelta | None = None,
    declared: Sequence[Declared] = (),
) -> Payload:
    """
    Whether every required backfill is finished, for a CI job; needs no ClickHouse.

    A damaged plan is a finding of its own; the others are still judged. One plan is in memory at a time.

    Args:
        target: Look only at the plans of this table.
        max_age: An unfinished plan is only a warning until it is older.
        declared: Backfills that must have a plan.
    """
    wanted = None if target is None else show_table(target)
    mine = [entry for entry in declared if wanted in (None, entry.target)]
    targets = {entry.target for entry in mine}
    required = session.options.policy.fail_check_on_required_pending_backfill
    findings = checks.judge(Case(moment=now(), required=required))
    tally = _Tally()
    for name, found in session.store.runs(session.store.plan_ids(), brief=True):
        if isinstance(found, DamagedStateError):
            # The plan's own file may be sound.
            made, case = _sound_plan(session, name), _damage_case(name, found)
        elif isinstance(found, BackfillError):
            raise found
        else:
            made, run = found
            case = plan_case(session, made, run, max_age=max_age)
        if made is not None and wanted not in (None, made.target):
            continue
        _count(tally, case, made, targets)
        findings += checks.judge(case)
    missing = tuple(
        (entry, *gap)
        for entry in mine
        for gap in checks.gaps(checks.merge(tally.planned.get(entry.target, ())), entry.start, entry.end)
    )
    findings = checks.worst_first([*findings, *checks.judge(Case(moment=now(), missing=missing))])
    return _check_payload(findings, tally, len(missing))


def _sound_plan(session: Session, plan_id: str) -> Plan | None:
    try:
        return session.store.find_plan(plan_id)
    except DamagedStateError:
        return None


def _damage_case(plan_id: str, error: DamagedStateError) -> Case:
    """A damaged plan: the command in the error's hint is the remedy, other advice belongs to the message."""
    advised = re.search(r"`(clickhouse-backfill [^`]+)`", error.hint)
    damage = error.message if advised is not None else _sentences(error)
    return Case(moment=now(), about=plan_id, damage=damage, remedy=advised[1] if advised is not None else "")


def _count(tally: _Tally, case: Case, made: Plan | None, targets: set[str]) -> None:
    run = case.run
    if made is not None and made.target in targets and not (run is not None and run.cancelled):
        tally.planned.setdefault(made.target, []).append(Covered(made.start, made.end, (made.plan_id,)))
    if run is None:
        return
    tally.evaluated += 1
    tally.waived += case.waived and not case.finished
    tally.pending += not case.finished and not case.waived
    tally.active += run.status is RunStatus.RUNNING
    tally.failed += run.status is RunStatus.FAILED


def _check_payload(findings: Sequence[Finding], tally: _Tally, missing: int) -> Payload:
    ok = not any(finding.severity is Severity.ERROR for finding in findings)
    return {
        "ok": ok,
        "command": "check",
        "failedChecks": [] if ok else ["plugin:backfill"],
        "plugins": {
            "backfill": {
                "evaluated": tally.evaluated,
                "ok": ok,
                "findingCodes": sorted({finding.code for finding in findings}),
                "findings": [finding_payload(finding) for finding in findings],
                "requiredCount": tally.pending + missing,
                "activeRuns": tally.active,
                "failedRuns": tally.failed,
                "waivedCount": tally.waived,
            }
        },
    }


def finding_payload(finding: Finding) -> Payload:
    """A finding as JSON."""
    return {
        "code": finding.code,
        "severity": finding.severity,
        "message": finding.message,
        "planId": finding.plan_id,
        "hint": finding.hint,
    }


# ---------------------------------------------------------------- doctor


def doctor(session: Session, wanted: str | None = None, target: TableName | None = None) -> Payload:
    """
    What is wrong with a plan, or with a target before there is a plan, and what to type.

    Looks at the server when there is one; says what it could not look at.

    Raises:
        RequestError: No such plan; a target without a server to ask.
    """
    if wanted is None:
        if target is None:
            raise RequestError("Neither a plan nor a target was named.", hint="write --plan-id ID or --target db.table")
        with session.connected() as server:
            return _doctor_payload(_target_case(session, server, target), target=show_table(target))
    made = session.store.load_plan(wanted)
    log = session.store.open_run(made)
    case, unseen = plan_case(session, made, log.run), [_NO_SERVER]
    if session.server is not None:
        try:
            with session.connected() as server:
                facts = look_at(session, server, made)
                # Read again after the look: a claim is on disk before its query exists.
                case = replace(plan_case(session, made, log.refresh()), server=_settled(server, facts))
            unseen = []
        except ServerError as error:
            unseen = [f"ClickHouse: {error.message}"]
    return _doctor_payload(
        case, target=made.target, unseen=unseen, parallel=session.options.defaults.max_parallel_chunks
    )


def _settled(server: Server, facts: ServerFacts) -> ServerFacts:
    """The facts without queries that have ended since: their claims may have ended with them."""
    if not facts.queries:
        return facts
    still = {query.query_id for query in health.live_queries(server)}
    return replace(facts, queries=tuple(query for query in facts.queries if query.query_id in still))


def look_at(session: Session, server: Server, made: Plan) -> ServerFacts:
    """Everything the rules want to know of the server for one plan."""
    target = parse_table(made.target, "target")
    sources = list(dict.fromkeys(parse_table(statement.source, "source") for statement in made.statements))
    facts = health.server_facts(server, target, made, sources, session.store.plan_ids())
    scans = [scan.facts for scan in facts.scans if scan.facts is not None]
    if facts.storage is None or facts.missing_sources or len(scans) < len(made.statements):
        return facts
    table = planning.target_facts(server, target)
    misfit = None
    try:
        planning.check_bounds(server, table, made, scans)
    except RequestError as error:
        flags = re.findall(r"--(?:from|to|chunk-hours) [^\s,]+", error.hint)
        misfit = Misfit(_sentences(error), checks.plan_command(made, *flags) if flags else "")
    except ServerError as error:
        if error.code is None:
            raise
        facts = replace(facts, unseen=(*facts.unseen, f"chunk bounds: {error.message}"))
    try:
        facts = replace(facts, seam=planning.seam(server, table, made))
    except ServerError as error:
        if error.code is None:
            raise
        facts = replace(facts, unseen=(*facts.unseen, f"rows of the target: {error.message}"))
    estimate = sizing.estimate_plan(server, made)
    proposed = None if estimate is None else sizing.propose_hours(server, table, made, scans, estimate)
    return replace(facts, misfit=misfit, estimate=estimate, proposed_hours=proposed)


def _sentences(error: BackfillError) -> str:
    hint = f" {error.hint[0].upper()}{error.hint[1:]}." if error.hint else ""
    return f"{error.message}{hint}"


def _target_case(session: Session, server: Server, target: TableName) -> Case:
    views = inspect.feeding_views(server, target)
    sources = list(dict.fromkeys(source for view in views for source in view.sources))
    facts = health.server_facts(server, target, None, sources, session.store.plan_ids())
    return Case(moment=now(), server=facts)


def _doctor_payload(case: Case, *, target: str, unseen: Sequence[str] = (), parallel: int = 1) -> Payload:
    findings = checks.judge(case)
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
        "issueCodes": sorted({finding.code for finding in findings}),
        "recommendations": list(dict.fromkeys(finding.hint for finding in findings if finding.hint)),
        "failedChunkIds": failed,
        "findings": [finding_payload(finding) for finding in findings],
        "guarantee": None if plan is None else plan.guarantee,
        "estimate": None if facts is None else sizing.estimate_payload(facts.estimate, proposed),
        "pace": None if run is None else pace(run, parallel),
        "notLookedAt": [*unseen, *(facts.unseen if facts is not None else ())],
    }


def pace(run: Run, parallel: int) -> Payload | None:
    """How long a chunk took so far and what is left at that rate; None until a chunk is done."""
    done = run.count(ChunkStatus.DONE)
    if not done or not run.seconds:
        return None
    each = run.seconds / done
    left = run.count(ChunkStatus.PENDING) + run.count(ChunkStatus.RUNNING)
    return {
        "secondsPerChunk": round(each, 3),
        "rowsPerSecond": round(run.rows / run.seconds),
        "secondsLeft": round(each * left / max(parallel, 1), 1),
    }


# ---------------------------------------------------------------- coverage


def coverage(session: Session, target: TableName, start: datetime, end: datetime) -> Payload:
    """
    Which parts of ``[start, end)`` of a target are proven filled, by done chunks of any plan; needs no ClickHouse.

    A done chunk is proof: its rows were verified and published before the event was written. What
    a plan on another ClickHouse has filled does not count together: each one is listed by itself.

    Raises:
        RequestError: The window is empty.
    """
    if start >= end:
        raise RequestError(
            f"The window is empty: from {render_instant(start)} is not before to {render_instant(end)}.",
            hint="the end is exclusive; to cover 1 January, pass --to 2026-01-02",
        )
    name = show_table(target)
    by_server: dict[str, list[Covered]] = {}
    damaged = []
    for plan_id in session.store.plan_ids():
        try:
            made = session.store.load_plan(plan_id)
            if made.target != name or made.end <= start or made.start >= end:
                continue
            run = session.store.open_run(made).run
        except DamagedStateError as error:
            damaged.append({"planId": plan_id, "message": error.message})
            continue
        stretches = [*by_server.get(made.environment, ()), *_done(made, run, start, end)]
        by_server[made.environment] = checks.merge(stretches)
    servers = [_coverage_of(where, merged, start, end) for where, merged in sorted(by_server.items())]
    gaps = servers[0]["gaps"] if len(servers) == 1 else [] if servers else [_stretch(start, end)]
    ok = bool(servers) and all(not entry["gaps"] for entry in servers) and not damaged
    payload: Payload = {
        "ok": ok,
        "command": "coverage",
        "target": name,
        "from": render_instant(start),
        "to": render_instant(end),
        "servers": servers,
        "gaps": gaps,
        "damaged": damaged,
    }
    return payload


def _done(made: Plan, run: Run, start: datetime, end: datetime) -> Iterator[Covered]:
    """What the plan's done chunks fill of the window."""
    if run.status is RunStatus.COMPLETED:
        yield Covered(max(made.start, start), min(made.end, end), (made.plan_id,))
        return
    for planned in made.chunks():
        if planned.end <= start or planned.start >= end:
            continue
        for chunk in expand(run, planned):
            if run.state(chunk.id).status is ChunkStatus.DONE and chunk.end > start and chunk.start < end:
                yield Covered(max(chunk.start, start), min(chunk.end, end), (made.plan_id,))


def _coverage_of(where: str, merged: Iterable[Covered], start: datetime, end: datetime) -> Payload:
    stretches = list(merged)
    filled = sum((stretch.end - stretch.start for stretch in stretches), timedelta())
    return {
        "environment": where,
        "covered": [{**_stretch(first, last), "planIds": list(plans)} for first, last, plans in stretches],
        "gaps": [_stretch(first, last) for first, last in checks.gaps(stretches, start, end)],
        "share": round(filled / (end - start), 6),
    }


def _stretch(start: datetime, end: datetime) -> Payload:
    return {"from": render_instant(start), "to": render_instant(end)}
