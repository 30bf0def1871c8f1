"""Build the parts of a plan's own page: definition, running or failed chunks, Airflow's runs, events."""

import json

from ...commands.plan_findings import adds_up_payload
from ...commands.session import Payload
from ...core.instants import render_instant
from ...core.masking import mask_secrets
from ...core.plan import Plan
from ...core.plan_words import guarantee, mode_reason, rows_of_shards
from ...core.run_state import ChunkStatus, Run
from ...state.store import StateStore
from ...ui_urls import parse_task
from .chunk_map import ChunkIndex
from .log_tail import LogTail


def without_status(summary: Payload) -> Payload:
    """Return a summary without the finding that only repeats the status."""
    found = [finding for finding in summary["findings"] if finding["code"] != "backfill_required_pending"]
    return {**summary, "findings": found}


def definition_payload(plan: Plan, store: StateStore) -> Payload:
    """Return the definition of a plan, without its progress."""
    return {
        "timeColumn": plan.time_column,
        "writeMode": plan.write_mode,
        "modeReason": mode_reason(plan),
        "guarantee": guarantee(plan.write_mode),
        "rowsOfShards": rows_of_shards(plan),
        "addsUp": adds_up_payload(plan),
        "existingRows": plan.existing_rows,
        "environment": plan.environment,
        "chunkCount": plan.total_chunks,
        "statements": [
            {
                "name": s.name,
                "source": s.source_text,
                "select": mask_secrets(s.select),
                "verifiedAgainstSource": plan.asks_source_again,
            }
            for s in plan.statements
        ],
        "planPath": store.plan_path(plan.plan_id),
        "eventPath": store.event_path(plan.plan_id),
    }


def rare_chunks(run: Run, index: ChunkIndex, tail: LogTail, status: ChunkStatus, limit: int) -> list[Payload]:
    """
    Return up to *limit* chunks with a rare status (running or failed), in time order.

    The ``task`` of a chunk is the Airflow task that made the chunk's last attempt; None if no task made this attempt.
    """
    found: list[Payload] = []
    for name, state in run.chunks.items():
        if state.status is not status or (window := index.window(name)) is None:
            continue
        task = parse_task(tail.began_by.get(name, ""))
        found.append(
            {
                "chunkId": name,
                "from": window[0],
                "to": window[1],
                "attempt": state.attempt,
                "owner": state.owner,
                "startedAt": render_instant(state.started_at) if state.started_at else None,
                "error": state.error,
                "task": None
                if task is None
                else {"dagId": task.dag_id, "runId": task.run_id, "taskId": task.task_id, "mapIndex": task.map_index},
            }
        )
        if len(found) == limit:
            break
    return sorted(found, key=lambda entry: entry["from"])


def airflow_runs(run: Run, tail: LogTail) -> Payload:
    """
    Return the DAG runs that executed failed chunks, with the task instances to clear, and the last DAG run of all.

    Returns:
        ``runs`` has the last DAG run first. ``failedElsewhere`` counts the failed chunks whose last attempt was not
        made by an Airflow task.
    """
    failed = [tail.began_by.get(name, "") for name, state in run.chunks.items() if state.status is ChunkStatus.FAILED]
    last = parse_task(tail.last_by)
    runs: dict[tuple[str, str], Payload] = {}
    elsewhere = 0
    for task, is_failed in [(last, False), *((parse_task(name), True) for name in failed)]:
        if task is None:
            elsewhere += is_failed
            continue
        known = runs.setdefault(
            (task.dag_id, task.run_id),
            {"dagId": task.dag_id, "runId": task.run_id, "taskIds": [], "failedTasks": {}},
        )
        if task.task_id not in known["taskIds"]:
            known["taskIds"].append(task.task_id)
        if is_failed:
            place = task.task_id, task.map_index
            known["failedTasks"][place] = known["failedTasks"].get(place, 0) + 1
    for known in runs.values():
        known["failedTasks"] = [
            {"taskId": task, "mapIndex": index, "chunks": chunks}
            for (task, index), chunks in sorted(known["failedTasks"].items())
        ]
    return {"runs": list(runs.values()), "failedElsewhere": elsewhere}


def new_events(tail: LogTail, index: ChunkIndex, after: int) -> list[Payload]:
    """Return recent events after line *after*, oldest first, each with its line number and a chunk event's window."""
    found = []
    for number, line in tail.feed:
        if number <= after:
            continue
        event = json.loads(line)
        event["number"] = number
        if (name := event.get("chunkId")) and (window := index.window(name)):
            event["from"], event["to"] = window
        if "content" in event:
            event["rows"] = event.pop("content")[0]
        found.append(event)
    return found
