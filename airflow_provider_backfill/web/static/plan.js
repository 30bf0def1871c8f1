// Show one plan: state, map of the window, events, findings and remedies.

import { Refusal, ask, poll, query } from "./api.js";
import { RateChart } from "./chart.js";
import { tasksOf } from "./airflow.js";
import { h, patch } from "./dom.js";
import { plural } from "./format.js";
import { problem } from "./list.js";
import { ChunkMap } from "./map.js";
import { definition, failed, findings, running, stats } from "./plan_cards.js";
import { chunkCard } from "./plan_chunk.js";
import { confirmAction } from "./plan_dialog.js";
import { feed } from "./plan_feed.js";
import { crumbs, head } from "./plan_head.js";

const FEED = 120;

// With inRun, show the plan as a tab of its DAG run.
export function planView(page, planId, { inRun = false } = {}) {
  const api = `api/plans/${encodeURIComponent(planId)}`;
  let zoomed = {};
  let version = "";
  let after = 0;
  let answer = null;
  let events = [];
  let onlyTrouble = false;
  let opened = "";

  const parts = Object.fromEntries(["head", "trouble", "stats", "chunk", "findings", "lists", "feed", "definition"].map((name) => [name, h("div", { class: `part-${name}` })]));
  parts.trouble.setAttribute("role", "status");
  const map = new ChunkMap({ open: openChunk, zoom, chosen: showChoice });
  const chart = new RateChart();
  const columns = h("div", { class: "columns" }, h("div", { class: "column" }, parts.findings, parts.lists, parts.definition), h("div", { class: "column" }, chart.element, parts.feed));
  patch(page, h("header", { class: "top plan-top" }, parts.head), h("main", {}, parts.trouble, parts.stats, map.element, parts.chunk, columns));
  for (const element of [map.element, parts.stats, columns]) element.hidden = true;

  const again = poll(async () => {
    try {
      const found = await ask(`${api}?${query({ ...zoomed, cells: map.capacity, since: version, after })}`);
      patch(parts.trouble);
      if (found.changed) {
        const first = answer === null;
        answer = found;
        version = found.version;
        events = [...events, ...found.events.filter((event) => event.number > after)].slice(-FEED);
        after = found.lastEvent;
        if (first) for (const element of [map.element, parts.stats, columns]) element.hidden = false;
        show();
        if (opened) refreshChunk();
      }
      if (!answer.complete) return 150;
      return answer.plan.status === "running" || answer.plan.cancelling ? 1500 : 8000;
    } catch (error) {
      if (error instanceof Refusal) {
        if (answer === null) patch(parts.head, crumbs(inRun), h("h1", {}, "ClickHouse backfill"));
        patch(parts.trouble, problem(error));
      }
      throw error;
    }
  });

  function zoom(from, to) {
    zoomed = from === undefined ? {} : { from, to };
    version = "";
    map.cursor = 0;
    again();
  }

  function show() {
    const { plan } = answer;
    document.title = `${plan.target} · ${plan.status}`;
    patch(parts.head, head(answer, inRun, act));
    patch(parts.stats, stats(answer));
    if (answer.map) map.show(answer.map);
    showChoice();
    chart.show(answer.series);
    patch(parts.findings, findings(answer));
    patch(parts.lists, running(answer, openChunk), failed(answer, openChunk));
    showFeed();
    patch(parts.definition, definition(answer));
  }

  // Show the failed chunks of the selected cells, with a button that clears their tasks.
  function showChoice() {
    if (!map.selected.size) return patch(map.choice);
    const picked = answer.failed.filter((chunk) => map.has(chunk.from, chunk.to));
    const runs = tasksOf(picked, answer.airflow);
    const chunks = picked.filter((chunk) => chunk.task && runs.some((run) => run.runId === chunk.task.runId && run.dagId === chunk.task.dagId));
    const none = h("button", { type: "button", class: "quiet", "data-key": "none" }, "Select none");
    none.addEventListener("click", () => map.deselect());
    const retry = h("button", { type: "button", class: "primary", "data-key": "selected" }, `Retry ${plural(chunks.length, "selected chunk")} …`);
    retry.addEventListener("click", () => act("retry", retry, runs));
    return patch(
      map.choice,
      chunks.length ? retry : h("p", { class: "second" }, picked.length ? "No task that you may clear in Airflow has executed these chunks." : "The selected failed chunks are not in the list of failed chunks."),
      none,
    );
  }

  function showFeed() {
    patch(parts.feed, feed(events, answer.complete, onlyTrouble, toggleFeed));
  }

  function toggleFeed() {
    onlyTrouble = !onlyTrouble;
    showFeed();
    parts.feed.querySelector("button").focus();
  }

  // For retry: runs limits the tasks to clear, if given.
  function act(verb, opener, runs) {
    const done = () => {
      map.selected.clear();
      version = "";
      again();
    };
    confirmAction(verb, opener, { current: () => answer, api, done, runs });
  }

  // -------------------------------------------------------------- one chunk

  async function openChunk(chunkId) {
    opened = chunkId;
    try {
      showChunk(await ask(`${api}/chunks/${encodeURIComponent(chunkId)}`));
      const title = parts.chunk.querySelector("h2");
      title.focus({ preventScroll: true });
      title.scrollIntoView({ block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    } catch (error) {
      patch(parts.trouble, problem(error));
    }
  }

  async function refreshChunk() {
    const wanted = opened;
    try {
      const found = await ask(`${api}/chunks/${encodeURIComponent(wanted)}`);
      if (opened === wanted) showChunk(found);
    } catch {
      // The next update shows the chunk.
    }
  }

  function showChunk(chunk) {
    patch(parts.chunk, chunkCard(chunk, openChunk, closeChunk));
  }

  function closeChunk() {
    opened = "";
    patch(parts.chunk);
    map.field.focus();
  }
}
