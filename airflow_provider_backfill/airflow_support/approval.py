"""Ask a person to approve a plan before its run; requires Airflow 3.1 and its standard provider."""

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Context

from ..commands.status import read_status
from ..commands.waive import waive_plan
from ..core.run_state import RunStatus
from .fields import blank_to_none
from .links import BackfillPlanLink, push_plan_link
from .session import airflow_errors, load_airflow_options, open_session


class BackfillApproval(ApprovalOperator):
    """
    Ask whether a plan may run.

    After a rejection, all later tasks are skipped, so that the DAG run is green. The plan is waived, so ``check`` no
    longer requires the plan. The waiver's reason names the person who rejected the plan, or says that nobody approved
    the plan in time. A completed plan is not waived.

    Args:
        plan_id: The plan's id.
        state_dir: Folder of plans, runs and events; ``[clickhouse_backfill] state_dir`` when None.
        backfill_options: Any other options of the product. (In the base class, ``options`` are the possible answers.)
    """

    template_fields: Sequence[str] = (*ApprovalOperator.template_fields, "plan_id", "state_dir")
    operator_extra_links = (BackfillPlanLink(),)
    ui_color = "#fff6cc"

    def __init__(
        self,
        *,
        plan_id: Any,
        state_dir: str | None = None,
        backfill_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"ignore_downstream_trigger_rules": True, **kwargs})
        self.plan_id = plan_id
        self.state_dir = state_dir
        self.backfill_options = backfill_options

    def execute(self, context: Context) -> Any:
        """Ask for approval, and defer until the answer."""
        push_plan_link(self, context, self.plan_id)
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Continue after the answer: waive a rejected plan, and let the base class skip later tasks."""
        if "error" not in event and self.REJECT in event["chosen_options"]:
            self._waive(event)
        return super().execute_complete(context, event)

    def _waive(self, event: Mapping[str, Any]) -> None:
        answered_by = event.get("responded_by_user") or {}
        who = str(answered_by.get("name") or answered_by.get("id") or "")
        said = f"rejected by {who}" if who else "nobody approved it in time"
        with airflow_errors():
            options = load_airflow_options({"state_dir": blank_to_none(self.state_dir)}, self.backfill_options)
            session = open_session(options, f"{who or self.task_id} (Airflow)")
            if read_status(session, self.plan_id)["status"] == RunStatus.COMPLETED:
                return
            waive_plan(session, self.plan_id, reason=said)
        self.log.info("The plan was %s: nothing runs, and check no longer asks for it (plan %s)", said, self.plan_id)
