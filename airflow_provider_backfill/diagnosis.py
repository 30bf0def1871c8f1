"""What a look at the server adds to a plan's findings."""

from .clickhouse import attempt, inspect
from .clickhouse.client import Server
from .core import checks
from .core.model import Finding, Plan, Run, RunStatus, Severity
from .core.statements import parse_table
from .errors import RequestError, ServerError
from .planning import check_scans


def server_findings(server: Server, made: Plan, run: Run) -> list[Finding]:
    """What the server shows to be wrong with a plan or its tables."""
    findings = []
    target = inspect.table_facts(server, parse_table(made.target, "target"))
    if target is None:
        return [
            Finding(
                "backfill_target_missing",
                Severity.ERROR,
                made.plan_id,
                f"There is no table {made.target} on {server.address}.",
                "create it again, or point --clickhouse-url to the server that has it",
            )
        ]
    try:
        check_scans(server, list(made.statements), made.time_column, made.start, made.end)
    except (RequestError, ServerError) as error:
        findings.append(Finding("backfill_source_unreadable", Severity.ERROR, made.plan_id, error.message, error.hint))
    leftover = attempt.leftover_tables(server, made.plan_id, target.storage.database)
    if leftover and not run.workers:
        findings.append(
            Finding(
                "backfill_staging_left",
                Severity.INFO
                if run.status in (RunStatus.PAUSED, RunStatus.FAILED, RunStatus.RUNNING)
                else Severity.WARN,
                made.plan_id,
                f"{len(leftover)} staging tables of this plan are on the server, such as {leftover[0]}; "
                "they go when the run completes.",
                checks.command("resume", made.plan_id) if run.status is not RunStatus.COMPLETED else "",
            )
        )
    if target.views:
        views = ", ".join(str(view) for view in target.views)
        findings.append(
            Finding(
                "backfill_views_missed",
                Severity.WARN,
                made.plan_id,
                f"Moving partitions into {made.target} does not fire the views that hang on it: {views}.",
                "",
            )
        )
    return findings
