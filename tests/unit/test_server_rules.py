"""The server rules at their edges, from facts alone: when each finds something, its severity, and its remedy."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_provider_backfill.commands.doctor import without_ended
from airflow_provider_backfill.core.facts import (
    ConstrainedSetting,
    CutoverFacts,
    DatabaseReplicaFacts,
    DiskFacts,
    EpochFacts,
    Estimate,
    Misalignment,
    MissingGrant,
    MutationFacts,
    Nondeterminism,
    PartsFacts,
    PolicyFacts,
    QueryFacts,
    QueueFacts,
    ReplicaFacts,
    ScanFacts,
    ServerFacts,
    SpreadFacts,
    StagingFacts,
    StatementScan,
    TtlFacts,
)
from airflow_provider_backfill.core.findings import replica_rules
from airflow_provider_backfill.core.findings.judge import judge
from airflow_provider_backfill.core.findings.registry import Finding, RuleContext, Severity
from airflow_provider_backfill.core.findings.window_rules import (
    LARGE_BYTES,
    LARGE_ROWS,
    MANY_CHUNKS,
    SMALL_ROWS,
)
from airflow_provider_backfill.core.plan import Plan, Shard, Statement, WriteMode
from airflow_provider_backfill.core.run_state import ChunkState, ChunkStatus, ContentSums, Run, Waiver, WorkerLease
from airflow_provider_backfill.core.tables import TableName, TimeKind
from airflow_provider_backfill.errors import Advice, Command, Flag, Sql
from tests.state import START, make_plan

NOW = datetime(2025, 6, 1, tzinfo=UTC)
TARGET, VIEW, RAW = TableName("shop", "orders"), TableName("shop", "view"), TableName("shop", "raw")
STATEMENT = Statement(name="shop.view", select="SELECT 1", source=RAW, time_kind=TimeKind.DATETIME, columns=("a",))
PLAN = make_plan(statements=(STATEMENT,))
ERROR, WARN, INFO = Severity.ERROR, Severity.WARN, Severity.INFO
ESTIMATE = Estimate(4, 4, 4, 10, 20, 30, exact=True, bytes_per_row=10.0)


def look(
    plan: Plan | None = PLAN, run: Run | None = None, *, dead: tuple[str, ...] = (), **facts: Any
) -> list[Finding]:
    """What the rules say of a server that is sound but for *facts*."""
    sound = {"address": PLAN.environment, "target": "shop.orders", "storage": TARGET, "user": "me", "version": (26, 7)}
    server = ServerFacts(**{**sound, **facts})
    if run is None and plan is not None:
        run = Run(plan.plan_id, plan.chunk_count)
    found = judge(RuleContext(moment=NOW, plan=plan, run=run, server=server, dead=frozenset(dead)))
    return [finding for finding in found if finding.code != "backfill_required_pending"]


def one(plan: Plan | None = PLAN, run: Run | None = None, **facts: Any) -> Finding:
    (finding,) = look(plan, run, **facts)
    return finding


def begun(plan: Plan = PLAN) -> Run:
    return Run(plan.plan_id, plan.chunk_count, started=True)


def changed(**changes: Any) -> Plan:
    return PLAN.model_copy(update=changes)


def flags(finding: Finding) -> dict[str, str]:
    assert isinstance(finding.remedy, Command)
    return {flag.name: flag.value for flag in finding.remedy.flags}


REPLACE, INSERT = changed(write_mode=WriteMode.REPLACE), changed(write_mode=WriteMode.INSERT)


def test_a_sound_server_gives_nothing_to_say() -> None:
    assert look() == []
    assert look(None) == []


# ---------------------------------------------------------------- tables and reads


def test_another_address() -> None:
    finding = one(address="http://other:8123/x")
    assert (finding.code, finding.severity) == ("backfill_environment", WARN)
    assert finding.remedy == Command("run", PLAN.plan_id, (Flag("--force-environment"),))
    assert one(run=begun(), address="http://other:8123/x").remedy == Command(
        "resume", PLAN.plan_id, (Flag("--force-environment"),)
    )
    assert look(address="") == []


def test_a_target_that_is_gone() -> None:
    finding = one(storage=None)
    assert (finding.code, finding.severity) == ("backfill_target_missing", ERROR)


def test_sources_that_are_gone_or_refused() -> None:
    refused = StatementScan("shop.view", RAW, None, "no such column")
    assert one(missing_sources=(RAW,), scans=(refused,)).message.startswith("The source shop.raw is not on")
    assert "not accepted by the server any more: no such column" in one(scans=(refused,)).message


def scan(reads: int = 1, filtered: int = 1, *, pruned: bool = True, unsent: str = "") -> tuple[StatementScan, ...]:
    named = frozenset({"" if unsent else "shop.raw"})
    return (StatementScan("shop.view", RAW, ScanFacts(reads, filtered, pruned, True, named, unsent=unsent), ""),)


@pytest.mark.parametrize(("reads", "filtered"), [(1, 0), (2, 1)])
def test_reads_without_the_filter(reads: int, filtered: int) -> None:
    codes = [finding.code for finding in look(scans=scan(reads, filtered))]
    assert "backfill_filter_missing" in codes


def test_a_source_without_an_index_on_time() -> None:
    finding = one(scans=scan(pruned=False))
    assert (finding.code, finding.severity) == ("backfill_not_pruned", WARN)
    assert isinstance(finding.remedy, Sql)
    assert "ALTER TABLE `shop`.`raw` ADD INDEX `backfill_ts` `ts` TYPE minmax" in finding.remedy.statement
    assert look(changed(chunk_count=1), scans=scan(pruned=False)) == []
    assert "backfill_not_pruned" not in [f.code for f in look(scans=scan(1, 0, pruned=False))]


def test_a_source_in_another_database() -> None:
    finding = one(scans=scan(pruned=False, unsent="MySQL"))
    assert (finding.code, finding.severity) == ("backfill_not_pruned", WARN)
    assert isinstance(finding.remedy, Advice), "an index of ours would not help"


def test_a_source_that_is_read_twice() -> None:
    finding = one(scans=scan(2, 2))
    assert (finding.code, flags(finding)["--chunk-hours"]) == ("backfill_source_read_twice", "24")
    assert one(run=begun(), scans=scan(2, 2)).remedy is None, "a run that has begun is not planned again"
    assert look(changed(chunk_count=1), scans=scan(2, 2)) == []
    assert one(changed(chunk_count=2), scans=scan(2, 2)).code == "backfill_source_read_twice"


def test_a_select_that_gives_other_rows() -> None:
    calls, limit = Nondeterminism("v", ("now",), ""), Nondeterminism("v", (), "LIMIT BY")
    assert "uses now()" in one(traits=(calls,)).message
    assert "has LIMIT BY over rows in no order" in one(traits=(limit,)).message
    assert len(look(traits=(Nondeterminism("v", ("now",), "LIMIT BY"),))) == 2


def test_bounds_that_do_not_fit() -> None:
    proposal = Command("plan")
    finding = one(misfit=Misalignment("They do not fit.", proposal))
    assert (finding.code, finding.remedy) == ("backfill_chunk_misaligned", proposal)


# ---------------------------------------------------------------- time and rows


def seam(now: datetime = NOW, rows: int = 0, first: datetime | None = None) -> CutoverFacts:
    return CutoverFacts(now, rows, first, (VIEW,))


def test_a_window_that_is_not_over() -> None:
    assert look(seam=seam(PLAN.end)) == []
    inside = seam(START + timedelta(hours=13))
    finding = one(seam=inside)
    assert (finding.code, finding.severity) == ("backfill_window_open", WARN)
    assert flags(finding)["--to"] == "2025-01-01T12:00:00Z"
    assert one(run=begun(), seam=inside).remedy is None
    assert one(seam=seam(START + timedelta(hours=5))).remedy is None, "no chunk is past"
    assert flags(one(seam=seam(START + timedelta(hours=6))))["--to"] == "2025-01-01T06:00:00Z"
    assert one(REPLACE, seam=inside).severity is ERROR


def test_rows_that_came_since_the_plan() -> None:
    first = START + timedelta(hours=7)
    finding = one(seam=seam(rows=3, first=first))
    assert (finding.code, finding.severity) == ("backfill_target_changed", ERROR)
    assert "has got 3 rows" in finding.message
    assert flags(finding)["--to"] == "2025-01-01T07:00:00Z"
    assert one(seam=seam(rows=3, first=START)).remedy is None, "nothing would be left of the window"
    assert look(changed(existing_rows=3), seam=seam(rows=3, first=first)) == []
    more = one(changed(existing_rows=2), seam=seam(rows=3, first=first))
    assert ("has got 1 row of " in more.message, more.remedy) == (True, None)
    assert look(REPLACE, seam=seam(rows=3, first=first)) == []
    assert look(run=begun(), seam=seam(rows=3, first=first)) == []


def test_an_epoch_in_another_unit() -> None:
    finding = one(epochs=(EpochFacts(TARGET, "ts", 17, "s", "ms"),))
    assert (flags(finding)["--time-unit"], "--force" in flags(finding)) == ("ms", True)


def test_rows_that_a_policy_hides() -> None:
    assert "are not backfilled" in one(policies=(PolicyFacts(RAW, "a = 1"),)).message
    assert "existing rows" in one(policies=(PolicyFacts(TARGET, "a = 1"),)).message


def test_a_ttl_that_would_delete() -> None:
    past = TtlFacts("ts + INTERVAL 1 DAY", NOW)
    assert one(ttls=(past,)).remedy == Sql("ALTER TABLE `shop`.`orders` REMOVE TTL")
    assert look(ttls=(past._replace(until=None),)) == []
    assert one(ttls=(past._replace(column="v"),)).remedy == Sql(
        "ALTER TABLE `shop`.`orders` MODIFY COLUMN `v` REMOVE TTL"
    )


# ---------------------------------------------------------------- views


def test_views_that_do_not_see_moved_rows() -> None:
    finding = one(views_fired=(VIEW,), view_targets={VIEW: TableName("shop", "sums")})
    assert finding.code == "backfill_views_missed"
    assert flags(finding) == {"--target": "shop.sums", "--from": "2025-01-01", "--to": "2025-01-02"}
    assert one(None, views_fired=(VIEW,)).remedy is None


def test_views_that_a_plain_insert_fires() -> None:
    codes = {finding.code for finding in look(INSERT, views_fired=(VIEW,))}
    assert codes == {"backfill_views_doubled", "backfill_write_guarantee"}


def test_a_view_that_replaces_the_target() -> None:
    assert one(views_refreshed=(VIEW,)).remedy == Sql("SYSTEM STOP VIEW `shop`.`view`")


# ---------------------------------------------------------------- replicas, queues, mutations

REPLICA = ReplicaFacts(TARGET, "r1", False, False, 0, 0, 0, 0, (), 2, "")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"delay": replica_rules._LAG_SECONDS, "behind": replica_rules._QUEUE_AT_EASE}, None),
        ({"delay": replica_rules._LAG_SECONDS + 1}, "backfill_replica_lagging"),
        ({"behind": replica_rules._QUEUE_AT_EASE + 1}, "backfill_replica_lagging"),
        ({"queue": 1, "waits": replica_rules._STUCK_SECONDS + 1}, "backfill_replica_lagging"),
        ({"queue": 1, "waits": replica_rules._STUCK_SECONDS}, None),
        ({"queue": 0, "waits": replica_rules._STUCK_SECONDS + 1}, None),
        ({"dead": ("r2",)}, "backfill_replica_dead"),
        ({"readonly": True, "delay": 999}, "backfill_replica_readonly"),
        ({"expired": True, "behind": 999}, "backfill_replica_readonly"),
    ],
)
def test_replicas(changes: dict[str, Any], code: str | None) -> None:
    assert [finding.code for finding in look(replicas=(REPLICA._replace(**changes),))] == ([code] if code else [])


@pytest.mark.parametrize(
    ("behind", "said"), [(1, "1 queued statement, the first"), (2, "2 queued statements, the first")]
)
def test_a_replica_whose_database_executes_nothing_more(behind: int, said: str) -> None:
    stuck = DatabaseReplicaFacts("shop", "r2", behind, replica_rules._STUCK_SECONDS + 1)
    finding = one(database_replicas=(stuck,))
    assert (finding.code, finding.severity) == ("backfill_database_stuck", Severity.WARN)
    assert f"The replica r2 of the database shop has not executed {said} for 16 s." in finding.message
    assert look(database_replicas=(stuck._replace(waits=replica_rules._STUCK_SECONDS),)) == []


def test_shards_that_a_plan_of_a_local_table_leaves_out_are_named() -> None:
    spread = SpreadFacts(TableName("shop", "orders_all"), "main", 1, (2, 3))
    finding = one(spreads=(spread,))
    assert (finding.code, finding.severity) == ("backfill_shards_left_out", WARN)
    assert "shard 1 of the cluster main alone, not shards 2, 3" in finding.message
    assert flags(finding)["--target"] == "shop.orders_all"
    finished = Run(PLAN.plan_id, 1, started=True, counts={ChunkStatus.DONE: 1})
    assert one(run=finished, spreads=(spread,)) == finding
    assert "alone, not shard 3." in one(spreads=(spread._replace(here=2, others=(3,)),)).message
    shards = tuple(Shard(number=number, table=str(number), urls=()) for number in (1, 2, 3))
    assert look(changed(shards=shards), spreads=(spread,)) == []
    assert look(None, spreads=(spread,)) == []


def test_a_queue_says_why_it_waits() -> None:
    queue = QueueFacts(TARGET, 3, False, "")
    assert one(queues=(queue,)).message.endswith("are not sent to the shards yet.")
    assert "sending is stopped" in one(queues=(queue._replace(blocked=True),)).message
    assert "(no route)" in one(queues=(queue._replace(blocked=True, error="no route"),)).message


def test_a_mutation_that_fails_is_worse_than_one_that_lasts() -> None:
    mutation = MutationFacts(TARGET, "m_1", "DELETE", 2, "")
    lasts, fails = one(mutations=(mutation,)), one(mutations=(mutation._replace(error="no column"),))
    assert (lasts.severity, lasts.remedy) == (WARN, None)
    assert fails.severity is ERROR
    assert isinstance(fails.remedy, Sql)
    assert "mutation_id = 'm_1'" in fails.remedy.statement


# ---------------------------------------------------------------- parts, partitions, disks

PARTS = PartsFacts(TARGET, "202501", 10, 1000, 3000, 50, 100_000, 1)


@pytest.mark.parametrize(
    ("changes", "severity"),
    [
        ({"parts": 799}, None),
        ({"parts": 800}, WARN),
        ({"parts": 2999}, WARN),
        ({"parts": 3000}, ERROR),
        ({"total": 79_999}, None),
        ({"total": 80_000}, WARN),
        ({"total": 100_000}, ERROR),
    ],
)
def test_parts(changes: dict[str, Any], severity: Severity | None) -> None:
    found = look(parts=(PARTS._replace(**changes),))
    assert [finding.severity for finding in found] == ([severity] if severity else [])


@pytest.mark.parametrize(
    ("plan", "count", "severity"),
    [(PLAN, 100, None), (PLAN, 101, WARN), (INSERT, 10, None), (INSERT, 11, ERROR), (INSERT, None, None)],
)
def test_partitions_of_a_chunk(plan: Plan, count: int | None, severity: Severity | None) -> None:
    found = [f for f in look(plan, partitions_per_chunk=count, partitions_limit=10) if f.code.endswith("partitions")]
    assert [finding.severity for finding in found] == ([severity] if severity else [])
    assert not [f for f in look(INSERT, partitions_per_chunk=500) if f.code.endswith("partitions")], "0 is no limit"


def test_a_partition_too_large_to_drop() -> None:
    large: dict[str, Any] = {"parts": (PARTS._replace(largest=101),), "drop_limit": 100, "drop_limit_tied": True}
    assert one(REPLACE, **large).code == "backfill_drop_limit"
    kibibyte: dict[str, Any] = {**large, "parts": (PARTS._replace(largest=1024),)}
    assert "is 1 KiB, replacing it is refused over 100 B" in one(REPLACE, **kibibyte).message
    assert look(REPLACE, **{**large, "drop_limit": 101}) == []
    assert look(REPLACE, **{**large, "drop_limit_tied": False}) == []
    assert look(REPLACE, **{**large, "drop_limit": 0}) == []
    assert look(**large) == []


def test_disks_without_room_for_three_copies() -> None:
    heavy = replace(ESTIMATE, largest=100)
    full: dict[str, Any] = {"estimate": heavy, "disks": (DiskFacts("a", 1000), DiskFacts("b", 1999))}
    finding = one(**full, proposed_hours=3)
    assert (finding.code, flags(finding)["--chunk-hours"]) == ("backfill_disk_space", "3")
    assert one(**full, proposed_hours=6).remedy is None
    assert one(**full).remedy is None
    assert one(run=begun(), **full, proposed_hours=3).remedy is None
    assert look(estimate=heavy, disks=(DiskFacts("a", 3000),)) == []
    assert look(estimate=replace(heavy, bytes_per_row=None), disks=(DiskFacts("a", 0),)) == []


# ---------------------------------------------------------------- rights, settings, guarantees


def test_rights_and_settings() -> None:
    grant = one(grants=(MissingGrant("SELECT", "`shop`.`raw`"),))
    assert grant.remedy == Sql("GRANT SELECT ON `shop`.`raw` TO `me`")
    setting = one(settings=(ConstrainedSetting("max_threads", "1", "2", "read only"),))
    assert "may not set max_threads = 1 (it is 2, read only)" in setting.message


def test_a_plain_insert_is_at_least_once() -> None:
    assert one(INSERT).code == "backfill_write_guarantee"


@pytest.mark.parametrize(
    ("plan", "facts", "severity"),
    [
        (PLAN, {"version": (26, 1, 3)}, INFO),
        (PLAN, {"version": (26, 2, 9)}, INFO),
        (PLAN, {"version": (26, 3)}, None),
        (INSERT, {"version": (26, 1)}, WARN),
        (INSERT, {"token_window": 0}, WARN),
        (INSERT, {"token_window": 1}, None),
        (PLAN, {"token_window": 0}, None),
        (changed(use_tokens=False), {"version": (26, 1)}, None),
    ],
)
def test_tokens_that_do_nothing(plan: Plan, facts: dict[str, Any], severity: Severity | None) -> None:
    found = [finding for finding in look(plan, **facts) if finding.code == "backfill_token_ignored"]
    assert [finding.severity for finding in found] == ([severity] if severity else [])


@pytest.mark.parametrize(
    ("plan", "version", "engine", "told"),
    [
        (REPLACE, (26, 5, 9), "MergeTree", True),
        (REPLACE, (25, 8), "ReplacingMergeTree", True),
        (REPLACE, (26, 6), "MergeTree", False),
        (REPLACE, (26, 5), "ReplicatedMergeTree", False),
        (PLAN, (26, 5), "MergeTree", False),
    ],
)
def test_replaced_rows_that_a_restart_brings_back(
    plan: Plan, version: tuple[int, ...], engine: str, told: bool
) -> None:
    codes = [finding.code for finding in look(plan, version=version, engine=engine)]
    assert codes == (["backfill_replaced_rows_return"] if told else [])


# ---------------------------------------------------------------- leftovers

OTHER = "f" * 16


def staged(plan_id: str = PLAN.plan_id, age: int = 9999, rows: int | None = 5) -> tuple[StagingFacts, ...]:
    return (StagingFacts(TableName("shop", f"backfill_{plan_id}_{'c' * 16}_1"), plan_id, rows, age),)


def test_tables_of_this_plan() -> None:
    done = Run(PLAN.plan_id, 4, started=True, counts={ChunkStatus.DONE: 4})
    assert str(one(run=done, staging=staged()).remedy) == f"clickhouse-backfill clean --plan-id {PLAN.plan_id} --yes"
    assert "2 tables, such as" in one(run=done, staging=staged() * 2).message
    assert "(rows that nobody has counted)" in one(run=done, staging=staged(rows=None)).message
    assert look(run=begun(), staging=staged()) == []
    cancelled = Run(PLAN.plan_id, 4, started=True, cancelled=True)
    assert one(run=cancelled, staging=staged()).severity is INFO
    busy = Run(PLAN.plan_id, 4, started=True, cancelled=True, counts={ChunkStatus.RUNNING: 1})
    assert look(run=busy, staging=staged()) == []


def test_tables_of_a_waived_plan_whose_worker_died() -> None:
    """A worker takes over a dead worker's tables, unless the plan is waived."""
    waived = Run(
        PLAN.plan_id,
        4,
        started=True,
        workers={"w": WorkerLease(NOW, 60)},
        counts={ChunkStatus.RUNNING: 1},
        chunks={"c" * 16: ChunkState(ChunkStatus.RUNNING, 1, owner="w")},
        waiver=Waiver("me", "another plan fills it"),
    )
    code = "backfill_staging_orphaned"
    for run, dead, found in (
        (waived, ("w",), True),
        (waived, (), False),
        (replace(waived, waiver=None), ("w",), False),
    ):
        assert (code in [finding.code for finding in look(run=run, dead=dead, staging=staged())]) is found


def test_tables_that_are_kept_for_a_plan_that_nobody_continues() -> None:
    """Rows of its chunk may be in the target in part; only a person knows whether to finish or to drop them."""
    chunk = "c" * 16
    state = ChunkState(ChunkStatus.FAILED, 1, verified={1: ContentSums(5, 7)})
    waived = Run(
        PLAN.plan_id,
        4,
        started=True,
        counts={ChunkStatus.FAILED: 1},
        chunks={chunk: state},
        waiver=Waiver("me", "another plan fills it"),
    )
    name = f"backfill_{PLAN.plan_id}_{chunk}_sealed_1a2b3c4d"
    sealed = (StagingFacts(TableName("shop", name), PLAN.plan_id, 5, 9999),)
    finding = orphaned(run=waived, staging=sealed)
    assert (finding.severity, finding.remedy) == (WARN, Sql(f"DROP TABLE `shop`.`{name}` SYNC"))
    (elsewhere,) = sealed
    dropped = orphaned(run=waived, staging=(elsewhere._replace(cluster="all"),)).remedy
    assert dropped == Sql(f"DROP TABLE `shop`.`{name}` ON CLUSTER `all` SYNC")
    finding = orphaned(run=replace(waived, counts={}, cancelled=True, waiver=None), staging=sealed)
    assert (finding.severity, str(finding.remedy)) == (INFO, f"clickhouse-backfill resume --plan-id {PLAN.plan_id}")
    assert f"run DROP TABLE `shop`.`{name}` SYNC." in finding.message
    for other in (
        replace(waived, waiver=None),
        replace(waived, waiver=Waiver("me", "next week", NOW + timedelta(days=1))),
    ):
        assert "backfill_staging_orphaned" not in [finding.code for finding in look(run=other, staging=sealed)]


def orphaned(run: Run, **facts: Any) -> Finding:
    (finding,) = (one for one in look(run=run, **facts) if one.code == "backfill_staging_orphaned")
    return finding


def test_tables_of_no_plan_here() -> None:
    finding = one(staging=staged(OTHER))
    assert "of plan ffffffffffffffff, which this state folder does not have" in finding.message
    assert "clean --plan-id ffffffffffffffff --target" in str(finding.remedy)
    assert look(staging=staged(OTHER, age=3600)) == []
    assert one(staging=staged(OTHER, age=3601)).severity is WARN
    assert look(staging=staged(OTHER), known_plans=frozenset({OTHER})) == []
    # A query of that plan is running, so a worker is active.
    query = QueryFacts("q", OTHER, "c", 1, "me", 1.0)
    assert look(staging=staged(OTHER), queries=(query,)) == []


def claimed(status: ChunkStatus = ChunkStatus.RUNNING, attempt: int = 2, owner: str = "w") -> Run:
    state = ChunkState(status, attempt, owner=owner)
    return Run(PLAN.plan_id, 4, started=True, chunks={"c": state}, counts={status: 1})


QUERY = QueryFacts("backfill-x", PLAN.plan_id, "c", 2, "me", 12.0)


def unowned(run: Run, query: QueryFacts = QUERY, **facts: Any) -> list[Finding]:
    return [f for f in look(run=run, queries=(query,), **facts) if f.code == "backfill_query_unowned"]


def test_the_query_of_a_living_worker_is_left_alone() -> None:
    assert unowned(claimed()) == []
    assert unowned(claimed(), QUERY._replace(plan_id=OTHER)) == []


def test_a_plan_without_a_run_owns_no_query() -> None:
    server = ServerFacts(queries=(QUERY,))
    assert judge(RuleContext(moment=NOW, plan=PLAN, server=server)) == []
    assert judge(RuleContext(moment=NOW, server=server)) == []


@pytest.mark.parametrize(
    ("run", "dead"),
    [(claimed(attempt=3), ()), (claimed(ChunkStatus.PENDING, owner=""), ()), (claimed(), ("w",))],
)
def test_a_query_that_nobody_owns_is_to_be_killed(run: Run, dead: tuple[str, ...]) -> None:
    (finding,) = unowned(run, dead=dead)
    assert finding.severity is ERROR
    assert finding.remedy == Sql("KILL QUERY WHERE query_id = 'backfill-x' SYNC")
    (elsewhere,) = unowned(run, QUERY._replace(cluster="all"), dead=dead)
    assert elsewhere.remedy == Sql("KILL QUERY ON CLUSTER `all` WHERE query_id = 'backfill-x' SYNC")


# ---------------------------------------------------------------- sizes of chunks

MANY = changed(chunk_count=MANY_CHUNKS)
SMALL = replace(ESTIMATE, median=SMALL_ROWS - 1)


def test_a_query_that_has_ended_since_is_no_finding() -> None:
    """Its claim may have ended with it, between the look at the server and the look at the log."""
    running, ended = (QueryFacts(f"backfill-{name}", PLAN.plan_id, "c", 1, "me", 3.0) for name in "ab")
    facts = ServerFacts(queries=(running, ended))
    assert without_ended(facts, lambda: [running]).queries == (running,)
    assert without_ended(ServerFacts(), lambda: pytest.fail("there is nothing to ask about")).queries == ()


def test_chunks_that_are_small() -> None:
    finding = one(MANY, estimate=SMALL, proposed_hours=12)
    assert (finding.code, finding.severity, flags(finding)["--chunk-hours"]) == ("backfill_chunks_small", INFO, "12")
    assert look(MANY, estimate=replace(SMALL, median=SMALL_ROWS), proposed_hours=12) == []
    assert look(changed(chunk_count=MANY_CHUNKS - 1), estimate=SMALL, proposed_hours=12) == []
    assert look(MANY, estimate=SMALL, proposed_hours=6) == []
    assert look(MANY, estimate=SMALL) == []
    assert look(MANY, estimate=replace(SMALL, filled=0), proposed_hours=12) == []
    assert look(MANY, begun(MANY), estimate=SMALL, proposed_hours=12) == []


def test_chunks_that_are_large() -> None:
    by_rows = replace(ESTIMATE, largest=LARGE_ROWS + 1, median=LARGE_ROWS, bytes_per_row=None)
    finding = one(estimate=by_rows, proposed_hours=3)
    assert (finding.code, finding.severity, flags(finding)["--chunk-hours"]) == ("backfill_chunks_large", WARN, "3")
    assert look(estimate=replace(by_rows, largest=LARGE_ROWS), proposed_hours=3) == []
    assert look(estimate=by_rows, proposed_hours=6) == []
    assert look(run=begun(), estimate=by_rows, proposed_hours=3) == []
    by_bytes = replace(ESTIMATE, largest=2, bytes_per_row=LARGE_BYTES / 2 + 1, exact=False)
    assert "about 10 to 2 (10 GiB) rows each" in one(estimate=by_bytes, proposed_hours=3).message
    assert look(estimate=replace(by_bytes, bytes_per_row=LARGE_BYTES / 2), proposed_hours=3) == []
