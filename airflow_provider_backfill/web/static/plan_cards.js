// Show the cards of a plan's page: numbers, findings, running and failed chunks, and the definition.

import { copyable, details, h, icon } from "./dom.js";
import { ago, bytes, compact, duration, number, owner, percent, plural, span } from "./format.js";
import { bar } from "./list.js";

export function stats(answer) {
  const { plan, series, began } = answer;
  const counts = plan.chunkCounts;
  const took = began && plan.updatedAt ? (Date.parse(plan.updatedAt) - began) / 1000 : null;
  const active = series.perSecond.length * series.width / 1000;
  const mean = active ? (series.perSecond.reduce((sum, value) => sum + value, 0) * series.width) / 1000 / active : 0;
  const live = plan.status === "running" && plan.rowsPerSecond !== null;
  const items = [
    ["Rows written", counts.done ? compact(plan.rowsWritten) : "–", counts.done ? `in ${plural(plan.attempts, "attempt")}` : "nothing yet"],
    ["Rows read", plan.rowsRead ? compact(plan.rowsRead) : "–", plan.bytesRead ? bytes(plan.bytesRead) : "not told by the server"],
    live ? ["Rows a second", compact(plan.rowsPerSecond), "recently"] : ["Rows a second", mean ? compact(mean) : "–", mean ? "on average" : ""],
    plan.status === "running"
      ? ["Time left", plan.secondsLeft === null ? "–" : duration(plan.secondsLeft) || "0 s", plan.secondsLeft === null ? "no recent progress" : `after ${duration(took)}`]
      : ["Time taken", took === null ? "–" : duration(took), plan.updatedAt ? `last event ${ago(plan.updatedAt)}` : "never run"],
  ];
  return h(
    "section",
    { class: "card stats", "aria-label": "Progress" },
    h(
      "div",
      { class: "hero" },
      h("p", { class: "big" }, percent(counts.done, counts.total)),
      bar(counts),
      h("p", { class: "second" }, [`${number(counts.done)} of ${plural(counts.total, "chunk")} done`, counts.running && `${number(counts.running)} running`, counts.failed && `${number(counts.failed)} failed`, plan.splits && `${number(plan.splits)} split`].filter(Boolean).join(", ")),
    ),
    plan.throttledBy ? h("p", { class: "held" }, icon("paused"), h("span", {}, h("strong", {}, "The next query is held back: "), plan.throttledBy)) : null,
    h("dl", {}, items.map(([name, value, note]) => h("div", {}, h("dt", {}, name), h("dd", {}, value, h("span", { class: "second" }, note))))),
  );
}

export function findings(answer) {
  const found = answer.plan.findings;
  return h(
    "section",
    { class: "card", "aria-labelledby": "findings-title" },
    h("div", { class: "card-head" }, h("h2", { id: "findings-title" }, found.length ? "Problems" : answer.plan.signal === "waiting" ? "This plan is waiting for a person" : "No problems")),
    found.length
      ? found.map((finding) => {
          const label = { sql: "the statement", command: "the command", advice: "the advice" }[finding.remedy];
          return h(
            "div",
            { class: `finding ${finding.severity}` },
            icon(finding.severity),
            h(
              "div",
              {},
              h("p", {}, h("strong", { class: "unseen" }, `${finding.severity}: `), finding.message),
              finding.hint ? copyable(finding.hint, label) : null,
              h("p", { class: "code" }, finding.code),
            ),
          );
        })
      : h("p", { class: "empty" }, "The state of this plan has no problems. To check the server as well, run ", h("code", {}, `clickhouse-backfill doctor --plan-id ${answer.plan.planId}`), "."),
  );
}

export function running(answer, open) {
  if (!answer.running.length) return null;
  return h(
    "section",
    { class: "card", "aria-labelledby": "running-title" },
    h("div", { class: "card-head" }, h("h2", { id: "running-title" }, "Running now")),
    h(
      "ul",
      { class: "chunks" },
      answer.running.map((chunk) => h("li", { "data-key": chunk.chunkId }, chunkButton(chunk, open), h("span", { class: "second" }, `attempt ${chunk.attempt}, ${ago(chunk.startedAt)}, ${owner(chunk.owner)}`))),
    ),
    answer.workers.some((worker) => worker.gone) ? h("p", { class: "second error" }, "A worker that holds chunks is gone; see above.") : null,
  );
}

export function failed(answer, open) {
  if (!answer.failed.length) return null;
  const more = answer.plan.chunkCounts.failed - answer.failed.length;
  return h(
    "section",
    { class: "card", "aria-labelledby": "failed-title" },
    h("div", { class: "card-head" }, h("h2", { id: "failed-title" }, plural(answer.plan.chunkCounts.failed, "failed chunk"))),
    h("ul", { class: "chunks" }, answer.failed.map((chunk) => h("li", { "data-key": chunk.chunkId }, chunkButton(chunk, open), h("span", { class: "second error" }, chunk.error)))),
    more > 0 ? h("p", { class: "second" }, `and ${number(more)} more`) : null,
  );
}

function chunkButton(chunk, open) {
  const button = h("button", { type: "button", class: "link" }, span(chunk.from, chunk.to));
  button.addEventListener("click", () => open(chunk.chunkId));
  return button;
}

export function definition(answer) {
  const made = answer.definition;
  const rows = [
    ["Write mode", `${made.writeMode}: ${made.modeReason}`],
    ["Planned on", made.environment],
    ["In the target before", made.existingRows === null ? "not known" : plural(made.existingRows, "row")],
    ["Plan file", made.planPath],
    ["Event log", made.eventPath],
  ];
  return h(
    "section",
    { class: "card", "aria-labelledby": "plan-title" },
    h("div", { class: "card-head" }, h("h2", { id: "plan-title" }, "The plan")),
    h("dl", { class: "facts" }, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    made.statements.map((one) => details(`Rows from ${one.source}${one.name === one.source ? "" : ` through ${one.name}`}`, one.select)),
  );
}
