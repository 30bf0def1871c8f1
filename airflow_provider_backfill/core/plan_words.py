"""Translate a plan's codes to words, so that every interface uses the same words."""

from .names import quote
from .plan import ModeReason, Plan, Proof, WriteMode

_GUARANTEE = {
    WriteMode.STAGE: "Every row is written exactly once: a chunk is filled in a private table, verified, "
    "and its partitions are moved into the target one way.",
    WriteMode.REPLACE: "Every row is there exactly once: a chunk is filled in a private table, verified, "
    "and put in place of the target's whole partitions, which gives the same however often it is repeated.",
    WriteMode.INSERT: "Every row is written at least once: an attempt that fails midway may leave rows behind "
    "that the next attempt writes again.",
}


_ADDS_UP = {
    Proof.ONE_CHUNK: "the window is one chunk",
    Proof.BY_RULE: "shown by rule",
    Proof.BY_TRIAL: "shown by a trial",
    Proof.BY_WORD: "not shown; parts of groups are accepted: {}",
    Proof.NOT_SHOWN: "NOT SHOWN",
}


def adds_up(proof: str, accepted: str) -> str:
    """
    Return in words whether and how it was shown that the chunks add up to the whole window.

    Args:
        proof: A :class:`Proof`, as text.
        accepted: The user's reason to accept groups that chunks cut; empty if there is none.
    """
    return _ADDS_UP[Proof(proof)].format(accepted)


def guarantee(mode: WriteMode) -> str:
    """Return the sentence with a write mode's guarantee for each row."""
    return _GUARANTEE[mode]


def mode_reason(plan: Plan) -> str:
    """Return a sentence that says how the plan's rows reach the target, and why."""
    asked = plan.mode_reason is ModeReason.ASKED
    match plan.write_mode:
        case WriteMode.INSERT:
            why = "it was asked for" if asked else f"{plan.target} is a {plan.engine} table"
            return f"Rows are inserted directly, because {why}."
        case WriteMode.REPLACE:
            return f"Whole partitions of {plan.target} are replaced, because it was asked for."
        case WriteMode.STAGE:
            return f"{plan.target} is a {plan.engine} table, so chunks are staged and moved in."


def rows_of_shards(plan: Plan) -> str:
    """Return in words which rows each shard gets, and from which source; empty if the target is one table."""
    if not plan.shards:
        return ""
    if plan.dealing is None:
        return "each shard is filled from its own source"
    dealing, all_read = plan.dealing, f"each of the {len(plan.shards)} shards reads the whole source"
    if dealing.follows:
        return f"each row goes to the shard that the sharding key says, {dealing.sharding_key}; {all_read}"
    columns = ", ".join(map(quote, dealing.columns))
    why = (
        f"the sharding key {dealing.sharding_key} gives another one each time"
        if dealing.sharding_key
        else ("there is no sharding key")
    )
    return f"each row goes to one shard, by a hash of {columns}, since {why}; {all_read}"
