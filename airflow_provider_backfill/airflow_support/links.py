"""
Give tasks a button that opens the page of their plan.

Airflow asks for the address on the worker, when the task ends. :func:`push_plan_link` sets the address earlier,
so that the button works while the task runs.
"""

from typing import Any

from airflow.sdk import BaseOperator, BaseOperatorLink, Context

from ..ui_urls import page_address
from .compat import airflow_is, conf

# The attribute in which an operator keeps its plan's id until the task ends.
_ATTRIBUTE = "linked_plan_id"


def plan_link(plan_id: str) -> str:
    """Return the address of a plan's page: absolute if ``[api] base_url`` is set, otherwise a path without a host."""
    return page_address(conf.get("api", "base_url", fallback="") or "", plan_id, framed=airflow_is(3, 1))


class BackfillPlanLink(BaseOperatorLink):
    """The link to the page of a task's plan."""

    name = "ClickHouse Backfill"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """Return the address of the plan's page; empty while the task has no plan."""
        plan_id = getattr(operator, _ATTRIBUTE, "")
        if plan_id:
            return plan_link(plan_id)
        # A deferred task continues in a new process, so read the address that the earlier process pushed to the XCom.
        pull = getattr(ti_key, "xcom_pull", None)
        found = pull(key=self.xcom_key, map_indexes=getattr(ti_key, "map_index", -1)) if pull else None
        return found if isinstance(found, str) else ""


def push_plan_link(operator: BaseOperator, context: Context, plan_id: str) -> None:
    """Make the task's button open the page of *plan_id*, also while the task runs, and log the address."""
    setattr(operator, _ATTRIBUTE, plan_id)
    address = plan_link(plan_id)
    operator.log.info("The plan's page: %s", address)
    context["ti"].xcom_push(BackfillPlanLink().xcom_key, address)
