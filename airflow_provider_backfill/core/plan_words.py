"""What a plan's codes mean, in the sentences that all skins show."""

from .plan import ModeReason, Plan, WriteMode

_GUARANTEE = {
    WriteMode.STAGE: "Every row is written exactly once: a chunk is filled in a private table, verified, "
    "and its partitions are moved into the target one way.",
    WriteMode.REPLACE: "Every row is there exactly once: a chunk is filled in a private table, verified, "
    "and put in place of the target's whole partitions, which gives the same however often it is repeated.",
    WriteMode.INSERT: "Every row is written at least once: an attempt that fails midway may leave rows behind "
    "that the next attempt writes again.",
}


def guarantee(mode: WriteMode) -> str:
    """Return the guarantee of a write mode for each row."""
    return _GUARANTEE[mode]


def mode_reason(plan: Plan) -> str:
    """How the plan's rows reach the target, and why so."""
    asked = plan.mode_reason is ModeReason.ASKED
    match plan.write_mode:
        case WriteMode.INSERT:
            why = "it was asked for" if asked else f"{plan.target} is a {plan.engine} table"
            return f"Rows are inserted directly, because {why}."
        case WriteMode.REPLACE:
            return f"Whole partitions of {plan.target} are replaced, because it was asked for."
        case WriteMode.STAGE:
            return f"{plan.target} is a {plan.engine} table, so chunks are staged and moved in."
