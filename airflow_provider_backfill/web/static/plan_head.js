// The head of a plan's page: what it is, what is guaranteed, and what may be done with it.

import { clearable, runAddress } from "./airflow.js";
import { query } from "./api.js";
import { airflowLink, copyable, h, icon } from "./dom.js";
import { plural, span } from "./format.js";
import { standing } from "./list.js";

// Why the chunks give together what the SELECT gives for the whole window, as the plan keeps it.
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

// Act is called with what to do and the button that was pressed.
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
    // A cleared task would be skipped: the cancel or pause is lifted first, for all of its chunks.
    if (stopped && last?.mayClear) acts.push(action(act, "resume", "Resume …", "clears its tasks in Airflow", "primary"));
  }
  // Airflow's own rights, of each DAG; whoever may clear there need not have any here.
  const failed = clearable(airflow).reduce((sum, run) => sum + run.failedTasks.reduce((chunks, task) => chunks + task.chunks, 0), 0);
  if (!stopped && failed) acts.push(action(act, "retry", `Retry ${plural(failed, "failed chunk")} …`, "clears their tasks in Airflow", "primary"));
  if (!answer.mayAct && !acts.length) acts.push(h("p", { class: "read-only" }, "You have read-only access."));
  found.push(...acts);
  return h("div", { class: "actions" }, found);
}

// What no task of Airflow's has executed, none can go on with.
function byCommand(answer) {
  const { plan, airflow } = answer;
  const stopped = ["cancelled", "paused", "undone"].includes(plan.status) && !airflow.runs.length;
  if (!stopped && !airflow.failedElsewhere) return null;
  return h(
    "div",
    { class: "by-command" },
    h("p", { class: "second" }, stopped ? "No task of Airflow's has worked on it. Where it was run, this takes it up again:" : `${plural(airflow.failedElsewhere, "failed chunk")} ${airflow.failedElsewhere === 1 ? "was" : "were"} run by the command line. There, this tries again:`),
    copyable(`clickhouse-backfill resume --plan-id ${plan.planId}`, "the command"),
  );
}

function action(act, verb, text, note, kind) {
  const button = h("button", { type: "button", class: `${kind} action`, "data-key": verb }, text, h("small", {}, note));
  button.addEventListener("click", () => act(verb, button));
  return button;
}
