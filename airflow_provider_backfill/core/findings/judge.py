"""Apply the rules to a case, and order the findings."""

from collections.abc import Iterable

from .leftover_rules import LEFTOVER_RULES
from .registry import Finding, Rule, RuleContext, Severity
from .replica_rules import REPLICA_RULES
from .source_rules import SOURCE_RULES
from .state_rules import STATE_RULES
from .target_rules import TARGET_RULES
from .user_rules import USER_RULES
from .window_rules import WINDOW_RULES

_ORDER = (Severity.ERROR, Severity.WARN, Severity.INFO)


def judge(case: RuleContext) -> list[Finding]:
    """Return the findings of a case, the worst first; without server facts, apply only the state rules."""
    # Without server facts, skip the server rules: they find nothing, and ``check`` may have thousands of plans.
    rules = RULES if case.server is not None else STATE_RULES
    return worst_first(finding for rule in rules for finding in rule.judge(case))


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings, errors first and information last; findings of equal severity keep their order."""
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))


RULES: tuple[Rule, ...] = (
    *STATE_RULES,
    *TARGET_RULES,
    *SOURCE_RULES,
    *WINDOW_RULES,
    *REPLICA_RULES,
    *USER_RULES,
    *LEFTOVER_RULES,
)
