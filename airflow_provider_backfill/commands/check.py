"""Check whether every required backfill is finished."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from ..core.coverage import CoveredInterval, merge_intervals, missing_intervals, plans_of_earlier_tables
from ..core.findings.judge import judge, worst_first
from ..core.findings.registry import Finding, RequiredBackfill, RuleContext, Severity
from ..core.findings.signal import Signal, signal_of
from ..core.plan import Plan
from ..core.run_state import ChunkStatus, RunStatus
from ..core.tables import TableName
from ..core.window import Window
from ..errors import BackfillError, DamagedStateError, command_of
from .filled_windows import filled_twice
from .lease import utc_now
from .plan_findings import finding_payload, plan_case, sentences
from .session import Payload, Session


@dataclass(slots=True)
class _Tally:
    """
    The facts that ``check`` collects over all plans.

    Attributes:
        evaluated: Number of plans whose run could be read.
        pending: Number of plans that still have to be finished: neither completed nor waived nor undone.
        active: Number of plans whose run is running.
        failed: Number of plans whose run has failed.
        waived: Number of unfinished plans with a waiver that holds.
        planned: The plans of each declared target, except cancelled plans.
        signals: Number of plans by signal.
        fills: The plans with done chunks, by the table that they fill.
    """

    evaluated: int = 0
    pending: int = 0
    active: int = 0
    failed: int = 0
    waived: int = 0
    planned: dict[TableName, list[Plan]] = field(default_factory=dict)
    signals: Counter[Signal] = field(default_factory=Counter)
    fills: dict[TableName, list[Plan]] = field(default_factory=dict)


def check_backfills(
    session: Session,
    target: TableName | None = None,
    *,
    max_age: timedelta | None = None,
    declared: Sequence[RequiredBackfill] = (),
) -> Payload:
    """
    Check whether every required backfill is finished, for a CI job; no ClickHouse is needed.

    A damaged plan is reported as a finding, and the other plans are still judged.

    Args:
        target: The table whose plans and declared backfills are checked; None for all tables.
        max_age: The age from which an unfinished plan is an error instead of a warning; with None, an unfinished plan
            of any age is an error. If the policy does not require backfills, unfinished plans are always warnings.
        declared: Backfills that must have a plan.

    Returns:
        The findings and counts; ``ok`` is False if a finding is an error.

    Raises:
        StateError: A plan could not be read for a reason other than damage.
    """
    mine = [entry for entry in declared if target in (None, entry.target)]
    targets = {entry.target for entry in mine}
    required = session.options.policy.fail_check_on_required_pending_backfill
    findings = judge(RuleContext(moment=utc_now(), required=required))
    tally = _Tally()
    for name, found in session.store.runs(session.store.plan_ids(), brief=True):
        if isinstance(found, DamagedStateError):
            # If only the run is damaged, the plan can still be read.
            plan, case = _sound_plan(session, name), _damage_case(name, found)
        elif isinstance(found, BackfillError):
            raise found
        else:
            plan, run = found
            case = plan_case(session, plan, run, max_age=max_age, gate=True)
        if plan is not None and target is not None and not plan.is_called(target):
            continue
        _count(tally, case, plan, targets)
        findings += judge(case)
    if not session.store.plan_ids():
        absent = session.store.backend.where("")
        findings += judge(RuleContext(moment=utc_now(), gate=bool(mine), absent=absent))
    missing = tuple(
        (entry, *gap)
        for entry in mine
        for gap in missing_intervals(
            merge_intervals(_windows(tally.planned.get(entry.target, ()))), Window(entry.start, entry.end)
        )
    )
    for plans in tally.fills.values():
        twice = tuple(filled_twice(session.store, plans))
        # Report each stretch under the later of its two plans, in one finding per plan.
        for name in dict.fromkeys(stretch.second for stretch in twice):
            theirs = tuple(stretch for stretch in twice if stretch.second == name)
            findings += judge(RuleContext(moment=utc_now(), about=name, twice=theirs))
    findings = worst_first([*findings, *judge(RuleContext(moment=utc_now(), missing=missing))])
    return _check_payload(findings, tally, len(missing))


def _windows(plans: Sequence[Plan]) -> list[CoveredInterval]:
    """Return the windows of the plans of a target, except plans of an earlier table of its name."""
    earlier = plans_of_earlier_tables(plans)
    return [CoveredInterval(one.start, one.end, (one.plan_id,)) for one in plans if one.plan_id not in earlier]


def _sound_plan(session: Session, plan_id: str) -> Plan | None:
    try:
        return session.store.find_plan(plan_id)
    except DamagedStateError:
        return None


def _damage_case(plan_id: str, error: DamagedStateError) -> RuleContext:
    """
    Return the rules' input for a damaged plan.

    The first command in the error's remedy becomes the remedy of the finding. Without a command, the error's hint
    becomes part of the message.
    """
    advised = command_of(error.remedy)
    damage = error.message if advised is not None else sentences(error)
    return RuleContext(moment=utc_now(), about=plan_id, damage=damage, remedy=advised)


def _count(tally: _Tally, case: RuleContext, plan: Plan | None, targets: set[TableName]) -> None:
    run = case.run
    for target in targets if plan is not None and not (run is not None and run.cancelled) else ():
        if plan is not None and plan.is_called(target):
            tally.planned.setdefault(target, []).append(plan)
    if run is None:
        tally.signals[signal_of(case)] += 1
        return
    if plan is not None and run.count(ChunkStatus.DONE):
        tally.fills.setdefault(plan.shard_table or plan.target, []).append(plan)
    tally.evaluated += 1
    tally.waived += case.waived and not case.finished
    tally.pending += not case.finished and not case.waived and run.status is not RunStatus.UNDONE
    tally.signals[signal_of(case)] += 1
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
                "signals": {which.value: tally.signals[which] for which in Signal},
            }
        },
    }
