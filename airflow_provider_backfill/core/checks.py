"""
Guards before a run and findings for ``check`` and ``doctor``: one rule set for all of them.

Pure: liveness and server facts come in as values. A finding's hint is a command that works
when pasted.
"""

from collections.abc import Iterable

from .identity import render_instant
from .model import ChunkStatus, Finding, Plan, Run, RunStatus, Severity


def command(verb: str, plan_id: str, *flags: str) -> str:
    """The command line for a person to paste."""
    return " ".join(["clickhouse-backfill", verb, "--plan-id", plan_id, *flags])


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


def required_findings(plan: Plan, run: Run, *, required: bool) -> list[Finding]:
    """
    What ``check`` says of one plan.

    Args:
        required: The policy ``failCheckOnRequiredPendingBackfill``: whether an unfinished plan is an error.
    """
    findings = []
    if run.status is not RunStatus.COMPLETED:
        done, total = run.count(ChunkStatus.DONE), run.total
        findings.append(
            Finding(
                "backfill_required_pending",
                Severity.ERROR if required else Severity.WARN,
                plan.plan_id,
                f"The backfill of {plan.target} from {render_instant(plan.start)} to {render_instant(plan.end)} "
                f"is {run.status}: {done} of {total} chunks are done.",
                next_step(plan, run),
            )
        )
    failed = run.count(ChunkStatus.FAILED)
    if failed:
        findings.append(
            Finding(
                "backfill_chunk_failed_retry_exhausted",
                Severity.ERROR,
                plan.plan_id,
                f"{failed} of {run.total} chunks of {plan.target} failed for good; the last error: {run.last_error}",
                command("resume", plan.plan_id),
            )
        )
    return findings


def policy_findings(*, required: bool) -> list[Finding]:
    """What ``check`` says of a policy that makes it forgiving."""
    if required:
        return []
    return [
        Finding(
            "backfill_policy_relaxed",
            Severity.WARN,
            "",
            "policy.failCheckOnRequiredPendingBackfill is false, so unfinished backfills do not fail this check.",
            "set it to true to make them fail",
        )
    ]


def stuck_findings(plan: Plan, run: Run, dead: Iterable[str]) -> list[Finding]:
    """Claims of workers in *dead*: the chunks they hold go on when somebody resumes."""
    owners = set(dead)
    held = [state for state in run.chunks.values() if state.status is ChunkStatus.RUNNING and state.owner in owners]
    if not held:
        return []
    return [
        Finding(
            "backfill_claim_stuck",
            Severity.ERROR,
            plan.plan_id,
            f"{len(held)} chunks are claimed by workers that are gone ({', '.join(sorted(owners))}).",
            command("resume", plan.plan_id),
        )
    ]


def next_step(plan: Plan, run: Run) -> str:
    """The command that brings the plan nearer to its end; empty when it is there."""
    match run.status:
        case RunStatus.COMPLETED:
            return ""
        case RunStatus.PLANNED:
            return command("run", plan.plan_id)
        case RunStatus.RUNNING:
            return command("status", plan.plan_id, "--watch")
        case _:
            return command("resume", plan.plan_id)
