"""Define the rules on the user: rights and settings. The rules are pure functions."""

from collections.abc import Iterator

from ..names import quote
from ..remedy import sql
from .registry import Match, RuleContext, RuleRegistry, RuleScope, Severity

USER_RULES = RuleRegistry(RuleScope.SERVER)
_rule = USER_RULES.rule


@_rule(
    "backfill_grant_missing",
    Severity.ERROR,
    "The user lacks a right that the plan needs.",
    remedy="grant the right",
)
def _grants(case: RuleContext) -> Iterator[Match]:
    facts = case.seen
    for grant in facts.grants:
        yield Match(
            f"{facts.user} lacks {grant.right} on {grant.on}.",
            sql(f"GRANT {grant.right} ON {grant.on} TO {quote(facts.user)}"),
        )


@_rule(
    "backfill_setting_constrained",
    Severity.ERROR,
    "The user may not change a setting that a backfill needs.",
    remedy="remove the constraint from the user's profile",
)
def _settings(case: RuleContext) -> Iterator[Match]:
    facts = case.seen
    for setting in facts.settings:
        yield Match(
            f"{facts.user} may not set {setting.name} = {setting.wanted} (it is "
            f"{setting.value}, {setting.reason}), so statements of the backfill are refused. "
            "Remove the constraint from the user's profile."
        )
