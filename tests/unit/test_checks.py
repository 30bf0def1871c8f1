"""The rules alone: their inputs, their findings on facts that no server here can have, and the reference."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_backfill.cli.parser import parse
from airflow_provider_backfill.cli.plan_request import read_request
from airflow_provider_backfill.core.coverage import CoveredInterval, merge_intervals, missing_intervals
from airflow_provider_backfill.core.facts import ReplicaFacts, ServerFacts
from airflow_provider_backfill.core.findings.judge import RULES, judge
from airflow_provider_backfill.core.findings.registry import (
    Finding,
    RequiredBackfill,
    Rule,
    RuleContext,
    RuleScope,
    Severity,
)
from airflow_provider_backfill.core.findings.state_rules import next_step
from airflow_provider_backfill.core.plan import AddsUp, FilteredTable, Parameter, Proof, Shard, Statement, WriteMode
from airflow_provider_backfill.core.remedy import plan_command
from airflow_provider_backfill.core.request import TableFilter
from airflow_provider_backfill.core.run_state import ChunkStatus, Run, RunStatus, Waiver, WorkerLease
from airflow_provider_backfill.core.tables import TableName, TimeKind
from airflow_provider_backfill.core.window import Window
from airflow_provider_backfill.errors import Flag, Sql
from airflow_provider_backfill.options import Options
from tests.state import make_plan

TESTS = Path(__file__).parents[1]
NOW = datetime(2025, 6, 1, tzinfo=UTC)
PLAN = make_plan()
TARGET = TableName("shop", "orders")


def run(**changes: Any) -> Run:
    """A run of PLAN."""
    return Run(PLAN.plan_id, PLAN.chunk_count, **changes)


def codes(case: RuleContext) -> list[str]:
    return [finding.code for finding in judge(case)]


def find(case: RuleContext, code: str) -> Finding:
    (finding,) = [finding for finding in judge(case) if finding.code == code]
    return finding


# ---------------------------------------------------------------- the rule set


def test_every_rule_has_a_code_of_its_own() -> None:
    assert len({rule.code for rule in RULES}) == len(RULES)
    assert all(re.fullmatch("backfill_[a-z_]+", rule.code) for rule in RULES)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.reproduced], ids=lambda rule: rule.code)
def test_what_is_said_to_be_shown_on_a_server_is(rule: Rule) -> None:
    """The reference says of each unmarked rule that a test brings a real server into the state."""
    tiers = (TESTS / "clickhouse", TESTS / "cluster")
    texts = [path.read_text(encoding="utf-8") for tier in tiers for path in tier.glob("test_*.py")]
    assert any(rule.code in text for text in texts)


def test_nothing_is_found_where_nothing_was_looked_at() -> None:
    """Facts that are missing are no facts: a rule never guesses."""
    case = RuleContext(moment=NOW, plan=PLAN, run=run())
    assert codes(case) == ["backfill_required_pending"]
    assert codes(replace(case, server=ServerFacts())) == ["backfill_required_pending"]
    assert codes(RuleContext(moment=NOW)) == []


def test_a_finished_plan_is_only_asked_for_leftovers() -> None:
    """What a server has become since then is none of its business."""
    done = run(started=True, counts={ChunkStatus.DONE: 4})
    broken = ReplicaFacts(TARGET, "r1", True, True, 9000, 1, 1, 1, ("r2",), 2, "")
    server = ServerFacts(address="http://elsewhere:8123", replicas=(broken,), storage=TARGET)
    assert codes(RuleContext(moment=NOW, plan=PLAN, run=done, server=server)) == []


# ---------------------------------------------------------------- replicas


def _replica(**changes: Any) -> RuleContext:
    healthy = ReplicaFacts(TARGET, "r1", False, False, 0, 0, 0, 0, (), 2, "")
    server = ServerFacts(address=PLAN.environment, target=TARGET, storage=TARGET)
    return RuleContext(
        moment=NOW, plan=PLAN, run=run(), server=replace(server, replicas=(healthy._replace(**changes),))
    )


def test_a_healthy_replica_is_no_finding() -> None:
    """A few seconds and a few queued entries are the daily life of a replica."""
    assert codes(_replica(delay=20, queue=30, waits=5, behind=10)) == ["backfill_required_pending"]


@pytest.mark.parametrize("changes", [{"readonly": True}, {"expired": True}])
def test_a_replica_without_keeper(changes: dict[str, bool]) -> None:
    finding = find(_replica(error="Session expired", **changes), "backfill_replica_readonly")
    assert finding.severity is Severity.ERROR
    assert "shop.orders" in finding.message
    assert "Session expired" in finding.message
    assert finding.remedy == Sql("SYSTEM RESTART REPLICA `shop`.`orders`")


@pytest.mark.parametrize("changes", [{"delay": 301}, {"behind": 101}, {"queue": 1, "waits": 16}])
def test_a_replica_that_is_behind(changes: dict[str, int]) -> None:
    finding = find(_replica(**changes), "backfill_replica_lagging")
    assert finding.severity is Severity.WARN
    assert finding.remedy == Sql("SYSTEM SYNC REPLICA `shop`.`orders` LIGHTWEIGHT")


# ---------------------------------------------------------------- state


def test_the_policy_and_the_age_decide_how_bad_unfinished_is() -> None:
    case = RuleContext(moment=PLAN.created_at + timedelta(hours=10), plan=PLAN, run=run(), gate=True)
    code = "backfill_required_pending"
    assert find(case, code).severity is Severity.ERROR
    assert find(replace(case, required=False), code).severity is Severity.WARN
    assert find(replace(case, max_age=timedelta(hours=11)), code).severity is Severity.WARN
    old = find(replace(case, max_age=timedelta(hours=10)), code)
    assert old.severity is Severity.ERROR
    assert "planned 10 h ago" in old.message


def test_backfill_policy_relaxed_is_said_once_for_all_plans() -> None:
    assert codes(RuleContext(moment=NOW, required=False)) == ["backfill_policy_relaxed"]
    assert codes(RuleContext(moment=NOW, plan=PLAN, run=run(), required=False)) == ["backfill_required_pending"]


def test_a_waiver_counts_until_its_end() -> None:
    waived = run(waiver=Waiver("someone", "the source is gone", NOW), counts={ChunkStatus.FAILED: 4}, started=True)
    case = RuleContext(moment=NOW - timedelta(seconds=1), plan=PLAN, run=waived)
    assert codes(case) == ["backfill_waived"]
    assert set(codes(replace(case, moment=NOW))) == {
        *("backfill_required_pending", "backfill_chunk_failed_retry_exhausted")
    }


def test_claims_of_the_dead_are_counted_and_freed_by_the_right_command() -> None:
    """Of a cancelled run a resume would start the work again; there cancel frees the claims."""
    workers = {"a:1:2:x": WorkerLease(NOW, 60, claims=3), "b:1:2:y": WorkerLease(NOW, 60)}
    stuck = run(started=True, workers=workers, counts={ChunkStatus.RUNNING: 4})
    case = RuleContext(moment=NOW, plan=PLAN, run=stuck, dead=frozenset({"a:1:2:x"}))
    finding = find(case, "backfill_claim_stuck")
    assert "3 chunks" in finding.message
    assert "b:1:2:y" not in finding.message
    assert " resume " in finding.hint
    cancelled = replace(case, run=run(started=True, workers=workers, cancelled=True))
    assert " cancel " in find(cancelled, "backfill_claim_stuck").hint
    assert " status " in find(case, "backfill_required_pending").hint
    everybody = replace(case, dead=frozenset(workers))
    assert " resume " in find(everybody, "backfill_required_pending").hint


def test_claims_of_the_dead_do_not_fail_the_check_of_a_waived_plan() -> None:
    """No worker has to execute its chunks; a resume would end the waiver, so cancel releases the claims."""
    workers = {"a:1:2:x": WorkerLease(NOW, 60)}
    abandoned = run(started=True, workers=workers, counts={ChunkStatus.RUNNING: 1})
    case = RuleContext(moment=NOW, plan=PLAN, run=abandoned, dead=frozenset(workers))
    assert find(case, "backfill_claim_stuck").severity is Severity.ERROR
    waived = replace(case, run=replace(abandoned, waiver=Waiver("someone", "another plan fills it", None)))
    finding = find(waived, "backfill_claim_stuck")
    assert finding.severity is Severity.WARN
    assert " cancel " in finding.hint
    assert all(finding.severity is not Severity.ERROR for finding in judge(waived))


@pytest.mark.parametrize(
    ("changes", "verb"),
    [
        ({}, "run"),
        ({"started": True}, "status"),
        ({"started": True, "paused": True}, "resume"),
        ({"started": True, "cancelled": True}, "resume"),
        ({"started": True, "cancelled": True, "undoing": True}, "undo"),
        ({"started": True, "counts": {ChunkStatus.FAILED: 4}}, "resume"),
    ],
)
def test_the_next_step_fits_the_status(changes: dict[str, Any], verb: str) -> None:
    step = next_step(PLAN, run(**changes))
    assert step is not None
    assert (step.verb, step.plan_id) == (verb, PLAN.plan_id)


def test_a_finished_plan_has_no_next_step() -> None:
    done = run(started=True, counts={ChunkStatus.DONE: 4})
    assert done.status is RunStatus.COMPLETED
    assert next_step(PLAN, done) is None


def test_findings_come_worst_first() -> None:
    case = RuleContext(moment=NOW, plan=PLAN, run=run(throttled_by="the disk is full", started=True))
    assert codes(case) == ["backfill_required_pending", "backfill_run_throttled"]


# ---------------------------------------------------------------- commands to paste


def test_a_plan_can_be_planned_again_by_its_command() -> None:
    """A SELECT is text with quotes and line breaks; the shell must give it back as it was."""
    select = "SELECT *\nFROM shop.`raw it's` WHERE x = \"y\" AND z = '$HOME'"
    statement = Statement(
        name="--select",
        select=select,
        source=TableName("shop", "raw"),
        time_kind=TimeKind.EPOCH_MS,
        columns=("a",),
        row_wise=True,
    )
    plan = PLAN.model_copy(
        update={"statements": (statement,), "write_mode": WriteMode.REPLACE, "allow_existing_rows": True}
    )
    words = shlex.split(str(plan_command(plan, Flag("--chunk-hours", "24"))))
    flags = dict(pairwise(words))
    assert words[:2] == ["clickhouse-backfill", "plan"]
    assert flags["--select"] == select
    assert flags["--filter-table"] == "shop.raw"
    assert flags["--time-unit"] == "ms"
    assert flags["--write-mode"] == "replace"
    assert words.count("--chunk-hours") == 1
    assert flags["--chunk-hours"] == "24"
    assert "--allow-existing-rows" in words


def _filtered(table: str, column: str) -> FilteredTable:
    return FilteredTable(table=TableName("shop", table), column=column, kind=TimeKind.DATETIME)


def _shard(number: int, *urls: str) -> Shard:
    return Shard(number=number, table=f"default:/{number}", urls=urls)


_SELECT = Statement(
    name="--select",
    select="SELECT ts FROM shop.a UNION ALL SELECT at AS ts FROM shop.b",
    source=TableName("shop", "a"),
    time_kind=TimeKind.DATETIME,
    columns=("ts",),
)
_VIEW = _SELECT.model_copy(update={"name": "shop.view"})
_BOUND = Parameter(name="chunk_from", kind=TimeKind.EPOCH_MS)
_FORMAT = Parameter(name="day", format="%Y-%m-%d")
AGAIN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tables read whole": (
        {"whole_tables": (TableName("shop", "rates"), TableName("shop", "x=y"))},
        {"whole_tables": (TableName("shop", "rates"), TableName("shop", "x=y"))},
    ),
    "groups that are cut": (
        {"adds_up": AddsUp(proof=Proof.BY_WORD, accepted="it's a sum")},
        {"accept_partial_groups": "it's a sum"},
    ),
    "no trial": ({"adds_up": AddsUp(proof=Proof.NOT_SHOWN, trial_declined=True)}, {"trial": False}),
    "a table on each shard": (
        {"cluster": "main", "shard_table": TARGET, "known_as": (TARGET, TableName("shop", "all"))},
        {"cluster": "main"},
    ),
    "addresses of shards": (
        {
            "cluster": "main",
            "shard_table": TARGET,
            "shards": (_shard(1, "http://a:1", "http://b:1"), _shard(2, "http://c:1")),
        },
        {"cluster": "main", "shard_urls": {1: ("http://a:1", "http://b:1"), 2: ("http://c:1",)}},
    ),
    "the rows of all shards on one": ({"one_shard": True}, {"one_shard": True}),
    "a Distributed table": (
        {"cluster": "main", "shard_table": TableName("shop", "local"), "known_as": (TARGET,)},
        {"cluster": ""},
    ),
    "branches of a UNION": (
        {"statements": (_SELECT.model_copy(update={"also_filtered": (_filtered("b", "(at + 1 = 2)"),)}),)},
        {
            "filter_tables": (
                TableFilter(TableName("shop", "a"), "ts"),
                TableFilter(TableName("shop", "b"), "(at + 1 = 2)"),
            )
        },
    ),
    "a view with two of them": (
        {"statements": (_VIEW.model_copy(update={"also_filtered": (_filtered("b", "at"),)}),)},
        {
            "select": None,
            "filter_tables": (TableFilter(TableName("shop", "a"), "ts"), TableFilter(TableName("shop", "b"), "at")),
        },
    ),
    "bounds of the user": (
        {
            "time_column": "chunk_from",
            "statements": (_SELECT.model_copy(update={"source": None, "parameters": (_BOUND, _FORMAT)}),),
        },
        {"time_unit": "ms", "filter_tables": (), "formats": (("day", "%Y-%m-%d"),)},
    ),
}


@pytest.mark.parametrize(("changes", "wanted"), AGAIN.values(), ids=AGAIN)
def test_a_pasted_command_plans_the_same(changes: dict[str, Any], wanted: dict[str, Any]) -> None:
    """What the user has declared, and the tables that the window limits, decide which rows are written."""
    plan = PLAN.model_copy(update={"statements": (_SELECT,), **changes})
    words = shlex.split(str(plan_command(plan, Flag("--to", "2025-01-02"))))
    request = read_request(parse(words[1:]), Options())
    assert {name: getattr(request, name) for name in wanted} == wanted
    assert (request.target, request.start) == (TARGET, plan.start)
    assert words.count("--to") == 1


@pytest.mark.parametrize(
    ("changes", "given"),
    [
        ({"statements": (_VIEW, _VIEW)}, True),
        ({"statements": (_VIEW, _VIEW.model_copy(update={"time_column": "at"}))}, False),
        ({"statements": (_SELECT.model_copy(update={"source": None, "parameters": (_BOUND,)}),)}, True),
        (
            {
                "statements": (_SELECT.model_copy(update={"source": None, "parameters": (_BOUND,)}),),
                "time_column": "chunk_from",
            },
            False,
        ),
    ],
)
def test_a_command_names_the_time_column_that_was_given(changes: dict[str, Any], given: bool) -> None:
    """Not that of the first of several views, which the others do not have, and not the name of a parameter."""
    assert ("--time-column" in str(plan_command(PLAN.model_copy(update=changes))).split()) is given


def test_a_plan_of_views_names_no_source() -> None:
    """They are found again; naming their source would copy it instead of replaying them."""
    statement = Statement(
        name="shop.view",
        select="SELECT 1",
        source=TableName("shop", "raw"),
        time_kind=TimeKind.DATETIME,
        columns=("a",),
    )
    command = str(plan_command(PLAN.model_copy(update={"statements": (statement,)})))
    assert "--source" not in command
    assert "--select" not in command


def test_a_declared_backfill_names_itself_and_what_is_missing() -> None:
    declared = RequiredBackfill(TARGET, NOW, NOW + timedelta(days=2), "wrong tax", "billing", "f.toml [[backfill]] 3")
    case = RuleContext(moment=NOW, missing=((declared, NOW, NOW + timedelta(hours=6)),))
    finding = find(case, "backfill_plan_missing")
    assert finding.hint == ("clickhouse-backfill plan --target shop.orders --from 2025-06-01 --to 2025-06-01T06:00:00Z")
    for part in ("f.toml [[backfill]] 3", "wrong tax", "billing"):
        assert part in finding.message


def test_every_rule_of_the_server_is_asked_for_a_target_without_a_plan() -> None:
    """None may need a plan that is not there."""
    server = ServerFacts(address="http://a", target=TARGET, user="u")
    assert codes(RuleContext(moment=NOW, server=server)) == ["backfill_target_missing"]
    assert {rule.needs for rule in RULES} == set(RuleScope)


# ---------------------------------------------------------------- coverage

_HOURS = st.integers(0, 48)
_STRETCHES = st.lists(st.tuples(_HOURS, _HOURS).filter(lambda pair: pair[0] < pair[1]), max_size=8)


def _at(hour: int) -> datetime:
    return NOW + timedelta(hours=hour)


@given(_STRETCHES, st.tuples(_HOURS, _HOURS).filter(lambda pair: pair[0] < pair[1]))
def test_gaps_are_what_no_stretch_covers(stretches: list[tuple[int, int]], window: tuple[int, int]) -> None:
    """Hour by hour, against a set."""
    merged = merge_intervals(CoveredInterval(_at(start), _at(end), (f"{start}",)) for start, end in stretches)
    found = [(start, end) for start, end in missing_intervals(merged, Window(_at(window[0]), _at(window[1])))]
    missing = {h for h in range(*window) if not any(start <= h < end for start, end in stretches)}
    assert {h for h in range(48) if any(start <= _at(h) < end for start, end in found)} == missing
    assert all(first.end < second.start for first, second in pairwise(merged))
    assert all(end < start for (_, end), (start, _) in pairwise(found))


def test_touching_stretches_are_one_and_keep_their_plans() -> None:
    day = timedelta(days=1)
    assert merge_intervals(
        [CoveredInterval(NOW + day, NOW + 2 * day, ("b",)), CoveredInterval(NOW, NOW + day, ("a",))]
    ) == [CoveredInterval(NOW, NOW + 2 * day, ("a", "b"))]
