// Show one table: all of its plans on a calendar, and the windows that each has filled.

import { Refusal, ask, poll, query } from "./api.js";
import { copyable, h, icon, patch } from "./dom.js";
import { DAY, rows } from "./calendar.js";
import { ago, compact, number, percent, plural, span } from "./format.js";
import { author, problem, standing } from "./list.js";
import { crumbs } from "./plan_head.js";

const WORDS = { filled: "filled", twice: "filled twice", accepted: "filled twice, which was allowed", gap: "gap" };

export const tableAddress = (target) => `table?${query({ target })}`;

export function tableView(page, target) {
  const trouble = h("div", { role: "status" });
  const verdict = h("div", { class: "verdict-wrap apart" });
  const body = h("div", {});
  let version = "";
  patch(page, h("header", { class: "top plan-top" }, crumbs(false), h("h1", {}, target)), h("main", {}, trouble, verdict, body));
  poll(async () => {
    try {
      const found = await ask(`api/table?${query({ target, since: version })}`);
      patch(trouble);
      if (found.changed) {
        version = found.version;
        document.title = `${found.target} · ClickHouse backfills`;
        if (found.coverage) {
          patch(verdict, verdictOf(found));
          patch(body, found.coverage.servers.map((server) => calendar(found, server)), twice(found), gaps(found), plans(found));
        }
      }
      if (!found.complete && found.changed) return 300;
      return 5000;
    } catch (error) {
      if (error instanceof Refusal) patch(trouble, problem(error));
      throw error;
    }
  });
}

const ms = (stretch) => [Date.parse(stretch.from), Date.parse(stretch.to)];

function verdictOf({ coverage }) {
  const doubled = coverage.filledTwice.filter((one) => !one.accepted).length;
  const shares = coverage.servers.map((server) => server.share);
  const share = shares.length ? Math.min(...shares) : 0;
  const [kind, text] = doubled
    ? ["bad", `${plural(doubled, "window")} ${doubled === 1 ? "is" : "are"} filled twice`]
    : share === 1
      ? ["good", "Every window of these plans is filled, once"]
      : ["waits", `${percent(share, 1)} of the window is proven filled`];
  return h(
    "div",
    { class: `verdict ${kind}` },
    icon(doubled ? "failed" : share === 1 ? "done" : "warn"),
    h("div", {}, h("strong", {}, text), h("p", {}, h("code", {}, `clickhouse-backfill coverage --target ${coverage.target}`), ` says the same, for ${span(...ms(coverage))} UTC.`)),
  );
}

// Return the stretches of one server in time order: filled, filled twice, or a gap.
function stretches({ coverage }, server) {
  const filled = server.covered.map((one) => ({ state: "filled", at: ms(one), planIds: one.planIds }));
  const gap = server.gaps.map((one) => ({ state: "gap", at: ms(one), planIds: [] }));
  const doubled = coverage.filledTwice.map((one) => ({ state: one.accepted ? "accepted" : "twice", at: ms(one), planIds: one.planIds }));
  return [...filled, ...gap, ...doubled];
}

function calendar(found, server) {
  const [from, to] = ms(found.coverage);
  const parts = stretches(found, server);
  return h(
    "section",
    { class: "card", "aria-label": `Calendar of ${server.environment}` },
    h("div", { class: "card-head" }, h("h2", {}, "All plans on one calendar"), h("span", { class: "range" }, `${server.environment} · ${percent(server.share, 1)} filled`)),
    h(
      "ol",
      { class: "calendar" },
      rows(from, to).map((row) => {
        const inside = parts.filter((part) => part.at[0] < row.to && part.at[1] > row.from);
        const said = inside.map((part) => `${span(Math.max(part.at[0], row.from), Math.min(part.at[1], row.to))}: ${WORDS[part.state]}${part.planIds.length ? ` by ${part.planIds.join(" and ")}` : ""}`);
        return h("li", {}, h("span", { class: "when" }, row.name), h("span", { class: "track", "aria-hidden": "true" }, inside.map((part) => piece(part, row))), h("span", { class: "unseen" }, said.join("; ") || "outside the window"));
      }),
    ),
    h("ul", { class: "legend" }, ["filled", "twice", "gap"].map((state) => h("li", {}, h("span", { class: `swatch ${state}` }), WORDS[state]))),
  );
}

function piece(part, row) {
  const [from, to] = [Math.max(part.at[0], row.from), Math.min(part.at[1], row.to)];
  const at = (value) => `${(100 * (value - row.from)) / (row.end - row.from)}%`;
  const title = `${span(...part.at)}: ${WORDS[part.state]}${part.planIds.length ? ` by ${part.planIds.join(" and ")}` : ""}`;
  const style = { left: at(from), width: `${(100 * (to - from)) / (row.end - row.from)}%` };
  if (part.planIds.length) return h("a", { class: `piece ${part.state}`, href: `plans/${part.planIds.at(-1)}`, title, style, tabindex: "-1" });
  return h("span", { class: `piece ${part.state}`, title, style });
}

function twice({ coverage }) {
  const found = coverage.filledTwice.filter((one) => !one.accepted);
  if (!found.length) return null;
  return h(
    "section",
    { class: "card", "aria-labelledby": "twice-title" },
    h("div", { class: "card-head" }, h("h2", { id: "twice-title" }, "Filled twice")),
    h("ul", { class: "chunks" }, found.map((one) => h("li", {}, span(...ms(one)), h("span", { class: "second error" }, "by ", one.planIds.map((id, index) => [index ? " and " : "", h("a", { href: `plans/${id}` }, id)]))))),
  );
}

const SHOWN = 20;
const ENDED = ["completed", "cancelled", "undone"];

function gaps({ coverage, plans }) {
  if (!coverage.gaps.length) return null;
  const day = (value) => (value % DAY ? new Date(value).toISOString() : new Date(value).toISOString().slice(0, 10));
  return h(
    "section",
    { class: "card", "aria-labelledby": "gaps-title" },
    h("div", { class: "card-head" }, h("h2", { id: "gaps-title" }, `${plural(coverage.gaps.length, "gap")} that no done chunk has filled`)),
    h(
      "ul",
      { class: "chunks" },
      coverage.gaps.slice(0, SHOWN).map((one) => {
        const [from, to] = ms(one);
        const open = plans.filter((plan) => !ENDED.includes(plan.status) && Date.parse(plan.from) < to && Date.parse(plan.to) > from);
        if (open.length) return h("li", {}, span(from, to), h("span", { class: "second" }, "to be filled by ", open.map((plan, index) => [index ? ", " : "", h("a", { href: `plans/${plan.planId}` }, plan.planId), ` (${plan.status})`])));
        return h("li", {}, span(from, to), copyable(`clickhouse-backfill plan --target ${coverage.target} --from ${day(from)} --to ${day(to)}`, "the command"));
      }),
    ),
    coverage.gaps.length > SHOWN ? h("p", { class: "second" }, `and ${number(coverage.gaps.length - SHOWN)} more`) : null,
  );
}

function plans(found) {
  return h(
    "section",
    { class: "card", "aria-labelledby": "plans-title" },
    h("div", { class: "card-head" }, h("h2", { id: "plans-title" }, plural(found.plans.length, "plan"))),
    h(
      "ul",
      { class: "chunks" },
      found.plans.map((plan) =>
        h(
          "li",
          { "data-key": plan.planId },
          h("a", { href: `plans/${plan.planId}` }, span(Date.parse(plan.from), Date.parse(plan.to))),
          standing(plan),
          h(
            "span",
            { class: "second" },
            [
              `${number(plan.chunkCounts.done)} of ${plural(plan.chunkCounts.total, "chunk")}`,
              `${compact(plan.rowsWritten)} rows`,
              plan.author && `by ${author(plan)}`,
              plan.startedAt ? `started ${ago(plan.startedAt)}` : "never run",
              plan.planId,
            ]
              .filter(Boolean)
              .join(" · "),
          ),
        ),
      ),
    ),
  );
}
