// List all plans: the verdict of `check`, and a row per plan; plans that need attention come first.

import { dagAddress } from "./airflow.js";
import { Refusal, ask, poll, query } from "./api.js";
import { airflowLink, h, icon, patch, pill } from "./dom.js";
import { ago, bytes, compact, duration, number, percent, plural, span } from "./format.js";

// The columns: the server's name to sort by (empty if not sortable), the heading, and the alignment.
const HEADS = [["target", "Target", ""], ["status", "Status", ""], ["progress", "Progress", ""], ["rows", "Written", "right"], ["read", "Read", "right"], ["", "Time left", "right"], ["started", "Started", ""], ["dag", "DAG", ""], ["author", "By", ""], ["changed", "Changed", "right"]];
const STATUSES = ["running", "failed", "paused", "planned", "cancelled", "completed", "undone"];

export function listView(page) {
  const wanted = { q: "", status: "", limit: 50, sort: "", falling: "" };
  let version = "";
  let answer = null;

  const search = h("input", { type: "search", id: "search", placeholder: "Target or plan id", autocomplete: "off", spellcheck: "false" });
  const chips = h("div", { class: "chips", role: "group", "aria-label": "Show only plans that are" });
  const verdict = h("div", { class: "verdict-wrap" });
  const trouble = h("div", { role: "status" });
  const body = h("div", { class: "table-wrap" });
  patch(
    page,
    h(
      "header",
      { class: "top" },
      h("div", {}, h("h1", {}, "ClickHouse backfills"), h("p", { class: "sub" }, "Each plan fills one window of one table, every row exactly once.")),
    ),
    h(
      "main",
      {},
      trouble,
      verdict,
      h("div", { class: "filters" }, h("label", { for: "search", class: "unseen" }, "Search for a target or plan id"), search, chips),
      body,
    ),
  );

  const again = poll(async () => {
    try {
      const found = await ask(`api/plans?${query({ ...wanted, since: version })}`);
      patch(trouble);
      if (found.changed) {
        answer = found;
        version = found.version;
        show();
      }
      if (!answer.complete) return 300;
      return answer.verdict.active ? 3000 : 10_000;
    } catch (error) {
      if (error instanceof Refusal) patch(trouble, problem(error));
      throw error;
    }
  });

  const ask_again = () => {
    version = "";
    again();
  };
  let typing = null;
  search.addEventListener("input", () => {
    wanted.q = search.value.trim();
    wanted.limit = 50;
    clearTimeout(typing);
    typing = setTimeout(ask_again, 200);
  });

  function show() {
    document.title = answer.verdict.ok ? "ClickHouse backfills" : `(${answer.verdict.failing}) ClickHouse backfills`;
    patch(verdict, verdictOf(answer));
    patch(chips, ["", ...STATUSES].map(chip));
    patch(body, answer.plans.length ? table(answer.plans, wanted, sortBy) : nothing(), damaged(answer.damaged), more());
  }

  // Cycle: ascending, descending, then the default order.
  function sortBy(name) {
    const [sort, falling] = wanted.sort !== name ? [name, ""] : wanted.falling ? ["", ""] : [name, "true"];
    Object.assign(wanted, { sort, falling });
    ask_again();
  }

  function chip(status) {
    const count = status ? answer.counts[status] : Object.values(answer.counts).reduce((sum, one) => sum + one, 0);
    if (status && !count && wanted.status !== status) return null;
    const pressed = wanted.status === status;
    const button = h("button", { type: "button", class: "chip", "aria-pressed": String(pressed), "data-key": status }, status || "all", h("span", { class: "count" }, number(count)));
    button.addEventListener("click", () => {
      wanted.status = pressed ? "" : status;
      wanted.limit = 50;
      ask_again();
    });
    return button;
  }

  function more() {
    if (answer.matching <= answer.plans.length) return null;
    const button = h("button", { type: "button", class: "quiet more" }, `Show more of ${number(answer.matching)}`);
    button.addEventListener("click", () => {
      wanted.limit = Math.min(500, wanted.limit + 100);
      ask_again();
    });
    return button;
  }

  function nothing() {
    if (!answer.complete) return h("p", { class: "empty" }, "Loading plans …");
    if (answer.total) return h("p", { class: "empty" }, "No plans match.");
    return h(
      "div",
      { class: "empty" },
      h("h2", {}, "There is no plan yet"),
      h("p", {}, "The state folder is ", h("code", {}, answer.stateDir), ". Create a plan with a ", h("code", {}, "BackfillPlanOperator"), ", or with ", h("code", {}, "clickhouse-backfill plan"), " and this folder as ", h("code", {}, "--state-dir"), "."),
    );
  }
}

export function problem(error) {
  return h(
    "div",
    { class: "card problem" },
    icon("warn"),
    h("div", {}, h("strong", {}, error.message), error.hint ? h("p", {}, `${error.hint.charAt(0).toUpperCase()}${error.hint.slice(1)}.`) : null),
  );
}

function verdictOf({ verdict, total, complete }) {
  if (!complete) return h("div", { class: "verdict" }, icon("planned"), h("p", {}, `Loading ${plural(total, "plan")}: ${number(verdict.evaluated)} so far …`));
  if (!total) return null;
  const facts = [
    verdict.active && `${number(verdict.active)} running`,
    verdict.failed && `${number(verdict.failed)} failed`,
    verdict.pending && `${number(verdict.pending)} not finished`,
    verdict.damaged && `${number(verdict.damaged)} with damaged files`,
  ].filter(Boolean);
  const { broken, waiting } = verdict.signals;
  const text = broken
    ? `${plural(broken, "backfill")} of ${number(total)} ${broken === 1 ? "is" : "are"} broken`
    : waiting
      ? `${plural(waiting, "backfill")} of ${number(total)} ${waiting === 1 ? "is" : "are"} waiting for a person`
      : verdict.active
        ? `${number(verdict.active)} running, nothing to do`
        : "Every required backfill is finished";
  return h(
    "div",
    { class: `verdict ${broken ? "bad" : waiting ? "waits" : "good"}` },
    icon(broken ? "failed" : waiting ? "warn" : verdict.active ? "running" : "done"),
    h(
      "div",
      {},
      h("strong", {}, text),
      h("p", {}, h("code", {}, "clickhouse-backfill check"), verdict.ok ? " passes" : " fails", facts.length ? `: ${facts.join(", ")}.` : ".", verdict.relaxed ? " The policy is relaxed: unfinished backfills are only warnings." : ""),
    ),
  );
}

function table(plans, wanted, sortBy) {
  const order = { "": "none", true: "descending" };
  const head = ([key, name, side]) => {
    if (!key) return h("th", { scope: "col", class: side }, name);
    const sorted = wanted.sort === key;
    const button = h("button", { type: "button", class: "sort", "data-key": key }, name, h("span", { "aria-hidden": "true" }, sorted ? (wanted.falling ? " ↓" : " ↑") : ""));
    button.addEventListener("click", () => sortBy(key));
    return h("th", { scope: "col", class: side, "aria-sort": sorted ? (wanted.falling ? order.true : "ascending") : order[""] }, button);
  };
  return h(
    "table",
    { class: "plans" },
    h("caption", { class: "unseen" }, wanted.sort ? "Plans" : "Plans, most urgent first"),
    h("thead", {}, h("tr", {}, HEADS.map(head))),
    h("tbody", {}, plans.map(row)),
  );
}

function row(plan) {
  const counts = plan.chunkCounts;
  const error = plan.status === "completed" ? "" : (plan.failures?.[0]?.error ?? plan.lastError ?? "");
  const dags = plan.dagIds.map((dag, index) => [index ? ", " : "", airflowLink(dagAddress(dag), dag)]);
  return h(
    "tr",
    { "data-key": plan.planId },
    h(
      "th",
      { scope: "row" },
      h("a", { href: `plans/${plan.planId}` }, plan.target),
      h("span", { class: "second" }, `${span(Date.parse(plan.from), Date.parse(plan.to))} · ${plan.writeMode} · `, h("code", {}, plan.planId), " · ", h("a", { class: "aside", href: `table?${query({ target: plan.target })}` }, "all plans of this table")),
      error ? h("span", { class: "second error", title: error }, error) : null,
    ),
    h("td", { "data-label": "Status" }, standing(plan)),
    h(
      "td",
      { class: "progress" },
      bar(counts),
      h("span", { class: "second" }, `${number(counts.done)} of ${plural(counts.total, "chunk")}`, counts.failed ? h("span", { class: "error" }, `, ${number(counts.failed)} failed`) : ""),
    ),
    h("td", { class: "right", "data-label": "Written" }, counts.done ? compact(plan.rowsWritten) : "–", plan.rowsPerSecond ? h("span", { class: "second" }, `${compact(plan.rowsPerSecond)}/s`) : null),
    h("td", { class: "right", "data-label": "Read" }, plan.rowsRead ? compact(plan.rowsRead) : "–", plan.bytesRead ? h("span", { class: "second" }, bytes(plan.bytesRead)) : null),
    h("td", { class: "right", "data-label": "Time left" }, plan.secondsLeft !== null && plan.status === "running" ? duration(plan.secondsLeft) : "–", plan.throttledBy ? h("span", { class: "second", title: plan.throttledBy }, "held back") : null),
    h("td", { "data-label": "Started" }, plan.startedAt ? ago(plan.startedAt) : "never"),
    h("td", { class: "who", "data-label": "DAG", title: plan.dagIds.join(", ") }, plan.dagIds.length ? dags : "–"),
    h("td", { class: "who", "data-label": "By", title: plan.author }, author(plan)),
    h("td", { class: "right", "data-label": "Changed" }, ago(plan.updatedAt ?? plan.createdAt), h("span", { class: "second" }, `planned ${ago(plan.createdAt)}`)),
  );
}

// Return a person's name; for a task, only Airflow, because the DAG has a separate column.
export const author = (plan) => (plan.author.startsWith("airflow:") ? "Airflow" : plan.author || "–");

// Show the state of a plan for people.
export function standing(plan) {
  if (plan.waiver) return pill("skipped", "waived");
  if (plan.cancelling) return pill("cancelled", "cancelling");
  const quiet = plan.status === "running" && !plan.chunkCounts.running && Date.now() - Date.parse(plan.updatedAt) > 60_000;
  return quiet ? pill("paused", "no worker") : pill(plan.status);
}

export function bar(counts) {
  const share = (name) => h("span", { class: name, style: { width: `${(100 * counts[name]) / counts.total}%` } });
  const text = percent(counts.done, counts.total);
  return h(
    "div",
    { class: "bar-line" },
    h("div", { class: "bar", role: "img", "aria-label": `${text} done` }, ["done", "running", "failed"].filter((name) => counts[name]).map(share)),
    h("span", { class: "percent", "aria-hidden": "true" }, text),
  );
}

function damaged(entries) {
  if (!entries.length) return null;
  return h(
    "section",
    { class: "card", "aria-labelledby": "damaged-title" },
    h("h2", { id: "damaged-title" }, "Plans that cannot be read"),
    entries.map((entry) => h("div", { class: "finding error" }, icon("failed"), h("div", {}, h("strong", {}, entry.planId), h("p", {}, entry.message), h("p", { class: "hint" }, entry.hint)))),
  );
}
