"""Summarise a plan in a few lines of Markdown, for the XCom ``summary`` and for the approval."""

from ..commands.session import Payload
from ..core.plain_text import show_number
from ..core.plan_words import adds_up
from .fields import show_window


def plan_summary(payload: Payload, tasks: int, page: str) -> str:
    """
    Return a plan as Markdown: target, source, method, and the warnings before a run.

    Args:
        payload: The result of ``create_plan``.
        tasks: The number of mapped tasks.
        page: The address of the plan's page.
    """
    window = show_window(payload["from"], payload["to"])
    chunks = payload["chunkCount"]
    lines = [
        f"**Target** `{payload['target']}`",
        f"**Window** {window} (UTC, by `{payload['timeColumn']}`)",
        f"**Chunks** {chunks:,} in {show_number(tasks, 'task')}",
        f"**Rows come from** {_sources(payload)}",
        *_shards(payload),
        f"**Write mode** `{payload['writeMode']}`: {payload['modeReason'].rstrip('.')}.",
        f"**Guarantee** {payload['guarantee']}",
        *_adds_up(payload["addsUp"]),
        f"**In the target already** {_existing(payload)}",
    ]
    if payload["missedViews"]:
        views = ", ".join(f"`{view}`" for view in payload["missedViews"])
        lines.append(f"**These views do not see the rows** {views}")
    lines += [f"**Note** {warning['message']}" for warning in payload.get("warnings", ())]
    return "\n\n".join([*lines, f"[Plan {payload['planId']}]({page})"])


def _adds_up(shown: Payload | None) -> list[str]:
    if shown is None:
        return []
    trial = f"; trial: {shown['trial']}" if shown["trial"] else ""
    against = "".join(f" {sentence}" for sentence in shown["setAside"])
    return [f"**Chunks add up** {adds_up(shown['proof'], shown['accepted'])}{trial}.{against}"]


def _sources(payload: Payload) -> str:
    found = payload["statements"]
    return ", ".join(f"`{one['source']}`{_through(one)}" for one in found)


def _shards(payload: Payload) -> list[str]:
    words = payload["rowsOfShards"]
    return [f"**Shards** {len(payload['shards'])}: {words}"] if words else []


def _through(statement: Payload) -> str:
    name = statement["name"]
    if name == statement["source"]:
        return ""
    return " through the SELECT" if name.startswith("--") else f" through `{name}`"


def _existing(payload: Payload) -> str:
    rows = payload["existingRows"]
    if rows is None:
        return "not known"
    if not rows:
        return "no rows of this window"
    fate = "will be replaced" if payload["writeMode"] == "replace" else "will stay, with the new rows added"
    return f"{show_number(rows, 'row')} of this window, which {fate}"
