"""
Guards before a run and findings for ``check``, ``doctor``, ``status`` and the page: one rule set for all.

Here stand the rules that need the state folder only; :mod:`.server_checks` has those that need a
look at ClickHouse. Pure: liveness and server facts come in as values.
"""

import shlex
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from .identity import render_instant
from .model import ChunkStatus, Finding, Plan, Run, RunStatus, Severity
from .rules import PROGRAM, Case, Declared, Found, Needs, Rule, RuleBook, command, plan_command, short_instant
from .server_checks import SERVER_RULES, open_window

__all__ = [
    "PROGRAM",
    "RULES",
    "Case",
    "Covered",
    "Declared",
    "command",
    "gaps",
    "judge",
    "merge",
    "next_step",
    "open_window",
    "overlaps",
    "plan_command",
    "short_instant",
    "worst_first",
]

_ORDER = (Severity.ERROR, Severity.WARN, Severity.INFO)
_STATE = RuleBook(Needs.STATE)


class Covered(NamedTuple):
    """A half-open stretch of a target's time, and the plans that cover it."""

    start: datetime
    end: datetime
    plans: tuple[str, ...]


# ---------------------------------------------------------------- guards


def overlaps(plan: Plan, others: Iterable[tuple[Plan, Run]]) -> list[Plan]:
    """The other plans on the same target whose window intersects the plan's; both are half-open."""
    return [
        other
        for other, _ in others
        if other.plan_id != plan.plan_id
        and other.target == plan.target
        and other.start < plan.end
        and plan.start < other.end
    ]


def next_step(plan: Plan, run: Run, dead: Iterable[str] = ()) -> str:
    """
    The command that brings the plan nearer to its end; empty when it is there.

    Args:
        dead: The run's workers that are gone: when no other is left, their work waits for a resume.
    """
    gone = set(dead)
    if run.status is RunStatus.COMPLETED:
        return ""
    if run.status is RunStatus.PLANNED:
        return command("run", plan.plan_id)
    if run.status is RunStatus.RUNNING and not (gone and gone >= set(run.workers)):
        return command("status", plan.plan_id, "--watch")
    return command("resume", plan.plan_id)


# ---------------------------------------------------------------- coverage


def merge(stretches: Iterable[Covered]) -> list[Covered]:
    """The stretches in time order, those that touch or overlap made one."""
    merged: list[Covered] = []
    for start, end, plans in sorted(stretches):
        if merged and start <= merged[-1].end:
            last = merged[-1]
            both = tuple(dict.fromkeys((*last.plans, *plans)))
            merged[-1] = Covered(last.start, max(last.end, end), both)
        else:
            merged.append(Covered(start, end, plans))
    return merged


def gaps(merged: Iterable[Covered], start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Yield what ``[start, end)`` has outside the stretches, which are merged."""
    at = start
    for stretch in merged:
        if stretch.end <= at or stretch.start >= end:
            continue
        if stretch.start > at:
            yield at, stretch.start
        at = max(at, stretch.end)
    if at < end:
        yield at, end


# ---------------------------------------------------------------- judging


def judge(case: Case) -> list[Finding]:
    """Everything the rules find in a case, the worst first."""
    # Without a look at the server its rules have nothing to say, and check has thousands of plans.
    rules = RULES if case.server is not None else _STATE
    return worst_first(finding for rule in rules for finding in rule.judge(case))


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """The findings by severity, otherwise in the order they came."""
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))


# ---------------------------------------------------------------- rules


@_STATE.rule(
    "backfill_state_damaged",
    Severity.ERROR,
    "A file of the plan does not hold what it must; the message names file and line. The other plans are judged.",
    remedy="`repair`, which keeps the damaged file beside; for a plan's own file a backup, or a new plan",
)
def _damaged(case: Case) -> Iterator[Found]:
    if case.damage:
        yield Found(case.damage, case.remedy)


@_STATE.rule(
    "backfill_plan_missing",
    Severity.ERROR,
    "A backfill that a `--required` file declares has no plan for all of its window.",
    remedy="`plan` for the part that is missing",
)
def _plan_missing(case: Case) -> Iterator[Found]:
    for declared, start, end in case.missing:
        by = f", owner {declared.owner}" if declared.owner else ""
        why = f": {declared.reason}" if declared.reason else ""
        yield Found(
            f"{declared.where} declares a backfill of {declared.target} from {render_instant(declared.start)} "
            f"to {render_instant(declared.end)}{by}{why}. No plan covers {render_instant(start)} "
            f"to {render_instant(end)}.",
            f"{PROGRAM} plan --target {shlex.quote(declared.target)} --from {short_instant(start)} "
            f"--to {short_instant(end)}",
        )


@_STATE.rule(
    "backfill_required_pending",
    Severity.ERROR,
    "The plan is not completed. A warning when `policy.failCheckOnRequiredPendingBackfill` is false, or while the "
    "plan is younger than `--max-age`.",
    remedy="`run`, `resume`, or `waive` when it need not be finished",
)
def _pending(case: Case) -> Iterator[Found]:
    plan, run = case.plan, case.run
    if plan is None or run is None or run.status is RunStatus.COMPLETED or case.waived:
        return
    young = case.max_age is not None and case.moment - plan.created_at < case.max_age
    age = f", planned {_age(case.moment - plan.created_at)} ago" if case.max_age is not None else ""
    yield Found(
        f"The backfill of {plan.target} from {render_instant(plan.start)} to {render_instant(plan.end)} "
        f"is {run.status}: {run.count(ChunkStatus.DONE)} of {run.total} chunks are done{age}.",
        next_step(plan, run, case.dead),
        Severity.WARN if young or not case.required else None,
    )


def _age(age: timedelta) -> str:
    hours = age / timedelta(hours=1)
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"


@_STATE.rule(
    "backfill_chunk_failed_retry_exhausted",
    Severity.ERROR,
    "Chunks have failed for good: no attempt is left, or the error is one that a retry does not mend.",
    remedy="mend the cause in the message, then `resume`",
)
def _failed(case: Case) -> Iterator[Found]:
    if case.plan is None or case.run is None or case.waived:
        return
    failed = case.run.count(ChunkStatus.FAILED)
    if failed:
        yield Found(
            f"{failed} of {case.run.total} chunks of {case.plan.target} failed for good; "
            f"the last error: {case.run.last_error}",
            command("resume", case.plan.plan_id),
        )


@_STATE.rule(
    "backfill_claim_stuck",
    Severity.ERROR,
    "Workers that are gone still hold chunks; nobody executes them.",
    remedy="`resume`, which takes the claims over, or `cancel` with the address of the ClickHouse, which frees them",
)
def _stuck(case: Case) -> Iterator[Found]:
    if case.plan is None or case.run is None:
        return
    held = {owner: worker for owner, worker in case.run.workers.items() if owner in case.dead}
    if held:
        chunks = sum(worker.claims for worker in held.values())
        seen = max(worker.seen_at for worker in held.values())
        yield Found(
            f"{chunks} chunks of {case.plan.target} are claimed by workers that are gone "
            f"({', '.join(sorted(held))}), last heard of at {render_instant(seen)}.",
            command("cancel" if case.run.cancelled else "resume", case.plan.plan_id),
        )


@_STATE.rule(
    "backfill_run_waits",
    Severity.WARN,
    "A worker waits before its next chunk until the server has room: parts, merges, memory, disk or replica.",
    remedy="nothing, it goes on by itself; or `resume --max-load` with another percentage",
)
def _waits(case: Case) -> Iterator[Found]:
    if case.plan is not None and case.run is not None and case.run.held and not case.finished:
        yield Found(f"The backfill of {case.plan.target} waits for the server: {case.run.held}.")


@_STATE.rule(
    "backfill_waived",
    Severity.INFO,
    "The plan need not be finished, as somebody has said; it is shown and not counted.",
    remedy="`run` or `resume` ends the waiver",
)
def _waived(case: Case) -> Iterator[Found]:
    if case.plan is None or case.run is None or not case.waived or case.run.waiver is None:
        return
    waiver = case.run.waiver
    until = f" until {render_instant(waiver.until)}" if waiver.until is not None else ""
    instead = f"; plan {waiver.superseded_by} does its work" if waiver.superseded_by else ""
    yield Found(
        f"The backfill of {case.plan.target} from {render_instant(case.plan.start)} to "
        f"{render_instant(case.plan.end)} is waived{until} by {waiver.by}: {waiver.reason}{instead}."
    )


@_STATE.rule(
    "backfill_policy_relaxed",
    Severity.WARN,
    "`policy.failCheckOnRequiredPendingBackfill` is false, so unfinished backfills only warn.",
    remedy="set it to true",
)
def _relaxed(case: Case) -> Iterator[Found]:
    if case.plan is None and not case.about and case.server is None and not case.missing and not case.required:
        yield Found(
            "policy.failCheckOnRequiredPendingBackfill is false, so unfinished backfills do not fail this check; "
            "set it to true to make them fail."
        )


RULES: tuple[Rule, ...] = (*_STATE, *SERVER_RULES)
