// Show one chunk: its attempts, its parts, and its SQL.

import { airflowLink, copyable, details, h, icon, pill } from "./dom.js";
import { clockSeconds, dayThere, duration, owner, plural, span, zoneName } from "./format.js";

// Return the card of a chunk; open(id) shows another chunk, close() hides the card.
export function chunkCard(chunk, open, close) {
  const button = h("button", { type: "button", class: "quiet", "aria-label": "Close the chunk" }, icon("close"));
  button.addEventListener("click", close);
  return h(
    "section",
    { class: "card chunk-card", "aria-labelledby": "chunk-title" },
    h("div", { class: "card-head" }, h("h2", { id: "chunk-title", tabindex: "-1" }, span(chunk.from, chunk.to)), pill(chunk.status), button),
    h(
      "p",
      { class: "second" },
      [chunk.rows !== null && `${plural(chunk.rows, "row")} in ${duration(chunk.seconds)}`, chunk.checksum && `checksum ${chunk.checksum}`].filter(Boolean).join(", "),
      chunk.rows !== null ? " · " : "",
      "chunk ",
      h("code", {}, chunk.chunkId),
    ),
    chunk.partOf ? h("p", {}, "A part of ", jump(open, chunk.partOf, "the chunk that was split"), ".") : null,
    chunk.parts.length ? h("ul", { class: "chunks" }, chunk.parts.map((part) => h("li", {}, jump(open, part.chunkId, span(part.from, part.to)), pill(part.status)))) : null,
    chunk.attempts.length
      ? h("ol", { class: "attempts", reversed: true }, [...chunk.attempts].reverse().map(attempt))
      : h("p", { class: "empty" }, "No attempt was made yet."),
    chunk.statements.map((one) => details(`SQL${chunk.statements.length > 1 ? ` of ${one.name}` : ""}`, `${one.insert}\n${one.filter}`)),
  );
}

function jump(open, chunkId, text) {
  const button = h("button", { type: "button", class: "link" }, text);
  button.addEventListener("click", () => open(chunkId));
  return button;
}

function attempt(one) {
  const lines = {
    done: () => `${plural(one.rows, "row")} in ${duration(one.seconds)}`,
    failed: () => `${one.message}${one.final ? "" : " (will be retried)"}`,
    split: () => one.message,
    "released": () => one.reason,
    lost: () => "its worker was lost; a later attempt took over",
    running: () => `since ${clockSeconds(Date.parse(one.startedAt))} ${zoneName(Date.parse(one.startedAt))}${one.verifiedAt ? `, ${plural(one.staged, "row")} staged and verified` : ""}`,
  };
  return h(
    "li",
    { "data-key": String(one.attempt) },
    h("div", { class: "attempt-head" }, h("strong", {}, `Attempt ${one.attempt}`), pill(one.outcome), h("span", { class: "second" }, `${dayThere(Date.parse(one.startedAt))}, ${clockSeconds(Date.parse(one.startedAt))} ${zoneName(Date.parse(one.startedAt))} · ${owner(one.by)}`)),
    h("p", { class: one.outcome === "failed" ? "error" : "" }, (lines[one.outcome] ?? (() => one.outcome))()),
    copyable(one.queryId, "the query id"),
    one.task ? h("p", {}, airflowLink(one.task, icon("out"), "Its task in Airflow, with the log")) : null,
  );
}
