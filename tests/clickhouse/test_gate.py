"""A run waits for the server, reports it and continues; another run stops when every chunk fails."""

from __future__ import annotations

from airflow_provider_backfill.clickhouse import catalog
from airflow_provider_backfill.clickhouse.client import connect
from airflow_provider_backfill.clickhouse.throttle import LoadThrottle
from tests.clickhouse.ward import Clinic, Ward
from tests.command_line import finish, wait_until

PARTS = "ALTER TABLE filled MODIFY SETTING max_bytes_to_merge_at_max_space_in_pool = 1, parts_to_delay_insert = "


def crowd(ward: Ward, parts: int = 4) -> None:
    """Give the target many parts in one partition, with a limit that they reach."""
    ward.sql(f"{PARTS}5")
    for number in range(parts):
        ward.sql(f"INSERT INTO filled SELECT toDateTime('2024-01-01', 'UTC') + {number}, 0, 0")


def test_a_run_waits_for_parts_says_so_and_goes_on(ward: Ward) -> None:
    """After the limit is lowered, the run waits; after it is raised, the run continues automatically."""
    plan = ward.planned()
    crowd(ward)
    process = ward.cli.start("run", "--plan-id", plan["planId"])
    wait_until(lambda: any(event["type"] == "RunThrottled" for event in ward.cli.events(plan["planId"])))
    status = ward.cli.json("status", "--plan-id", plan["planId"])
    assert "partition 202401" in status["throttledBy"]
    assert "has 4 parts; inserts are slowed down from 5 on" in status["throttledBy"]
    assert [finding["code"] for finding in status["findings"]] == ["backfill_run_throttled"]
    assert "waits" in ward.cli("status", "--plan-id", plan["planId"]).out
    assert status["attempts"] == 0

    ward.sql(f"{PARTS}1000")
    answer = finish(process)
    assert answer.code == 0
    assert "waits: partition 202401" in answer.err
    status = ward.cli.json("status", "--plan-id", plan["planId"])
    assert status["status"] == "completed"
    assert "throttledBy" not in status
    assert ward.value("SELECT count() FROM filled WHERE ts >= '2025-01-01'") == 2880


def test_a_waiting_run_is_cancelled_at_once(ward: Ward) -> None:
    plan = ward.planned()
    crowd(ward)
    process = ward.cli.start("run", "--plan-id", plan["planId"])
    wait_until(lambda: any(event["type"] == "RunThrottled" for event in ward.cli.events(plan["planId"])))
    assert ward.cli("cancel", "--plan-id", plan["planId"]).code == 0
    assert finish(process, 10).code == 1
    assert not any(event["type"] == "ChunkStarted" for event in ward.cli.events(plan["planId"]))
    assert "throttledBy" not in ward.cli.json("status", "--plan-id", plan["planId"])


def test_the_share_of_the_limits_is_the_users(ward: Ward) -> None:
    """Four of five parts is over 80 percent, and not over 90."""
    plan = ward.planned()
    crowd(ward)
    assert ward.cli("run", "--plan-id", plan["planId"], "--max-load", "90").code == 0
    for wrong in ("0", "101", "x", "-5"):
        assert ward.cli("run", "--plan-id", plan["planId"], "--max-load", wrong).code == 2
    for wrong in ("0", "1.5", "x"):
        assert ward.cli("run", "--plan-id", plan["planId"], "--max-failures", wrong).code == 2


def test_memory_and_disk_hold_a_run_up(clinic: Clinic) -> None:
    tight = clinic.server.directory / "tight"
    clinic.configure(
        f"<storage_configuration><disks><tight><type>local</type><path>{tight}/</path>"
        f"<keep_free_space_bytes>{2**60}</keep_free_space_bytes></tight></disks>"
        "<policies><tight><volumes><one><disk>tight</disk></one></volumes></tight></policies></storage_configuration>"
    )
    ward = clinic.ward()
    ward.sql("CREATE TABLE roomy (n UInt8) ENGINE = MergeTree ORDER BY n")
    ward.sql("CREATE TABLE filled (n UInt8) ENGINE = MergeTree ORDER BY n SETTINGS storage_policy = 'tight'")
    server = ward.server()
    roomy, filled = (catalog.table_facts(server, ward.table(name)) for name in ("roomy", "filled"))
    assert roomy is not None
    assert filled is not None
    assert LoadThrottle(server, roomy)() == ""
    assert "GiB of memory" in LoadThrottle(server, roomy, max_load=1e-6)()
    assert LoadThrottle(server, filled)() == "the disk tight of clinic.filled has 0.0 GiB free"


def test_who_may_not_look_is_not_held_up(clinic: Clinic) -> None:
    """Rights on system tables are not needed to run."""
    clinic.user(grants=("SELECT ON clinic.*",))
    ward = clinic.ward()
    ward.target()
    crowd(ward)
    facts = catalog.table_facts(ward.server(), ward.table("filled"))
    assert facts is not None
    assert "4 parts" in LoadThrottle(ward.server(), facts)()
    with_less = connect(ward.engine.url.replace("default@", "own@"))
    assert LoadThrottle(with_less, facts)() == ""


def test_an_answer_holds_for_a_moment(ward: Ward) -> None:
    """Many threads ask before each chunk; the server is asked once a second."""
    facts = catalog.table_facts(ward.server(), ward.table("filled"))
    assert facts is not None
    gate = LoadThrottle(ward.server(), facts, pause=3600)
    assert gate() == ""
    crowd(ward)
    assert gate() == ""
    assert "4 parts" in LoadThrottle(ward.server(), facts)()


FAILING = "SELECT ts, k, v + throwIf({}, 'broken') AS v FROM {}.events"


def test_failures_in_a_row_pause_the_run(ward: Ward) -> None:
    """Thousands of chunks that fail for the same reason help nobody and hide the first error."""
    plan = ward.planned(hours=2, select=FAILING.format("ts >= '2025-01-01 04:00:00'", ward.engine.database))
    answer = ward.cli("run", "--plan-id", plan["planId"], "--max-failures", "3", "--json")
    assert answer.code == 1
    assert answer.payload["status"] == "paused"
    assert answer.payload["chunkCounts"] == {
        "total": 24,
        "pending": 19,
        "running": 0,
        "done": 2,
        "failed": 3,
        "skipped": 0,
    }
    (paused,) = [event for event in ward.cli.events(plan["planId"]) if event["type"] == "RunPaused"]
    assert paused["reason"].startswith("3 chunks in a row failed permanently; the last: ")
    assert "broken" in paused["reason"]
    assert ward.cli.json("status", "--plan-id", plan["planId"])["next"].startswith("clickhouse-backfill resume")


def test_single_failures_do_not_pause_it(ward: Ward) -> None:
    """A successful chunk shows that the cause does not affect all chunks."""
    plan = ward.planned(hours=2, select=FAILING.format("intDiv(toHour(ts), 2) % 2 = 1", ward.engine.database))
    answer = ward.cli("run", "--plan-id", plan["planId"], "--max-failures", "2", "--json")
    assert answer.payload["status"] == "failed"
    assert (answer.payload["chunkCounts"]["done"], answer.payload["chunkCounts"]["failed"]) == (12, 12)
