"""Judge whether a statement adds up, or ask for the facts that the verdict needs."""

from collections.abc import Mapping
from dataclasses import replace

from ...errors import Advice, Flag
from ..tables import TABLE_FUNCTION, TableName
from .case import BucketFacts, BucketKey, Case, Kind, Question, Refusal, Verdict
from .lineage import Value, any_of, is_unordered, is_unstable
from .relations import Walk
from .rows import RefusedError, Rows, Shape, UnknownKeyError
from .target import check_label, check_merge, left_to_chance

_BY_PARAMETER = Advice(
    "limit each table that rows come from by the parameter: in its path, or in WHERE as in day = {day:String}"
)


def judge(case: Case, buckets: Mapping[BucketKey, BucketFacts]) -> Verdict | Question:
    """
    Return the verdict whether a statement adds up, or the question that must be answered first.

    Args:
        buckets: The answers to earlier questions.
    """
    holding = next((source for source in case.sources.values() if source.holds_target), None)
    if holding is not None:
        return Verdict(refusal=_reads_target(case, holding.name))
    if not case.filters and not case.given:
        return _read_whole(case, Verdict(doubts=("the SELECT places the window by itself",), row_wise=False))
    walk = Walk(case, buckets)
    try:
        rows = walk.relation(case.tree, "")
        if rows.shape is Shape.WHOLE:
            raise _without_window(case)
        if case.filters:
            check_label(case, walk, rows)
        if rows.shape is Shape.GROUPED:
            check_merge(case, walk, rows)
    except UnknownKeyError as unknown:
        return Question(unknown.key)
    except RefusedError as refused:
        doubts: tuple[str, ...] = ()
        if not case.one_chunk:
            if not case.given or refused.refusal.kind is not Kind.STEP:
                placed = case.given and refused.refusal.kind is Kind.READ
                refusal = replace(refused.refusal, remedy=_BY_PARAMETER) if placed else refused.refusal
                return Verdict(refusal=refusal, reads=tuple(walk.reads))
            # With --param, no SELECT defines the result of the whole window. The user may want a result for each chunk,
            # so the step is only doubtful.
            doubts = (refused.refusal.message.rstrip("."),)
        reads = tuple(dict.fromkeys(walk.reads))
        return _read_whole(case, Verdict(doubts=doubts, reads=reads, row_wise=False))
    given = _given(case, rows)
    verdict = Verdict(
        steps=tuple(dict.fromkeys(walk.steps)),
        doubts=tuple(dict.fromkeys(walk.doubts)),
        waived=tuple(dict.fromkeys(walk.waived)),
        reads=tuple(dict.fromkeys(walk.reads)),
        row_wise=walk.row_wise,
        labels={name: key for name, value in given.items() if (key := walk.time_key((value,)))},
    )
    return _with_chance(case, walk, given, verdict)


def _without_window(case: Case) -> RefusedError:
    if case.given:
        return RefusedError(
            Kind.READ,
            f"{case.name} gives the same rows in several chunks: neither a table function nor a condition of it takes "
            "other rows for each chunk by what --param gives.",
            _BY_PARAMETER,
        )
    return RefusedError(
        Kind.READ,
        f"{case.name} does not depend on the window: no row of it comes from "
        f"{' or '.join(map(str, case.filters)) or 'a filtered table'}.",
        Advice("choose the table that the window applies to with {}", Flag("--filter-table", "database.table")),
    )


def _given(case: Case, rows: Rows) -> dict[str, Value]:
    return {name: rows.columns[name] for name in case.columns if name in rows.columns}


def _with_chance(case: Case, walk: Walk, given: Mapping[str, Value], verdict: Verdict) -> Verdict:
    """Return the verdict with the columns and functions that may make a second run of the SELECT differ."""
    unordered = (name for name, value in given.items() if any_of(value, is_unordered))
    return replace(
        verdict,
        unstable=tuple(name for name, value in given.items() if any_of(value, is_unstable)),
        unordered=tuple(dict.fromkeys([*unordered, *left_to_chance(case, given)])),
        chance=tuple(dict.fromkeys(walk.chance)),
    )


def _read_whole(case: Case, verdict: Verdict) -> Verdict:
    """
    Return the verdict with the unstable columns and the non-repeatable functions of the whole SELECT.

    The walk treats the SELECT as if no chunk limited it. No column is marked as unordered, not even a column with a
    value of the previous row, because the trial searches for differences in such columns. The verdict stays unchanged
    if the walk refuses a step.
    """
    whole = replace(case, filters={}, given={})
    walk = Walk(whole, {})
    try:
        rows = walk.relation(case.tree, "")
    except RefusedError:
        # A step combines rows of a source that cannot be inspected, or of a step that the rules do not know.
        return verdict
    return replace(_with_chance(whole, walk, _given(whole, rows), verdict), unordered=())


def keys_to_keep_whole(case: Case) -> tuple[BucketKey, ...]:
    """Return the time keys that chunk bounds must not cut; empty if any bounds will do, or if no key is decisive."""
    return () if _asked(case, BucketFacts(usable=False))[0].refusal is None else _asked(case, BucketFacts())[1]


def merges_any_parts(case: Case) -> bool:
    """Return whether the rules prove that chunks add up, whichever way the filtered rows are divided among them."""
    verdict, _ = _asked(case, BucketFacts(usable=False))
    return verdict.refusal is None and not verdict.doubts


def _asked(case: Case, facts: BucketFacts) -> tuple[Verdict, tuple[BucketKey, ...]]:
    """Return the verdict that follows from *facts* for every time key, and the keys that the verdict depends on."""
    answers: dict[BucketKey, BucketFacts] = {}
    while isinstance(answer := judge(case, answers), Question):
        answers[answer.key] = facts
    return answer, tuple(answers)


def _reads_target(case: Case, name: TableName) -> Refusal:
    shown = f"{name.table}()" if name.database == TABLE_FUNCTION else str(name)
    what = "the target itself" if name == case.target.name else f"which holds the rows of the target {case.target.name}"
    return Refusal(
        Kind.READ,
        f"{case.name} reads {shown}, {what}: what a chunk gives would depend on the chunks before it.",
        Advice("read from the table the rows come from; the window says which rows are still to be filled"),
    )
