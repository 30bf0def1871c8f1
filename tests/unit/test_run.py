"""The run as a replay: every event against every status, and invariants after any history."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_backfill.core.events import (
    Event,
    ParallelismSet,
    RunCancelled,
    RunPaused,
    RunReplayed,
    RunResumed,
    RunStarted,
    RunThrottled,
    RunUndone,
    RunUndoStarted,
    RunWaived,
    WorkerHeartbeat,
)
from airflow_provider_backfill.core.plan import Chunk, Plan
from airflow_provider_backfill.core.replay import apply_event, expand, new_run, select_chunks
from airflow_provider_backfill.core.run_state import ChunkState, ChunkStatus, Run, RunStatus
from airflow_provider_backfill.errors import TransitionError
from tests.state import START, chunks_of, counts, done, failed, make_plan, released, split, started, verified

PLAN = make_plan(4)
FIRST, SECOND, *_ = chunks_of(PLAN)
WHO = "host:1:2:a"
OTHER = "host:9:9:b"
CLAIM = started(PLAN, FIRST)

# The events that bring a chunk into each status.
HISTORY: dict[str, list[Event]] = {
    "untouched": [],
    "running": [CLAIM],
    "verified": [CLAIM, verified(FIRST)],
    "done": [CLAIM, done(FIRST)],
    "failed": [CLAIM, failed(FIRST, final=True)],
    "pending again": [CLAIM, failed(FIRST)],
    "released": [CLAIM, released(FIRST)],
    "split": [CLAIM, split(PLAN, FIRST)],
    "taken over": [CLAIM, started(PLAN, FIRST, 2, OTHER, takes_over=True)],
    "cancelled": [CLAIM, RunCancelled(at=START, by="user")],
    "undoing": [CLAIM, done(FIRST), RunUndoStarted(at=START, by="user")],
    "undone": [CLAIM, done(FIRST), RunUndoStarted(at=START, by="user"), RunUndone(at=START, by="user")],
}
_ATTEMPTS = {"untouched": 0, "taken over": 2, "split": 0}

# For each kind of event, the places where it is allowed; everywhere else it must be refused.
_HELD = {"running", "verified", "taken over", "cancelled"}
ALLOWED: dict[str, tuple[Callable[[int], Event], set[str]]] = {
    "claim": (lambda n: started(PLAN, FIRST, n + 1), {"untouched", "pending again", "released"}),
    "take over": (
        lambda n: started(PLAN, FIRST, n + 1, OTHER, takes_over=True),
        {"running", "verified", "taken over"},
    ),
    "claim an old attempt": (lambda n: started(PLAN, FIRST, n), set()),
    "skip an attempt": (lambda n: started(PLAN, FIRST, n + 2), set()),
    "verify": (lambda n: verified(FIRST, n), _HELD),
    "done": (lambda n: done(FIRST, n), _HELD),
    "fail": (lambda n: failed(FIRST, n), _HELD),
    "fail for good": (lambda n: failed(FIRST, n, final=True), _HELD),
    "release": (lambda n: released(FIRST, n), _HELD),
    "split": (lambda n: split(PLAN, FIRST, n), _HELD),
    "end an attempt that is not the running one": (lambda n: done(FIRST, n - 1), set()),
}


@pytest.mark.parametrize("history", HISTORY)
@pytest.mark.parametrize("kind", ALLOWED)
def test_every_event_is_judged_at_every_place(history: str, kind: str) -> None:
    """Writers and readers use the same judge; only the events that it allows may be in a log."""
    run = new_run(PLAN)
    for event in HISTORY[history]:
        apply_event(run, event)
    make, places = ALLOWED[kind]
    event = make(_ATTEMPTS.get(history, 1))
    before = deepcopy(run)
    if history in places:
        apply_event(run, event)
        assert run != before or (history, kind) == ("verified", "verify")
    else:
        with pytest.raises(TransitionError, match=PLAN.plan_id):
            apply_event(run, event)
        assert run == before


@pytest.mark.parametrize(
    ("history", "event", "allowed"),
    [
        ("cancelled", RunStarted(at=START, by=WHO), False),
        ("cancelled", RunCancelled(at=START, by=WHO), False),
        ("cancelled", RunResumed(at=START, by=WHO), True),
        ("undoing", RunStarted(at=START, by=WHO), False),
        ("undoing", RunResumed(at=START, by=WHO), False),
        ("undoing", RunReplayed(at=START, by=WHO, statuses=(ChunkStatus.DONE,)), False),
        ("undone", RunResumed(at=START, by=WHO), True),
        ("untouched", RunPaused(at=START, by=WHO, reason="stopped"), False),
        ("running", RunPaused(at=START, by=WHO, reason="stopped"), True),
        ("untouched", RunCancelled(at=START, by=WHO), True),
        ("running", RunReplayed(at=START, by=WHO, statuses=(ChunkStatus.RUNNING,)), False),
        ("running", RunReplayed(at=START, by=WHO, statuses=(ChunkStatus.PENDING,)), False),
        ("done", RunReplayed(at=START, by=WHO, statuses=(ChunkStatus.DONE,)), True),
        ("untouched", RunWaived(at=START, by=WHO, reason="the source is gone"), True),
    ],
)
def test_the_run_as_a_whole_is_judged(history: str, event: Event, allowed: bool) -> None:
    """A cancelled run continues only after a resume; a running chunk belongs to its worker."""
    run = new_run(PLAN)
    for earlier in HISTORY[history]:
        apply_event(run, earlier)
    before = deepcopy(run)
    if allowed:
        apply_event(run, event)
        assert run != before
    else:
        with pytest.raises(TransitionError):
            apply_event(run, event)
        assert run == before


def test_a_completed_run_cannot_be_cancelled_or_waived() -> None:
    """Its rows are in the target; saying otherwise would be a lie in the log."""
    plan = make_plan(1)
    (chunk,) = chunks_of(plan)
    run = new_run(plan)
    apply_event(run, started(plan, chunk))
    apply_event(run, done(chunk))
    assert run.status is RunStatus.COMPLETED
    for event in (RunCancelled(at=START, by=WHO), RunWaived(at=START, by=WHO, reason="no need")):
        with pytest.raises(TransitionError, match="completed"):
            apply_event(run, event)


def test_a_worker_never_undoes_a_cancel() -> None:
    """What a worker finishes is recorded, but the run stays cancelled, and it is cancelling while a claim is held."""
    run = new_run(PLAN)
    for event in (CLAIM, started(PLAN, SECOND), RunCancelled(at=START, by="user"), verified(FIRST), done(FIRST)):
        apply_event(run, event)
    assert (run.status, run.cancelling) == (RunStatus.CANCELLED, True)
    apply_event(run, released(SECOND))
    assert (run.status, run.cancelling) == (RunStatus.CANCELLED, False)
    with pytest.raises(TransitionError, match="cancelled"):
        apply_event(run, started(PLAN, SECOND, 2))


def test_a_split_into_parts_that_are_no_parts_is_refused() -> None:
    """A part that is a chunk already would be executed once and counted twice."""
    run = new_run(PLAN)
    apply_event(run, CLAIM)
    halves = split(PLAN, FIRST).parts
    for parts in ((), halves[:1], (halves[0], halves[0]), (halves[0], halves[1].model_copy(update={"id": FIRST.id}))):
        with pytest.raises(TransitionError, match="would be split"):
            apply_event(run, split(PLAN, FIRST).model_copy(update={"parts": parts}))
    assert run.total == 4


def test_an_attempt_is_verified_with_one_result() -> None:
    """Only verified rows may be published, so a second result for one attempt is refused."""
    run = new_run(PLAN)
    for event in (CLAIM, verified(FIRST, rows=10), verified(FIRST, rows=10)):
        apply_event(run, event)
    with pytest.raises(TransitionError, match="verified with other rows"):
        apply_event(run, verified(FIRST, rows=11))


_LOST: list[Event] = [started(PLAN, FIRST, 2, OTHER, takes_over=True)]
_UNWRITTEN: list[Event] = [
    failed(FIRST).model_copy(update={"unwritten": True}),
    started(PLAN, FIRST, 2),
    released(FIRST, 2).model_copy(update={"unwritten": True}),
    started(PLAN, FIRST, 3, OTHER),
]


@pytest.mark.parametrize("end", [failed, released])
@pytest.mark.parametrize(
    ("history", "kept"),
    [
        ([], False),
        (_LOST, True),
        (_UNWRITTEN, False),
        ([failed(FIRST), started(PLAN, FIRST, 2, OTHER)], True),
    ],
    ids=["first attempt", "after a lost worker", "after two that wrote nothing", "after one that may have written"],
)
def test_what_was_staged_into_a_window_of_others_is_forgotten_unless_a_part_may_be_published(
    history: list[Event], kept: bool, end: Callable[..., Event]
) -> None:
    """A refused chunk leaves no table behind, and one that may be published in part is still finished."""
    run = new_run(PLAN)
    for event in (CLAIM, verified(FIRST), *history):
        apply_event(run, event)
    state = run.state(FIRST.id)
    refused = end(FIRST, state.attempt, state.owner).model_copy(update={"unwritten": True, "refused": True})
    apply_event(run, refused)
    assert bool(state.verified) is kept


def test_what_a_lost_worker_staged_is_forgotten_where_keeper_knows_nothing_of_it() -> None:
    run = new_run(PLAN)
    for event in (CLAIM, verified(FIRST), *_LOST):
        apply_event(run, event)
    said = {"unwritten": True, "refused": True, "unpublished": True}
    apply_event(run, failed(FIRST, 2, OTHER, final=True).model_copy(update=said))
    state = run.state(FIRST.id)
    assert (state.verified, state.touched) == ({}, False)


def test_taking_over_costs_no_try_and_giving_back_neither() -> None:
    """The budget counts failures of the chunk, not the fate of its workers."""
    run = new_run(PLAN)
    history: list[Event] = [
        CLAIM,
        started(PLAN, FIRST, 2, OTHER, takes_over=True),
        started(PLAN, FIRST, 3, WHO, takes_over=True),
        released(FIRST, 3),
    ]
    for event in history:
        apply_event(run, event)
    assert (run.state(FIRST.id).attempt, run.state(FIRST.id).tries) == (3, 0)
    assert run.workers == {}


def test_replaying_done_chunks_takes_their_rows_back_and_keeps_the_attempt() -> None:
    """A query id must never be reused, so the attempt number continues; the budget starts again."""
    run = new_run(PLAN)
    for event in (CLAIM, done(FIRST, rows=7), started(PLAN, SECOND), done(SECOND, rows=5)):
        apply_event(run, event)
    assert run.rows == 12
    apply_event(run, RunReplayed(at=START, by=WHO, statuses=(ChunkStatus.DONE,), clear_window=True))
    assert (run.rows, run.seconds, run.count(ChunkStatus.DONE)) == (0, 0.0, 0)
    assert run.state(FIRST.id) == ChunkState(ChunkStatus.PENDING, attempt=1, clear=True)


def test_a_waiver_ends_when_somebody_runs_the_plan_and_at_its_end() -> None:
    """A plan that is worked on again is required again."""
    run = new_run(PLAN)
    until = START + timedelta(days=1)
    apply_event(run, RunWaived(at=START, by="user", reason="the source moves", until=until))
    assert run.waiver is not None
    assert run.waiver.holds(until - timedelta(milliseconds=1))
    assert not run.waiver.holds(until)
    apply_event(run, RunStarted(at=START, by=WHO))
    assert run.waiver is None


def test_the_last_change_is_the_latest_by_any_clock() -> None:
    """Hosts differ; a run must not seem to go back in time."""
    run = new_run(PLAN)
    late, early = START + timedelta(hours=1), START
    apply_event(run, RunStarted(at=late, by=WHO))
    apply_event(run, started(PLAN, FIRST, at=early))
    assert run.updated_at == late


# ---------------------------------------------------------------- any history


def _any_event(draw: st.DrawFn, plan: Plan, run: Run) -> Event:
    """Return any event; most are close to allowed ones."""
    chunks = [chunk for planned in chunks_of(plan) for chunk in (planned, *expand(run, planned))]
    chunk: Chunk = draw(st.sampled_from(chunks))
    attempt = run.state(chunk.id).attempt + draw(st.sampled_from([0, 0, 0, 1, -1]))
    by = draw(st.sampled_from([WHO, OTHER]))
    kinds: list[Callable[[], Event]] = [
        lambda: started(plan, chunk, attempt + 1, by, takes_over=draw(st.booleans())),
        lambda: started(plan, chunk, attempt + 1, by),
        lambda: verified(chunk, attempt, by),
        lambda: done(chunk, attempt, by, rows=draw(st.integers(0, 2**40)), seconds=draw(st.floats(0, 1e6))),
        lambda: failed(chunk, attempt, by, final=draw(st.booleans())),
        lambda: released(chunk, attempt, by),
        lambda: split(plan, chunk, attempt, by),
        lambda: RunStarted(at=START, by=by),
        lambda: RunPaused(at=START, by=by, reason="stopped"),
        lambda: RunCancelled(at=START, by="user"),
        lambda: RunResumed(at=START, by="user"),
        lambda: RunReplayed(at=START, by="user", statuses=draw(st.sampled_from([(ChunkStatus.DONE,), ("failed",)]))),
        lambda: RunWaived(at=START, by="user", reason="no need"),
        lambda: RunThrottled(at=START, by=by, reason="the server has no room"),
        lambda: ParallelismSet(at=START, by="user", parallel=draw(st.integers(0, 9))),
        lambda: WorkerHeartbeat(at=START, by=by, lease_seconds=60),
    ]
    return draw(st.sampled_from(kinds))()


@st.composite
def histories(draw: st.DrawFn) -> tuple[Plan, list[Event]]:
    """A plan, and events of which each was allowed when its turn came."""
    plan = make_plan(draw(st.integers(1, 3)))
    run = new_run(plan)
    events = []
    for _ in range(draw(st.integers(0, 40))):
        event = _any_event(draw, plan, run)
        before = deepcopy(run)
        try:
            apply_event(run, event)
        except TransitionError:
            assert run == before
        else:
            events.append(event)
    return plan, events


@settings(max_examples=150, deadline=None)
@given(histories())
def test_counts_claims_and_sums_hold_after_any_history(history: tuple[Plan, list[Event]]) -> None:
    """Additions and subtractions maintain them, so a single wrong step would last."""
    plan, events = history
    run = new_run(plan)
    for event in events:
        apply_event(run, event)

        shown = run.chunk_counts
        assert shown == counts(run)
        assert min(shown.values()) >= 0
        claims: dict[str, int] = {}
        for state in run.chunks.values():
            assert (state.owner != "") == (state.status is ChunkStatus.RUNNING)
            assert state.tries >= 0
            assert state.attempt >= 1
            if state.owner:
                claims[state.owner] = claims.get(state.owner, 0) + 1
        assert {name: worker.claims for name, worker in run.workers.items()} == claims
        assert run.rows == sum(found[1] for found in run.done.values())
        assert not run.chunks.keys() & run.done.keys()

        known = [chunk for planned in plan.chunks() for chunk in expand(run, planned)]
        assert len(known) == run.total
        assert [chunk.id for chunk in select_chunks(plan, run)] == [chunk.id for chunk in known]
        for status in ChunkStatus:
            assert [chunk.id for chunk in select_chunks(plan, run, status)] == [
                chunk.id for chunk in known if run.state(chunk.id).status is status
            ]


@settings(max_examples=50, deadline=None)
@given(histories())
def test_attempts_never_repeat_and_done_is_never_lost(history: tuple[Plan, list[Event]]) -> None:
    """A query id is made of chunk and attempt; a done chunk leaves that state only when the user replays it."""
    plan, events = history
    run = new_run(plan)
    claimed = set()
    for event in events:
        before = set(run.done)
        apply_event(run, event)
        if event.type == "ChunkStarted":
            assert (event.chunk_id, event.attempt) not in claimed
            claimed.add((event.chunk_id, event.attempt))
        if event.type != "RunReplayed":
            assert before <= set(run.done)
