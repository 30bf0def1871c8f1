"""
Findings about users, settings and disks, on a separate server.

This server reads its users from a file at the start. So the test edits that file instead of using GRANT, and restarts
the server.
"""

from __future__ import annotations

import re

from airflow_provider_backfill.core.plan import WriteMode
from airflow_provider_backfill.errors import ServerUnreachableError
from tests.clickhouse.lab import once
from tests.clickhouse.ward import Clinic


def test_backfill_grant_missing(clinic: Clinic) -> None:
    """The rights that doctor wants are the rights that a run needs, no more: with these it completes."""
    clinic.user(grants=("SELECT ON clinic.*",))
    ward = clinic.ward()
    ward.events()
    ward.target()
    plan = ward.planned()
    clinic.as_own(ward)
    payload = ward.cli.json("doctor", "--plan-id", plan["planId"])
    hints = [f["hint"] for f in payload["findings"] if f["code"] == "backfill_grant_missing"]
    wanted = [re.fullmatch(r"GRANT (.+) TO `own`", hint) for hint in hints]
    assert {match[1] for match in wanted if match} == {
        "INSERT ON `clinic`.*",
        "CREATE TABLE ON `clinic`.*",
        "DROP TABLE ON `clinic`.*",
        "ALTER DELETE ON `clinic`.*",
        "TABLE ENGINE ON MergeTree",
        "SELECT ON system.parts",
        "SELECT ON system.processes",
    }
    assert ward.cli("run", "--plan-id", plan["planId"]).code == 1

    clinic.user(grants=("SELECT ON clinic.*", *(match[1] for match in wanted if match)))
    ward = clinic.as_own(clinic.ward())
    assert "backfill_grant_missing" not in ward.doctor(plan)
    assert ward.cli("run", "--plan-id", plan["planId"]).code == 0


def test_plan_names_the_rights_that_are_missing(clinic: Clinic) -> None:
    """Missing rights are reported at planning, not in the first chunk, and the GRANTs in the message suffice."""
    clinic.user(grants=("SELECT ON clinic.*", "INSERT ON clinic.*"))
    ward = clinic.ward()
    ward.events()
    ward.target()
    clinic.as_own(ward)
    words = ("--target", "clinic.filled", "--source", "clinic.events", "--from", "2025-01-01", "--to", "2025-01-03")
    answer = ward.cli("plan", *words)
    assert answer.code == 2
    assert "own lacks rights that write mode stage needs: CREATE TABLE and DROP TABLE" in answer.err
    assert not any(name.startswith("plans") for name in ward.cli.files())
    wanted = re.findall(r"GRANT ([^;]+) TO `own`", answer.err)
    assert wanted[0] == "CREATE TABLE, DROP TABLE, ALTER DELETE ON `clinic`.*"
    # By plain INSERT fewer are needed.
    direct = ward.cli("plan", *words, "--write-mode", "insert", "--accept-at-least-once")
    assert re.findall(r"GRANT ([^;]+) TO `own`", direct.err) == [
        "CREATE TEMPORARY TABLE ON *.*",
        "SELECT ON system.processes",
    ]

    clinic.user(grants=("SELECT ON clinic.*", "INSERT ON clinic.*", *wanted))
    ward = clinic.as_own(clinic.ward())
    plan = ward.cli.json("plan", *words)
    assert ward.cli("run", "--plan-id", plan["planId"]).code == 0


def test_what_the_user_may_not_see_is_named(clinic: Clinic) -> None:
    """A system table that is hidden must not look like a healthy one."""
    clinic.user(grants=("SELECT ON clinic.*",))
    ward = clinic.ward()
    ward.events()
    ward.target()
    plan = ward.planned()
    clinic.as_own(ward)
    unseen = " ".join(ward.cli.json("doctor", "--plan-id", plan["planId"])["notLookedAt"])
    for what in ("system.parts", "system.mutations", "system.replicas", "system.disks", "running queries"):
        assert f"{what}: " in unseen


def test_a_refused_question_about_bounds_hides_no_other_answer(clinic: Clinic) -> None:
    """The user may not read the target, whose rows tell whether an end of the window cuts a partition."""
    others = "SELECT ON system.*", "CREATE TEMPORARY TABLE ON *.*"
    clinic.user(grants=("SELECT ON clinic.events", "INSERT, ALTER DELETE ON clinic.filled", *others))
    ward = clinic.ward()
    ward.events()
    ward.target(tail="PARTITION BY toDate(ts) ORDER BY (k, ts)")
    plan = ward.planned(start="2025-01-01T12:00", end="2025-01-02T12:00", write_mode=WriteMode.REPLACE)
    answer = clinic.as_own(ward).cli.json("doctor", "--plan-id", plan["planId"])
    unseen = {text.partition(":")[0] for text in answer["notLookedAt"]}
    assert "chunk bounds" in unseen
    assert "backfill_grant_missing" in answer["issueCodes"]
    assert answer["estimate"]["rowsPerChunk"]["max"] == 720


def test_backfill_row_policy(clinic: Clinic) -> None:
    """Rows that the user cannot see are missing in the target, and no count shows it."""
    hidden = "<databases><clinic><events><filter>k = 3</filter></events></clinic></databases>"
    clinic.user(rest=hidden)
    ward = clinic.ward()
    ward.events()
    ward.target()
    plan = ward.planned()
    assert "backfill_row_policy" not in ward.doctor(plan)
    finding = clinic.as_own(ward).doctor(plan)["backfill_row_policy"]
    assert "clinic.events" in finding["message"]
    assert "equals(k, 3)" in finding["message"]

    clinic.user()
    ward = clinic.as_own(clinic.ward())
    assert "backfill_row_policy" not in ward.doctor(plan)


def test_rows_that_the_user_cannot_see_are_not_deleted(clinic: Clinic) -> None:
    """They lie in partitions that would be replaced, or in parts that would be dropped, and no count shows them."""
    hidden = "<databases><clinic><filled><filter>k != 3</filter></filled></clinic></databases>"
    clinic.user(rest=hidden)
    ward = clinic.ward()
    ward.events()
    ward.target()
    ward.sql("INSERT INTO filled SELECT toDateTime('2025-01-20', 'UTC') + number, 3, 1 FROM numbers(500)")
    table, window = ("--target", "clinic.filled", "--source", "clinic.events"), ("--from", "2025-01-01", "--to")
    replacing = (*table, *window, "2025-01-03", "--chunk-hours", "48", "--write-mode", "replace", "--keep-outside")
    planned = ward.cli.json("plan", *replacing)["planId"]
    filled = ward.cli.json("plan", *table, *window, "2025-01-02", "--chunk-hours", "24")["planId"]
    assert ward.cli("run", "--plan-id", filled).code == 0
    own = clinic.as_own(ward).cli
    calls = [
        own("plan", *replacing, "--force"),
        own("run", "--plan-id", planned, "--force-overlap"),
        own("run", "--plan-id", filled, "--replay-done", "--clear-window"),
    ]
    for answer in calls:
        assert answer.code != 0
        assert "A row policy shows this user only rows of clinic.filled" in answer.err
    assert ward.value("SELECT count() FROM filled WHERE ts >= '2025-01-20'") == 500


def test_rows_of_the_target_that_the_user_cannot_see_are_told(clinic: Clinic) -> None:
    """They do not count as existing rows, so the plan is not refused, and the chunk may double them."""
    clinic.user(rest="<databases><clinic><filled><filter>k != 3</filter></filled></clinic></databases>")
    ward = clinic.ward()
    ward.events()
    ward.target()
    ward.sql("INSERT INTO filled SELECT toDateTime('2025-01-01', 'UTC') + number, 3, 1 FROM numbers(500)")
    words = ("--target", "clinic.filled", "--source", "clinic.events", "--from", "2025-01-01", "--to", "2025-01-02")
    answer = clinic.as_own(ward).cli.json("plan", *words, "--chunk-hours", "24")
    assert answer["existingRows"] == 0
    told = "clinic.filled with notEquals(k, 3); the others do not count as existing rows"
    (warning,) = [one for one in answer["warnings"] if told in one["message"]]
    assert "without the policy" in warning["hint"]
    finding = ward.doctor(answer)["backfill_row_policy"]
    assert finding["message"] == warning["message"]


def test_backfill_setting_constrained(clinic: Clinic) -> None:
    """Statements would be refused one by one, in the middle of the night."""
    tied = "<constraints><insert_deduplicate><const/></insert_deduplicate></constraints>"
    clinic.user(profile=tied)
    ward = clinic.ward()
    ward.events()
    ward.target()
    plan = ward.planned()
    finding = clinic.as_own(ward).doctor(plan)["backfill_setting_constrained"]
    assert "insert_deduplicate = 0" in finding["message"]
    answer = ward.cli("run", "--plan-id", plan["planId"])
    assert answer.code == 1
    assert "may not change the setting insert_deduplicate, which is 1" in answer.err

    clinic.user()
    ward = clinic.as_own(clinic.ward())
    assert "backfill_setting_constrained" not in ward.doctor(plan)
    assert ward.cli("run", "--plan-id", plan["planId"]).code == 0


def test_a_user_who_may_only_read(clinic: Clinic) -> None:
    clinic.user(profile="<readonly>1</readonly>")
    ward = clinic.ward()
    ward.events()
    ward.target()
    plan = ward.planned()
    mutation = "ALTER TABLE filled DELETE WHERE throwIf(k) SETTINGS mutations_sync = 0"
    ward.sql("INSERT INTO filled VALUES ('2024-12-31', 1, 1)", mutation)
    own = clinic.as_own(ward).cli
    payload = own.json("doctor", "--plan-id", plan["planId"])
    (finding,) = [one for one in payload["findings"] if one["code"] == "backfill_setting_constrained"]
    assert "readonly = 0 (it is 1, so nothing may be written)" in finding["message"]
    # The statements of the plan need settings, and other questions do not.
    assert "backfill_mutation_unfinished" in payload["issueCodes"]
    (unseen,) = [text for text in payload["notLookedAt"] if text.startswith("reads of ")]
    assert "this user may not change the setting" in unseen
    refused = own("run", "--plan-id", plan["planId"])
    assert "may not change the setting" in refused.err
    assert "remove readonly" in refused.err


def test_backfill_drop_limit(clinic: Clinic) -> None:
    """REPLACE PARTITION counts as a drop; the limit is lifted for the query, if that may be."""
    clinic.configure("<max_partition_size_to_drop>1000</max_partition_size_to_drop>")
    clinic.user(profile="<constraints><max_partition_size_to_drop><const/></max_partition_size_to_drop></constraints>")
    ward = clinic.ward()
    ward.events()
    ward.target(tail="PARTITION BY toDate(ts) ORDER BY ts")
    ward.sql("INSERT INTO filled SELECT * FROM events")
    plan = ward.planned(hours=24, write_mode=WriteMode.REPLACE)
    assert "backfill_drop_limit" not in ward.doctor(plan)
    finding = clinic.as_own(ward).doctor(plan)["backfill_drop_limit"]
    assert "1000 B" in finding["message"]
    assert ward.cli("run", "--plan-id", plan["planId"]).code == 1

    clinic.user()
    ward = clinic.as_own(clinic.ward())
    assert "backfill_drop_limit" not in ward.doctor(plan)


def test_a_backup_larger_than_the_limit_is_made_again(clinic: Clinic) -> None:
    """What the first attempt kept is replaced by the same, which counts as a drop as well."""
    clinic.configure("<max_partition_size_to_drop>1000</max_partition_size_to_drop>")
    ward = clinic.ward()
    ward.events()
    ward.target(tail="PARTITION BY toDate(ts) ORDER BY ts")
    ward.sql("INSERT INTO filled SELECT * FROM events")
    plan = ward.planned(hours=24, write_mode=WriteMode.REPLACE, backup=True)
    payload = ward.run(plan, step=once("backed up", ServerUnreachableError("The server went away.")))
    assert (payload["status"], payload["attempts"]) == ("completed", payload["chunkCounts"]["total"] + 1)


def test_backfill_disk_space(clinic: Clinic) -> None:
    """A disk that must keep nearly all it has free has no room for a chunk, its staging and a merge."""
    disks = (
        "<storage_configuration><disks><tight><type>local</type><path>{path}/</path>"
        "<keep_free_space_bytes>{keep}</keep_free_space_bytes></tight></disks>"
        "<policies><tight><volumes><one><disk>tight</disk></one></volumes></tight></policies></storage_configuration>"
    )
    path = clinic.server.directory / "tight"
    clinic.configure(disks.format(path=path, keep=2**60))
    ward = clinic.ward()
    ward.events()
    ward.sql("CREATE TABLE filled AS events ENGINE = MergeTree ORDER BY ts SETTINGS storage_policy = 'tight'")
    plan = ward.planned()
    finding = ward.doctor(plan)["backfill_disk_space"]
    assert "0 B free" in finding["message"]

    clinic.configure(disks.format(path=path, keep=0))
    assert "backfill_disk_space" not in clinic.ward().doctor(plan)
