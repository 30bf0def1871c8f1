"""Windows that two plans have filled: errors, wanted duplicates, and windows rebuilt since."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow_provider_backfill.commands.filled_windows import what_to_do_instead
from airflow_provider_backfill.commands.poll import PollResult, poll_window
from airflow_provider_backfill.commands.session import Session
from airflow_provider_backfill.core.coverage import filled_by_another, find_filled_twice, overlaps
from airflow_provider_backfill.core.events import RunReplayed, RunStarted
from airflow_provider_backfill.core.findings.judge import judge
from airflow_provider_backfill.core.findings.registry import RuleContext, Severity
from airflow_provider_backfill.core.names import parse_table
from airflow_provider_backfill.core.plan import Plan, Shard, Statement, WriteMode
from airflow_provider_backfill.core.replay import apply_event, new_run
from airflow_provider_backfill.core.run_state import ChunkStatus, Run
from airflow_provider_backfill.core.tables import TimeKind
from airflow_provider_backfill.core.window import Window
from airflow_provider_backfill.option_sources import parse_options
from airflow_provider_backfill.state.store import StateStore
from tests.state import START, chunks_of, done, make_plan, started

DAY = timedelta(days=1)
FIRST = make_plan(4, existing_rows=0)
SECOND = make_plan(2, hours=12, existing_rows=0)


def filled(plan: Plan, *which: int, rows: int = 10, at: timedelta = timedelta()) -> tuple[Plan, Run]:
    """The plan with its chunks of these numbers done."""
    run = new_run(plan)
    for number in which:
        chunk = chunks_of(plan)[number]
        apply_event(run, started(plan, chunk, at=START + at))
        apply_event(run, done(chunk, rows=rows))
    return plan, run


def made(plan: Plan, **changes: Any) -> Plan:
    return plan.model_copy(update=changes)


def test_two_fills_of_one_window_are_an_error() -> None:
    (found,) = find_filled_twice([filled(FIRST, 0, 1, 2), filled(SECOND, 1)])
    assert (found.start, found.end) == (START + DAY / 2, START + 3 * DAY / 4)
    assert {found.first, found.second} == {FIRST.plan_id, SECOND.plan_id}
    (finding,) = judge(RuleContext(moment=START, about=found.second, twice=(found,)))
    assert (finding.code, finding.severity) == ("backfill_window_filled_twice", Severity.ERROR)


def test_a_plan_of_one_shards_own_table_fills_what_the_plan_of_all_shards_has_filled() -> None:
    """The second plan was made on the server of one shard; chunks of the other shard do not count."""
    urls = {1: ("http://one:8123",), 2: ("http://two:8123", "http://three:8123")}
    shards = tuple(Shard(number=number, table=str(number), urls=each) for number, each in urls.items())
    local = parse_table("shop.orders_local", "target")
    known = (FIRST.target, local)
    whole = made(FIRST, cluster="all", shards=shards, shard_table=local, known_as=known)
    part = made(SECOND, target=local, environment="http://three:8123/shop")
    done_on = {number: [i for i, chunk in enumerate(chunks_of(whole)) if chunk.shard == number] for number in urls}
    (found,) = find_filled_twice([filled(whole, *done_on[2]), filled(part, 0)])
    assert (found.target, found.shard, found.start, found.end) == (local, 2, START, START + DAY / 2)
    (finding,) = judge(RuleContext(moment=START, about=found.second, twice=(found,)))
    assert "shop.orders_local was filled twice on shard 2 from" in finding.message
    assert find_filled_twice([filled(whole, *done_on[1]), filled(part, 0)]) == []
    elsewhere = made(part, environment="http://four:8123/shop")
    assert find_filled_twice([filled(whole, *done_on[2]), filled(elsewhere, 0)]) == []
    (ahead,) = filled_by_another(part, new_run(part), *filled(whole, *done_on[2]))
    assert (ahead.start, ahead.end) == (START, START + DAY)
    assert filled_by_another(part, new_run(part), *filled(whole, *done_on[1])) == []


def test_a_rebuild_of_some_shards_does_not_repair_the_other_shards() -> None:
    """Rows on a shard that no rebuild has replaced are still there twice."""
    urls = {1: ("http://one:8123",), 2: ("http://two:8123",)}
    shards = tuple(Shard(number=number, table=str(number), urls=each) for number, each in urls.items())
    local = parse_table("shop.orders_local", "target")
    on_all = {"cluster": "all", "shards": shards, "shard_table": local, "known_as": (FIRST.target, local)}
    whole = made(FIRST, **on_all)
    one, two = (
        made(SECOND, target=local, environment=f"{urls[number][0]}/shop", plan_id=f"on-{number}") for number in urls
    )
    of_two = [filled(whole, *range(len(chunks_of(whole)))), filled(two, 0, 1)]
    of_all = [of_two[0], filled(made(SECOND, **on_all), 0, 1, 2, 3)]
    rebuild = {"write_mode": WriteMode.REPLACE, "created_at": START + DAY}
    (wrong,) = find_filled_twice([*of_two, filled(made(one, **rebuild, plan_id="rebuilt"), 0, 1)])
    assert wrong.shard == 2
    assert find_filled_twice([*of_two, filled(made(two, **rebuild, plan_id="rebuilt"), 0, 1)]) == []
    assert find_filled_twice([*of_all, filled(made(two, **rebuild, plan_id="rebuilt"), 0, 1)])
    rebuilt = made(whole, **rebuild, plan_id="rebuilt")
    on_first = [i for i, chunk in enumerate(chunks_of(rebuilt)) if chunk.shard == 1]
    for fills in (of_two, of_all):
        assert find_filled_twice([*fills, filled(rebuilt, *on_first)])
        assert find_filled_twice([*fills, filled(rebuilt, *range(len(chunks_of(rebuilt))))]) == []


def test_what_is_no_second_filling() -> None:
    """Windows that only touch, chunks without rows, another table, another server, a rebuild."""
    assert find_filled_twice([filled(FIRST, 0, 1), filled(SECOND, 1)]) == []
    assert find_filled_twice([filled(FIRST, 2, rows=0), filled(SECOND, 1)]) == []
    assert find_filled_twice([filled(made(FIRST, target="shop.others"), 2), filled(SECOND, 1)]) == []
    assert find_filled_twice([filled(made(FIRST, environment="elsewhere"), 2), filled(SECOND, 1)]) == []
    assert find_filled_twice([filled(made(FIRST, write_mode=WriteMode.REPLACE), 2), filled(SECOND, 1)]) == []


def test_a_plan_that_was_allowed_to_add_other_rows_warns() -> None:
    """The rows of the same SELECT are duplicated even if allowed, unless the target replaces them."""
    allowed = made(SECOND, allow_existing_rows=True, created_at=START + DAY)
    select = Statement(name="other", select="SELECT 1", source=None, time_kind=TimeKind.DATETIME, columns=("x",))
    for second, severity in (
        (allowed, Severity.ERROR),
        (made(allowed, statements=(select,)), Severity.WARN),
        (made(allowed, engine="ReplicatedReplacingMergeTree"), Severity.WARN),
    ):
        (found,) = find_filled_twice([filled(FIRST, 2), filled(second, 1)])
        (finding,) = judge(RuleContext(moment=START, twice=(found,)))
        assert finding.severity is severity


def test_a_window_that_was_empty_again_is_not_filled_twice() -> None:
    """The second plan looked when the first had ended, and saw no row."""
    later = made(SECOND, created_at=START + DAY)
    assert find_filled_twice([filled(FIRST, 2), filled(later, 1)]) == []
    assert filled_by_another(later, new_run(later), *filled(FIRST, 2)) == []
    # Rows that are not where their window is were not looked for.
    plan, run = filled(FIRST, 2)
    run.reach[chunks_of(plan)[2].id] = (START - DAY, START)
    assert len(find_filled_twice([(plan, run), filled(later, 1)])) == 1
    assert len(filled_by_another(later, new_run(later), plan, run)) == 1


def test_a_rebuild_or_a_cleared_replay_mends_it() -> None:
    both = [filled(FIRST, 2), filled(SECOND, 1)]
    rebuilt = make_plan(1, hours=24, write_mode=WriteMode.REPLACE, planned_at=START + DAY)
    assert find_filled_twice([*both, filled(rebuilt, 0)]) == []
    assert len(find_filled_twice([*both, filled(rebuilt)])) == 1
    # A rebuild without rows has dropped the partitions of both fills.
    assert find_filled_twice([*both, filled(rebuilt, 0, rows=0)]) == []
    plan, run = filled(SECOND, 1)
    event = RunReplayed(at=START + DAY, by="me", statuses=(ChunkStatus.DONE,), clear_window=True)
    apply_event(run, event)
    apply_event(run, started(plan, chunks_of(plan)[1], 2, at=START + DAY))
    apply_event(run, done(chunks_of(plan)[1], 2))
    assert find_filled_twice([filled(FIRST, 2), (plan, run)]) == []


def test_only_what_is_still_to_be_filled_counts() -> None:
    """Chunks that are done are done, and those that clear their window first add to nothing."""
    plan, run = filled(SECOND, 1)
    assert filled_by_another(plan, run, *filled(FIRST, 2, 3)) == []
    (stretch,) = filled_by_another(plan, run, *filled(FIRST, 0, 2))
    assert (stretch.start, stretch.end) == (START, START + DAY / 4)
    apply_event(run, RunStarted(at=START, by="me"))
    allowed = made(SECOND, allow_existing_rows=True)
    assert filled_by_another(allowed, new_run(allowed), *filled(FIRST, 0)) == []


def test_plans_of_one_table_whose_windows_meet() -> None:
    """A shared bound is no overlap, and neither is another table's window nor the plan's own."""
    plan = make_plan(4)
    inside = make_plan(1)
    before = made(make_plan(4), start=START - timedelta(days=1), end=START, plan_id="before")
    after = made(make_plan(4), start=plan.end, end=plan.end + timedelta(days=1), plan_id="after")
    across = made(make_plan(4), start=plan.end - timedelta(hours=1), end=after.end, plan_id="across")
    elsewhere = make_plan(1, target="shop.other")
    renamed = made(elsewhere, known_as=(plan.target,))
    assert overlaps(plan, [plan, inside, before, after, across, elsewhere, renamed]) == [inside, across, renamed]


def test_what_is_left_of_a_plan_that_has_begun_is_said_after_the_other_run() -> None:
    """The windows of its done chunks, and of chunks in doubt, must not be planned again."""
    source = Statement(name="a.b", select="", source=parse_table("a.b", "x"), time_kind=TimeKind.DATETIME, columns=())
    plan = made(FIRST, statements=(source,))
    begun = what_to_do_instead(*filled(plan, 3), SECOND)
    assert str(begun).endswith(f"then run `clickhouse-backfill resume --plan-id {plan.plan_id}`")
    assert "plan what is left with" in str(what_to_do_instead(plan, new_run(plan), make_plan(2)))


def test_a_wait_for_a_window_that_was_filled_twice_ends(store: StateStore) -> None:
    """Waiting does not remove the doubled rows, unless a rebuild of the stretch is open."""

    def complete(plan: Plan) -> None:
        store.save_plan(plan)
        log = store.open_run(plan)
        for chunk in chunks_of(plan):
            log.append(started(plan, chunk))
            log.append(done(chunk))

    def wait() -> PollResult:
        session = Session(store, parse_options({}), None, "me")
        return poll_window(session, FIRST.target, Window(START, START + DAY))

    for plan in (FIRST, made(SECOND, created_at=START + DAY, existing_rows=None)):
        complete(plan)
    assert f"was filled twice, by plan {FIRST.plan_id} and by plan {SECOND.plan_id}" in wait().lost
    assert wait().lost.endswith(
        f"(next: clickhouse-backfill run --plan-id {SECOND.plan_id} --replay-done --clear-window)"
    )
    rebuild = make_plan(1, hours=24, write_mode=WriteMode.REPLACE, planned_at=START + 2 * DAY)
    store.save_plan(rebuild)
    assert wait() == wait()._replace(lost="", published=None)
    complete(rebuild)
    assert wait().published is not None
