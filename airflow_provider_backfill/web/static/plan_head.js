// Show the head of a plan's page: target, guarantee and possible actions.

import { clearable, runAddress } from "./airflow.js";
import { query } from "./api.js";
import { airflowLink, copyable, h, icon } from "./dom.js";
import { plural, span } from "./format.js";
import { standing } from "./list.js";

// Show the plan's evidence that the chunks add up to the SELECT's result for the whole window.
function addsUp(shown) {
  if (!shown) return [];
  const words = {
    "one chunk": "The window is one chunk.",
    "by rule": "Chunks add up: shown by rule.",
    "by trial": "Chunks add up: shown by a trial.",
    "by word": `There is no evidence that chunks add up; partial groups are accepted: ${shown.accepted}`,
    "not shown": "There is no evidence that chunks add up.",
  };
  const lines = [...shown.setAside, ...shown.steps, ...shown.reads, ...(shown.trial ? [`trial: ${shown.trial}`] : [])];
  return [h("p", { class: "guarantee" }, words[shown.proof]), h("ul", { class: "adds-up" }, ...lines.map((line) => h("li", {}, line)))];
}

export function crumbs(inRun) {
  if (inRun) return null;
  return h("nav", { "aria-label": "Breadcrumb" }, h("a", { href: "./", class: "crumb" }, icon("back"), "All backfills"));
}

// act() is called with the action and the pressed button.
export function head(answer, inRun, act) {
  const { plan, definition: made } = answer;
  return [
    crumbs(inRun),
    h(
      "div",
      { class: "title-line" },
      h("div", { class: "title" }, h("h1", {}, plan.target), standing(plan), h("a", { class: "aside", href: `table?${query({ target: plan.target })}` }, "All plans of this table")),
      actions(answer, inRun, act),
    ),
    h("p", { class: "sub" }, `${span(Date.parse(plan.from), Date.parse(plan.to))} UTC · ${plural(made.chunkCount, "chunk")} ${plan.chunks}, by ${made.timeColumn} · ${plan.writeMode} · `, h("code", {}, plan.planId)),
    h("p", { class: "guarantee" }, icon("shield"), made.guarantee),
    made.rowsOfShards ? h("p", { class: "guarantee" }, `Shards: ${made.rowsOfShards}.`) : null,
    ...addsUp(made.addsUp),
    byCommand(answer),
  ];
}

function actions(answer, inRun, act) {
  const { plan, airflow } = answer;
  const [last] = airflow.runs;
  const found = [];
  if (last && !inRun) found.push(airflowLink(runAddress(last.dagId, last.runId), icon("out"), "Open the DAG run"));
  const stopped = ["cancelled", "paused", "undone"].includes(plan.status);
  const acts = [];
  if (answer.mayAct) {
    if (plan.status !== "completed" && !plan.waiver) acts.push(action(act, "waive", "Waive …", "check ignores the plan", "quiet"));
    if (["running", "paused", "failed", "planned"].includes(plan.status)) acts.push(action(act, "cancel", "Cancel …", "kills its queries", "danger"));
    // End the cancel or pause first, for all chunks: otherwise the cleared tasks would be skipped.
    if (stopped && last?.mayClear) acts.push(action(act, "resume", "Resume …", "clears its tasks in Airflow", "primary"));
  }
  // Clearing depends on Airflow's rights to each DAG, not on the rights to this page.
  const failed = clearable(airflow).reduce((sum, run) => sum + run.failedTasks.reduce((chunks, task) => chunks + task.chunks, 0), 0);
  if (!stopped && failed) acts.push(action(act, "retry", `Retry ${plural(failed, "failed chunk")} …`, "clears their tasks in Airflow", "primary"));
  if (!answer.mayAct && !acts.length) acts.push(h("p", { class: "read-only" }, "You have read-only access."));
  found.push(...acts);
  return h("div", { class: "actions" }, found);
}

// Chunks that no Airflow task has executed cannot be continued by one.
function byCommand(answer) {
  const { plan, airflow } = answer;
  const stopped = ["cancelled", "paused", "undone"].includes(plan.status) && !airflow.runs.length;
  if (!stopped && !airflow.failedElsewhere) return null;
  return h(
    "div",
    { class: "by-command" },
    h("p", { class: "second" }, stopped ? "No Airflow task has executed this plan. To continue, run this on the machine that ran the plan:" : `${plural(airflow.failedElsewhere, "failed chunk")} ${airflow.failedElsewhere === 1 ? "was" : "were"} executed from the command line. To retry, run this on that machine:`),
    copyable(`clickhouse-backfill resume --plan-id ${plan.planId}`, "the command"),
  );
}

function action(act, verb, text, note, kind) {
  const button = h("button", { type: "button", class: `${kind} action`, "data-key": verb }, text, h("small", {}, note));
  button.addEventListener("click", () => act(verb, button));
  return button;
}
