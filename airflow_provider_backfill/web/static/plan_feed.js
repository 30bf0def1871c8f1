// List the events of a plan, newest first.

import { h, icon } from "./dom.js";
import { clockSeconds, compact, dayThere, duration, owner, span, zone, zoneName } from "./format.js";

export function feed(events, complete, onlyTrouble, toggleTrouble) {
  const shown = events.filter((event) => !onlyTrouble || !["ChunkDone", "ChunkStarted"].includes(event.type)).filter((event) => event.type !== "ChunkStarted").slice(-40).reverse();
  const toggle = h("button", { type: "button", class: "chip", "aria-pressed": String(onlyTrouble) }, "hide done chunks");
  toggle.addEventListener("click", toggleTrouble);
  return h(
    "section",
    { class: "card", "aria-labelledby": "feed-title" },
    h("div", { class: "card-head" }, h("h2", { id: "feed-title" }, "Events"), h("span", { class: "range" }, `times in ${zone()}`), toggle),
    shown.length && complete
      ? h("ol", { class: "feed", tabindex: "0", "aria-label": "Events, newest first" }, shown.map((event) => h("li", { "data-key": String(event.number) }, sentence(event))))
      : h("p", { class: "empty" }, complete ? "Nothing happened yet." : "Reading the log …"),
  );
}

// Describe an event in one sentence with its time.
function sentence(event) {
  const at = Date.parse(event.at);
  const what = event.from !== undefined ? `${span(event.from, event.to)}: ` : "";
  const by = owner(event.by);
  const told = {
    RunStarted: () => ["running", `${by} started the run`],
    RunResumed: () => ["running", `${by} resumed the run`],
    RunPaused: () => ["paused", `Paused: ${event.reason}`],
    RunUndoStarted: () => ["cancelled", `${by} began to restore the replaced rows`],
    RunUndone: () => ["cancelled", `${by} restored the replaced rows`],
    RunCancelled: () => ["cancelled", `${by} cancelled the run${event.reason ? `: ${event.reason}` : ""}`],
    RunReplayed: () => ["running", `${by} replays ${event.statuses.join(" and ")} chunks`],
    RunThrottled: () => ["paused", `Queries are held back: ${event.reason}`],
    RunRestored: () => ["info", `${by} repaired the log: ${event.reason}`],
    ParallelismSet: () => ["info", `${by} set ${event.parallel ? `at most ${event.parallel} chunks at once` : "parallel chunks as set for each worker"}`],
    RunWaived: () => ["info", `${by} waived the plan: ${event.reason}`],
    ChunkDone: () => ["done", `${what}${compact(event.rows)} rows in ${duration(event.seconds)}`],
    ChunkFailed: () => ["failed", `${what}attempt ${event.attempt} ${event.final ? "failed permanently" : "failed, will be retried"}: ${event.message}`],
    ChunkReleased: () => ["cancelled", `${what}released: ${event.reason}`],
    ChunkSplit: () => ["split", `${what}split into ${event.parts.length} parts: ${event.message}`],
  }[event.type];
  const [kind, text] = told ? told() : ["info", event.type];
  return [h("span", { class: `dot ${kind}` }, icon(kind)), h("time", { datetime: event.at, title: `${dayThere(at)} ${zoneName(at)}` }, clockSeconds(at)), h("span", { class: "what" }, text)];
}
