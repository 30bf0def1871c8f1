// Show the plan of a DAG run or of a task, as a tab in Airflow.

import { place, plansOf } from "./airflow.js";
import { Refusal, poll, query } from "./api.js";
import { h, patch } from "./dom.js";
import { problem } from "./list.js";
import { planView } from "./plan.js";

export function runView(page) {
  const where = place(location.search);
  const what = where.task ? "task" : "DAG run";
  poll(async () => {
    try {
      const plans = await plansOf(where);
      const shown = plans.includes(where.plan) ? where.plan : plans[0];
      if (!shown) {
        patch(page, h("main", {}, h("p", { class: "loading" }, `This ${what} has no ClickHouse backfill, or has not yet planned it.`)));
        return 3000;
      }
      const inner = h("div", {});
      page.replaceChildren(...(plans.length > 1 ? [choice(plans, shown)] : []), inner);
      planView(inner, shown, { inRun: true });
      return Infinity;
    } catch (error) {
      if (error instanceof Refusal) patch(page, h("main", {}, problem(error)));
      throw error;
    }
  });

  function choice(plans, shown) {
    const { dag, run, task } = where;
    const address = (plan) => `run?${query({ dag, run, task, plan })}`.replaceAll("+", "%20");
    return h(
      "nav",
      { class: "chips plans-of-run", "aria-label": `Plans of this ${what}` },
      plans.map((plan) => h("a", { class: "chip", href: address(plan), "aria-current": plan === shown ? "page" : null }, h("code", {}, plan))),
    );
  }
}
