"""Define the rules on the window and its chunks: bounds, open ends, new rows, sizes. The rules are pure functions."""

from collections.abc import Iterator
from datetime import datetime
from itertools import takewhile

from ...errors import Flag
from ..instants import render_instant, short_instant
from ..plain_text import show_bytes, show_number
from ..plan import Plan, WriteMode
from ..remedy import chunk_hours_flag, plan_command
from .registry import Match, RuleContext, RuleRegistry, RuleScope, Severity, show_names

WINDOW_RULES = RuleRegistry(RuleScope.SERVER)
_rule = WINDOW_RULES.rule

# The median of source rows per chunk below which chunks are small. At this number, the fixed cost of a chunk about
# equals the cost of the chunk's rows.
SMALL_ROWS = 100_000
# The number of chunks from which small chunks are reported.
MANY_CHUNKS = 50
# Chunks are large if the largest has more source rows or more bytes on disk than these numbers.
LARGE_ROWS = 100_000_000
LARGE_BYTES = 10 * 2**30
# The number of partitions per staged chunk above which a plan is reported.
_PARTITIONS_AT_EASE = 100


@_rule(
    "backfill_chunk_misaligned",
    Severity.ERROR,
    "Chunk bounds lie inside a partition, a bucket of the SELECT, or a day of a Date column.",
    remedy="`plan` with the bounds in the message",
)
def _misfit(case: RuleContext) -> Iterator[Match]:
    facts = case.seen
    if facts.misfit is not None:
        yield Match(facts.misfit.message, facts.misfit.proposal)


@_rule(
    "backfill_window_open",
    Severity.WARN,
    "The window reaches into the future: rows that arrive after their chunk are missed, or lost when partitions"
    " are replaced (then an error).",
    remedy="`plan` with a `--to` in the past, and plan the rest later",
)
def _open(case: RuleContext) -> Iterator[Match]:
    plan, facts = case.plan, case.seen
    if plan is not None and facts.seam is not None:
        yield from open_window(plan, facts.seam.now, case.untouched)


def open_window(plan: Plan, now: datetime, untouched: bool = True) -> Iterator[Match]:
    """
    Yield a match if the window ends after *now*; the match is an error if partitions are replaced.

    The remedy plans a window that ends at the last chunk bound in the past. There is no remedy if the run has begun
    (*untouched* is false), or if no chunk has ended by *now*.
    """
    if plan.end <= now:
        return
    cut = max((end for _, end in takewhile(lambda each: each[1] <= now, plan.slices())), default=None)
    replaced = plan.write_mode is WriteMode.REPLACE
    lost = "lost when their partition is replaced" if replaced else "missed"
    yield Match(
        f"The window ends at {render_instant(plan.end)}, and it is {render_instant(now)}: rows that come after their "
        f"chunk is done are {lost}.",
        plan_command(plan, Flag("--to", short_instant(cut))) if untouched and cut is not None else None,
        Severity.ERROR if replaced else None,
    )


@_rule(
    "backfill_target_changed",
    Severity.ERROR,
    "Rows were added to the window after planning, for example by a view. Running the plan would double these rows.",
    remedy="`plan` with an earlier `--to`, or with `--write-mode replace`",
)
def _overlap(case: RuleContext) -> Iterator[Match]:
    plan, seam = case.plan, case.seen.seam
    if plan is None or seam is None or plan.write_mode is WriteMode.REPLACE or not case.untouched:
        return
    known = plan.existing_rows or 0
    if seam.rows <= known:
        return
    by = f" ({show_names(seam.fed_by)} feed it)" if seam.fed_by else ""
    since = f", from {render_instant(seam.first)} on" if seam.first is not None else ""
    before = f", in addition to the accepted {known:,}" if known else ""
    cut = seam.first if seam.first is not None and seam.first > plan.start and not known else None
    rows = show_number(seam.rows - known, "row")
    yield Match(
        f"{plan.target} has got {rows} of the window since the planning{by}{since}{before}; the backfill "
        "would add to them.",
        plan_command(plan, Flag("--to", short_instant(cut))) if cut is not None else None,
    )


@_rule(
    "backfill_many_partitions",
    Severity.WARN,
    "The rows of one chunk fall into many partitions: each partition costs a move, and a plain INSERT refuses "
    "more than `max_partitions_per_insert_block`.",
    remedy="smaller chunks, if the partition key follows the time column",
)
def _partitions(case: RuleContext) -> Iterator[Match]:
    facts, plan = case.seen, case.plan
    count = facts.partitions_per_chunk
    if plan is None or count is None:
        return
    limit = facts.partitions_limit
    if not case.stages and limit and count > limit:
        yield Match(
            f"The rows of one chunk fall into {count} partitions of {facts.target}, and an INSERT of this user may "
            f"write to {limit} (max_partitions_per_insert_block).",
            severity=Severity.ERROR,
        )
    elif case.stages and count > _PARTITIONS_AT_EASE:
        yield Match(
            f"The rows of one chunk fall into {count} partitions of {facts.target}; each is published on its own, "
            f"which takes about {count * 0.04:.0f} s per chunk."
        )


@_rule(
    "backfill_chunks_small",
    Severity.INFO,
    "The chunks have so few rows that the fixed cost per chunk dominates.",
    remedy="`plan` with a larger `--chunk-hours`",
)
def _small(case: RuleContext) -> Iterator[Match]:
    facts, plan = case.seen, case.plan
    estimate = facts.estimate
    if plan is None or estimate is None or not estimate.filled or not case.untouched:
        return
    proposed, hours = facts.proposed_hours, plan.chunk_hours or 0
    if estimate.median < SMALL_ROWS and plan.chunk_count >= MANY_CHUNKS and proposed and proposed > hours:
        yield Match(
            f"The {plan.chunk_count} chunks {plan.chunking.words} read {_rows(case)}: "
            "each costs as much again in tables, verification and publishing.",
            plan_command(plan, chunk_hours_flag(proposed)),
        )


@_rule(
    "backfill_chunks_large",
    Severity.WARN,
    "The largest chunks take so long that a failure is expensive.",
    remedy="`plan` with a smaller `--chunk-hours`",
)
def _large(case: RuleContext) -> Iterator[Match]:
    facts, plan = case.seen, case.plan
    estimate = facts.estimate
    if plan is None or estimate is None or not case.untouched:
        return
    proposed = facts.proposed_hours
    size = estimate.largest * (estimate.bytes_per_row or 0)
    if (estimate.largest > LARGE_ROWS or size > LARGE_BYTES) and proposed and proposed < (plan.chunk_hours or 0):
        yield Match(
            f"The {plan.chunk_count} chunks {plan.chunking.words} read {_rows(case)}.",
            plan_command(plan, chunk_hours_flag(proposed)),
        )


def _rows(case: RuleContext) -> str:
    estimate = case.server.estimate if case.server is not None else None
    if estimate is None:
        return "an unknown number of rows"
    size = f" ({show_bytes(estimate.largest * estimate.bytes_per_row)})" if estimate.bytes_per_row is not None else ""
    about = "" if estimate.exact else "about "
    return f"{about}{estimate.smallest} to {estimate.largest}{size} rows each, {estimate.median} in the median"
