"""
Compare a plan's assumptions about its tables with the current tables.

A run may resume days after its planning. Meanwhile the SELECT of a view, the target's columns or an option may have
changed, so that the run would write rows that were not planned.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence

from .facts import TableFacts
from .plan import Plan, Statement


def compatibility_token(statements: Sequence[Statement], target: TableFacts, *, use_tokens: bool) -> str:
    """
    Return a SHA-256, in hex digits, of the facts that decide the written rows.

    The hash covers the statements, the target's engine, keys and columns, and the use of deduplication tokens.
    """
    parts = [
        [
            [s.name, s.select, s.source_text, s.columns, [[p.name, p.format] for p in s.parameters], s.settings]
            for s in statements
        ],
        [target.engine, target.partition_key, target.sorting_key],
        [[c.name, c.type, c.default_kind] for c in target.columns],
        use_tokens,
    ]
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()


def detect_drift(
    plan: Plan, target: TableFacts, views: Mapping[str, str], *, use_tokens: bool, connection: str
) -> list[str]:
    """
    Return the changes since *plan* was created, sorted; an empty list if nothing has changed.

    A change is a clause without a full stop.

    Args:
        views: The SELECTs of the views that write to the target now, by the view's name. These SELECTs are compared
            only if the plan took SELECTs from views.
        use_tokens: The current value of the option ``defaults.requireIdempotencyToken``.
        connection: The current value of :attr:`.Plan.connection`.
    """
    found = []
    planned = planned_views(plan)
    if planned:
        for name in planned.keys() | views.keys():
            if name not in views:
                found.append(f"the view {name} does not write to {plan.target}")
            elif name not in planned:
                found.append(f"the view {name} writes to {plan.target} as well")
            elif planned[name] != views[name]:
                found.append(f"the view {name} has another SELECT")
    if plan.connection not in ("", connection):
        found.append(f"the connection has the {connection}, and had the {plan.connection}")
    if plan.use_tokens != use_tokens:
        found.append(f"defaults.requireIdempotencyToken is {str(use_tokens).lower()}")
    if is_another_table(plan, target):
        found.append(f"{plan.target} is another table")
    now = compatibility_token(plan.statements, target, use_tokens=plan.use_tokens)
    if plan.compatibility_token not in ("", now):
        found.append(f"{plan.target} has other columns or keys")
    return sorted(found)


def is_another_table(plan: Plan, target: TableFacts) -> bool:
    """
    Return whether the target is a table that was created anew, or exchanged with another table, since *plan* was made.

    Return False if the plan or the server knows no identity of the table.
    """
    return "" not in (plan.target_identity, target.identity) and plan.target_identity != target.identity


def planned_views(plan: Plan) -> dict[str, str]:
    """Return the SELECTs that a plan took from materialized views, by the view's name; empty if there are none."""
    return {s.name: s.select for s in plan.statements if s.name != "--select" and not s.copies_table}
