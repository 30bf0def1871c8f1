"""Map each flag of ``plan`` or ``run`` to an operator's argument and to a method's argument."""

from collections.abc import Iterator
from typing import NamedTuple

_PLAN = "BackfillPlanOperator"
_CHUNK = "BackfillChunkOperator"


class Same(NamedTuple):
    """
    A flag's counterparts in a DAG and in Python.

    Attributes:
        dag: ``Class(argument=)``; words if no argument is needed.
        python: ``method(argument=)`` of Client or Backfill; words if no argument is needed.
    """

    dag: str
    python: str


def _planned(flag: str) -> Same:
    name = flag.removeprefix("--").replace("-", "_")
    return Same(f"{_PLAN}({name}=)", f"plan({name}=)")


def _executed(flag: str) -> Same:
    name = flag.removeprefix("--").replace("-", "_")
    return Same(f"{_CHUNK}({name}=)", f"run({name}=)")


PLAN = {
    "--from": Same(f"{_PLAN}(window_from=)", "plan(window=)"),
    "--to": Same(f"{_PLAN}(window_to=)", "plan(window=)"),
    "--chunk-hours": Same(f"{_PLAN}(chunk_hours=)", "plan(chunk=)"),
    "--chunk-by": Same(f"{_PLAN}(chunk_by=)", "plan(chunk=)"),
    "--select-file": Same("`select=` takes the path of a `.sql` template", "`select=` takes the text"),
    "--param": Same(f"{_PLAN}(params_format=)", "plan(params_format=)"),
    "--setting": Same(f"{_PLAN}(settings=)", "plan(settings=)"),
    "--no-trial": Same(f"{_PLAN}(trial=)", "plan(trial=)"),
    "--owner": Same("the `owner` of the task, unless it is Airflow's default", "plan(owner=)"),
    "--quiet": Same("the XCom `plan_id`", "`Backfill.id`"),
    "--dry-run": Same("`approve=` of the group shows the plan before its chunks run", "`Client.plan` runs nothing"),
    **{
        flag: _planned(flag)
        for flag in (
            *("--target", "--chunk-zone", "--max-chunk-rows", "--max-chunk-bytes", "--time-column", "--time-unit"),
            *("--source", "--select", "--filter-table", "--whole-table", "--accept-partial-groups", "--write-mode"),
            *("--accept-at-least-once", "--keep-outside", "--backup", "--allow-existing-rows", "--one-shard"),
            *(
                "--force-large-window",
                "--reason",
                "--force",
                "--proof",
                "--staging-database",
                "--cluster",
                "--shard-url",
            ),
        )
    },
}
RUN = {
    "--plan-id": Same(f"{_CHUNK}(chunks=)", "backfill(name=)"),
    "--last": Same("the output of the plan task names the plan", "`Client.backfill()`"),
    "--max-parallel-chunks": Same(f"{_CHUNK}(max_parallel_chunks=)", "run(parallel=)"),
    "--replay-failed": Same("a clear executes failed chunks again", "run(replay_failed=)"),
    "--newest-first": Same(f"{_PLAN}(newest_first=)", "run(newest_first=)"),
    "--log-format": Same("Airflow's own logging", "no log is printed"),
    "--notify": Same("Airflow's callbacks and notifiers", "`RunResult.payload`"),
    **{
        flag: _executed(flag)
        for flag in (
            *("--replay-done", "--clear-window", "--max-load", "--max-failures", "--stop-at", "--hours", "--zone"),
            *("--force-overlap", "--force-compatibility", "--force-environment"),
        )
    },
}


def tables() -> Iterator[str]:
    """Yield the lines of the page, below its title."""
    for title, flags in (("plan", PLAN), ("run", RUN)):
        yield f"\n## Flags of `{title}`\n"
        yield "| flag | in a DAG | in Python |\n|---|---|---|"
        for flag, same in flags.items():
            yield f"| `{flag}` | {_code(same.dag)} | {_code(same.python)} |"


def _code(text: str) -> str:
    return f"`{text}`" if text.endswith("=)") else text
