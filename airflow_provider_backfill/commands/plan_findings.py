"""Judge one plan from the state folder, and convert findings, remedies and errors to JSON or text."""

from datetime import timedelta

from ..core.findings.registry import Finding, RuleContext
from ..core.plan import Plan
from ..core.run_state import Run
from ..errors import BackfillError, Remedy
from .lease import owner_is_dead, utc_now
from .session import Payload, Session


def plan_case(
    session: Session, plan: Plan, run: Run, *, max_age: timedelta | None = None, gate: bool = False
) -> RuleContext:
    """
    Return the rules' input for one plan from the state folder, without facts about the server.

    Args:
        max_age: The age from which an unfinished plan is an error; None means any age.
        gate: Whether ``check`` asks; only then is an unfinished plan an error.
    """
    moment = utc_now()
    return RuleContext(
        moment=moment,
        plan=plan,
        run=run,
        dead=frozenset(owner for owner in run.workers if owner_is_dead(run, owner, moment)),
        required=session.options.policy.fail_check_on_required_pending_backfill,
        max_age=max_age,
        gate=gate,
    )


def state_findings(session: Session, plan: Plan, run: Run) -> list[Payload]:
    """Return a plan's findings from the state folder as JSON, without the finding that the plan is unfinished."""
    # Imported here, because listing plans needs no rules.
    from ..core.findings.judge import judge

    found = judge(plan_case(session, plan, run))
    return [finding_payload(finding) for finding in found if finding.code != "backfill_required_pending"]


def finding_payload(finding: Finding) -> Payload:
    """Return a finding as JSON, with its remedy in the words of the command line."""
    return {
        "code": finding.code,
        "severity": finding.severity,
        "message": finding.message,
        "planId": finding.plan_id,
        **remedy_payload(finding.remedy),
    }


def remedy_payload(remedy: Remedy | None) -> Payload:
    """Return a remedy as JSON: its text, and its kind (``command``, ``sql`` or ``advice``); empty texts for None."""
    return {"hint": "", "remedy": ""} if remedy is None else {"hint": str(remedy), "remedy": remedy.kind}


def adds_up_payload(plan: Plan) -> Payload | None:
    """Return the evidence that a plan's chunks add up, as JSON; None for plans of older versions."""
    return None if plan.adds_up is None else plan.adds_up.model_dump(mode="json", by_alias=True)


def sentences(error: BackfillError) -> str:
    """Return an error's message and hint as full sentences; without a hint, return only the message."""
    hint = f" {error.hint[0].upper()}{error.hint[1:]}." if error.hint else ""
    return f"{error.message}{hint}"
