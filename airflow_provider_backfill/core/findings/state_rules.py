"""Define the rules that need the state folder only."""

from collections.abc import Iterable, Iterator
from datetime import timedelta

from ...errors import Advice, Command, Flag
from ..failures import short_error
from ..instants import render_instant, short_instant
from ..names import show_table
from ..plain_text import show_number, state_words
from ..plan import Plan, Proof
from ..remedy import command
from ..run_state import ChunkStatus, Run, RunStatus
from .registry import Match, RuleContext, RuleRegistry, RuleScope, Severity
from .signal import Signal, signal_of

STATE_RULES = RuleRegistry(RuleScope.STATE)


def next_step(plan: Plan, run: Run, dead: Iterable[str] = ()) -> Command | None:
    """
    Return the command that runs, watches, resumes or undoes the plan next; None for a completed plan.

    A plan is undone next if its undo has begun and is not finished.

    Args:
        dead: The names of the dead workers of the run. If the run's status is ``running`` and all its workers are
            dead, the command is ``resume``.
    """
    gone = set(dead)
    if run.status is RunStatus.COMPLETED:
        return None
    if run.undoing:
        return command("undo", plan.plan_id)
    if run.status is RunStatus.PLANNED:
        return command("run", plan.plan_id)
    if run.status is RunStatus.RUNNING and not (gone and gone >= set(run.workers)):
        return command("status", plan.plan_id, "--watch")
    return command("resume", plan.plan_id)


@STATE_RULES.rule(
    "backfill_state_damaged",
    Severity.ERROR,
    "A state file of the plan is corrupt; the message names file and line. Other plans are still checked.",
    remedy="`repair`, which keeps the damaged file under another name; for a damaged plan file a backup, or a new plan",
)
def _damaged(case: RuleContext) -> Iterator[Match]:
    if case.damage:
        yield Match(case.damage, case.remedy)


@STATE_RULES.rule(
    "backfill_state_absent",
    Severity.WARN,
    "`check` found no plan: the state folder is empty or missing. An error if a `--required` file declares backfills.",
    remedy="set `--state-dir` or `CLICKHOUSE_BACKFILL_STATE_DIR` to the folder of the plans",
)
def _absent(case: RuleContext) -> Iterator[Match]:
    if case.absent:
        yield Match(
            f"There is no plan in {case.absent}, so nothing was checked.",
            Advice("name the folder of the plans with {}", Flag("--state-dir")),
            Severity.ERROR if case.gate else None,
        )


@STATE_RULES.rule(
    "backfill_plan_missing",
    Severity.ERROR,
    "A backfill in the `--required` file has no plan for all of its window.",
    remedy="`plan` for the missing part",
)
def _plan_missing(case: RuleContext) -> Iterator[Match]:
    for declared, start, end in case.missing:
        by = f", owner {declared.owner}" if declared.owner else ""
        why = f": {declared.reason}" if declared.reason else ""
        yield Match(
            f"{declared.where} declares a backfill of {declared.target} from {render_instant(declared.start)} "
            f"to {render_instant(declared.end)}{by}{why}. No plan covers {render_instant(start)} "
            f"to {render_instant(end)}.",
            Command(
                "plan",
                flags=(
                    Flag("--target", show_table(declared.target)),
                    Flag("--from", short_instant(start)),
                    Flag("--to", short_instant(end)),
                ),
            ),
        )


@STATE_RULES.rule(
    "backfill_required_pending",
    Severity.ERROR,
    "The plan is not completed. An error in `check`; a warning if `policy.failCheckOnRequiredPendingBackfill` "
    "is false, or while the plan is younger than `--max-age`. Elsewhere a warning while the plan waits for a "
    "person, and information during a run.",
    remedy="`run`, `resume`, `undo` to finish an undo, or `waive` if the plan is not required",
)
def _pending(case: RuleContext) -> Iterator[Match]:
    plan, run = case.plan, case.run
    if plan is None or run is None or run.status in (RunStatus.COMPLETED, RunStatus.UNDONE) or case.waived:
        return
    young = case.max_age is not None and case.moment - plan.created_at < case.max_age
    age = f", planned {_age(case.moment - plan.created_at)} ago" if case.max_age is not None else ""
    standing = (
        "was being undone, and the undo is not finished: the replaced rows may be restored in part"
        if run.undoing
        else f"{state_words(run.status)}: {run.count(ChunkStatus.DONE)} of {run.total} chunks are done"
    )
    yield Match(
        f"The backfill of {plan.target} from {render_instant(plan.start)} to {render_instant(plan.end)} "
        f"{standing}{age}.",
        next_step(plan, run, case.dead),
        _pending_severity(case, young=young),
    )


def _pending_severity(case: RuleContext, *, young: bool) -> Severity:
    if case.gate:
        return Severity.WARN if young or not case.required else Severity.ERROR
    return Severity.INFO if signal_of(case) is Signal.HEALTHY else Severity.WARN


def _age(age: timedelta) -> str:
    hours = age / timedelta(hours=1)
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"


@STATE_RULES.rule(
    "backfill_chunk_failed_retry_exhausted",
    Severity.ERROR,
    "Chunks failed permanently: no attempt is left, or a retry cannot help.",
    remedy="fix the cause in the message, then `resume`",
)
def _failed(case: RuleContext) -> Iterator[Match]:
    if case.plan is None or case.run is None or case.waived:
        return
    failed = case.run.count(ChunkStatus.FAILED)
    if failed:
        yield Match(
            f"{failed} of {case.run.total} chunks of {case.plan.target} failed permanently; "
            f"the last error: {short_error(case.run.last_error)}",
            command("resume", case.plan.plan_id),
        )


@STATE_RULES.rule(
    "backfill_window_filled_twice",
    Severity.ERROR,
    "Two plans have filled the same window of a target, so rows may be doubled. A warning if the second plan "
    "has `--allow-existing-rows` and another SELECT. Ends when the window is rebuilt, or one of the plans is undone.",
    remedy="`run --replay-done --clear-window` of one plan, or a plan with `--write-mode replace`",
)
def _filled_twice(case: RuleContext) -> Iterator[Match]:
    for found in case.twice:
        stretch = f"from {render_instant(found.start)} to {render_instant(found.end)}"
        where = f"on shard {found.shard} {stretch}" if found.shard else stretch
        allowed = ", which was planned to add to what is there" if found.accepted else ""
        yield Match(
            f"{found.target} was filled twice {where}: by plan {found.first} and by plan {found.second}{allowed}.",
            None if found.accepted else command("run", found.second, "--replay-done", "--clear-window"),
            Severity.WARN if found.accepted else None,
        )


@STATE_RULES.rule(
    "backfill_claim_stuck",
    Severity.ERROR,
    "Lost workers still hold chunks, and nobody executes these chunks. A warning while another worker is alive "
    "and can take over, and for a waived plan.",
    remedy="`resume` to take over the claims, or `cancel` with the address of the ClickHouse to release them",
)
def _stuck(case: RuleContext) -> Iterator[Match]:
    if case.plan is None or case.run is None:
        return
    held = {owner: worker for owner, worker in case.run.workers.items() if owner in case.dead}
    if held:
        chunks = sum(worker.claims for worker in held.values())
        seen = max(worker.seen_at for worker in held.values())
        yield Match(
            f"Dead workers ({', '.join(sorted(held))}) hold {show_number(chunks, 'chunk')} of {case.plan.target}; "
            f"the last heartbeat was at {render_instant(seen)}.",
            # After a cancellation or a waiver, suggest ``cancel``, because a resume would end either state.
            command("cancel" if case.run.cancelled or case.waived else "resume", case.plan.plan_id),
            None if case.abandoned and not case.waived else Severity.WARN,
        )


@STATE_RULES.rule(
    "backfill_run_throttled",
    Severity.WARN,
    "A worker waits until the server has capacity: parts, merges, memory, disk or replica.",
    remedy="nothing, the run continues by itself; or `resume --max-load` with another percentage",
)
def _waits(case: RuleContext) -> Iterator[Match]:
    if case.plan is not None and case.run is not None and case.run.throttled_by and not case.finished:
        yield Match(f"The backfill of {case.plan.target} waits for the server: {case.run.throttled_by}.")


@STATE_RULES.rule(
    "backfill_waived",
    Severity.INFO,
    "The plan was marked as not required. The plan is listed, but not counted.",
    remedy="`run` or `resume` ends the waiver",
)
def _waived(case: RuleContext) -> Iterator[Match]:
    if case.plan is None or case.run is None or not case.waived or case.run.waiver is None:
        return
    waiver = case.run.waiver
    until = f" until {render_instant(waiver.until)}" if waiver.until is not None else ""
    instead = f"; plan {waiver.superseded_by} does its work" if waiver.superseded_by else ""
    yield Match(
        f"The backfill of {case.plan.target} from {render_instant(case.plan.start)} to "
        f"{render_instant(case.plan.end)} is waived{until} by {waiver.by}: {waiver.reason}{instead}."
    )


@STATE_RULES.rule(
    "backfill_partial_groups_accepted",
    Severity.WARN,
    "Chunks cut groups of the SELECT, and the target does not merge the parts. A person has accepted this.",
    remedy="nothing, if partial groups are fine; or `plan` with one chunk, or a target that merges",
)
def _partial_groups(case: RuleContext) -> Iterator[Match]:
    shown = case.plan.adds_up if case.plan is not None else None
    if case.plan is not None and shown is not None and shown.accepted:
        yield Match(
            f"Parts of groups in {case.plan.target} are accepted: {shown.accepted}. What was set aside: "
            + " ".join(shown.set_aside)
        )


@STATE_RULES.rule(
    "backfill_adding_up_not_shown",
    Severity.WARN,
    "There is no evidence that the chunks add up to the result for the whole window. Information only, if the "
    "rules prove it and `--no-trial` skipped the second opinion.",
    remedy="`plan` without `--no-trial`",
)
def _not_shown(case: RuleContext) -> Iterator[Match]:
    shown = case.plan.adds_up if case.plan is not None else None
    if case.plan is None or shown is None:
        return
    if shown.proof is Proof.NOT_SHOWN:
        yield Match(f"It was not shown that the chunks of {case.plan.target} add up; the trial: {shown.trial}.")
    elif shown.trial_declined:
        yield Match(f"The chunks of {case.plan.target} were planned with --no-trial.", severity=Severity.INFO)


@STATE_RULES.rule(
    "backfill_policy_relaxed",
    Severity.WARN,
    "`policy.failCheckOnRequiredPendingBackfill` is false, so unfinished backfills are only warnings.",
    remedy="set the option to true",
)
def _relaxed(case: RuleContext) -> Iterator[Match]:
    if case.plan is None and not case.about and case.server is None and not case.missing and not case.required:
        yield Match(
            "policy.failCheckOnRequiredPendingBackfill is false, so unfinished backfills do not fail this check; "
            "set it to true to make them fail."
        )
