// One plan: where it stands, its window as a map, what happens, what is wrong and what helps.

import { clearTasks, runAddress } from "./airflow.js";
import { Refusal, ask, poll, query } from "./api.js";
import { RateChart } from "./chart.js";
import { airflowLink, copyable, h, icon, patch, pill } from "./dom.js";
import { ago, clockSeconds, compact, dayThere, duration, number, owner, percent, plural, span, zone, zoneName } from "./format.js";
import { bar, problem, standing } from "./list.js";
import { ChunkMap } from "./map.js";

const FEED = 120;

// Why the chunks give together what the SELECT gives for the whole window, as the plan keeps it.
function addsUp(shown) {
  if (!shown) return [];
  const words = {
    "one chunk": "The window is one chunk.",
    "by rule": "Chunks add up: shown by rule.",
    "by trial": "Chunks add up: shown by a trial.",
    "by word": `It is not shown that chunks add up; parts of groups are accepted: ${shown.accepted}`,
    "not shown": "It is not shown that chunks add up.",
  };
  const lines = [...shown.setAside, ...shown.steps, ...shown.reads, ...(shown.trial ? [`trial: ${shown.trial}`] : [])];
  return [h("p", { class: "guarantee" }, words[shown.proof]), h("ul", { class: "adds-up" }, ...lines.map((line) => h("li", {}, line)))];
}

// With inRun, as the tab of the DAG run that works on the plan.
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
  const map = new ChunkMap({ open: openChunk, zoom });
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
        if (answer === null) patch(parts.head, crumbs(), h("h1", {}, "ClickHouse backfill"));
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
    patch(parts.head, head());
    patch(parts.stats, stats());
    if (answer.map) map.show(answer.map);
    chart.show(answer.series);
    patch(parts.findings, findings());
    patch(parts.lists, running(), failed());
    patch(parts.feed, feed());
    patch(parts.definition, definition());
  }

  // -------------------------------------------------------------- head

  function crumbs() {
    if (inRun) return null;
    return h("nav", { "aria-label": "Breadcrumb" }, h("a", { href: "./", class: "crumb" }, icon("back"), "All backfills"));
  }

  function head() {
    const { plan, definition: made } = answer;
    return [
      crumbs(),
      h(
        "div",
        { class: "title-line" },
        h("div", { class: "title" }, h("h1", {}, plan.target), standing(plan)),
        actions(),
      ),
      h("p", { class: "sub" }, `${span(Date.parse(plan.from), Date.parse(plan.to))} UTC · ${plural(made.chunkCount, "chunk")} ${plan.chunks}, by ${made.timeColumn} · ${plan.writeMode} · `, h("code", {}, plan.planId)),
      h("p", { class: "guarantee" }, icon("shield"), made.guarantee),
      ...addsUp(made.addsUp),
      byCommand(),
    ];
  }

  function actions() {
    const { plan, airflow } = answer;
    const [last] = airflow.runs;
    const found = [];
    if (last && !inRun) found.push(airflowLink(runAddress(last.dagId, last.runId), icon("out"), "Open the DAG run"));
    const stopped = ["cancelled", "paused", "undone"].includes(plan.status);
    const acts = [];
    if (answer.mayAct) {
      if (plan.status !== "completed" && !plan.waiver) acts.push(action("waive", "Waive …", "check no longer asks for it", "quiet"));
      if (["running", "paused", "failed", "planned"].includes(plan.status)) acts.push(action("cancel", "Cancel …", "kills its queries", "danger"));
      // A cleared task would be skipped: the cancel or pause is lifted first, for all of its chunks.
      if (stopped && last?.mayClear) acts.push(action("resume", "Resume …", "clears its tasks in Airflow", "primary"));
    }
    // Airflow's own rights, of each DAG; whoever may clear there need not have any here.
    const failed = clearable(airflow).reduce((sum, run) => sum + run.failedTasks.reduce((chunks, task) => chunks + task.chunks, 0), 0);
    if (!stopped && failed) acts.push(action("retry", `Retry ${plural(failed, "failed chunk")} …`, "clears their tasks in Airflow", "primary"));
    if (!answer.mayAct && !acts.length) acts.push(h("p", { class: "read-only" }, "You may look, not act."));
    found.push(...acts);
    return h("div", { class: "actions" }, found);
  }

  // What no task of Airflow's has executed, none can go on with.
  function byCommand() {
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

  function action(verb, text, note, kind) {
    const button = h("button", { type: "button", class: `${kind} action`, "data-key": verb }, text, h("small", {}, note));
    button.addEventListener("click", () => confirm(verb, button));
    return button;
  }

  function confirm(verb, opener) {
    const { plan } = answer;
    const claims = plan.chunkCounts.running;
    const texts = {
      cancel: {
        title: `Cancel the backfill of ${plan.target}?`,
        text: `No chunk is begun any more. ${claims ? `${plural(claims, "chunk")} that run${claims === 1 ? "s" : ""} now ${claims === 1 ? "is" : "are"} given back and ${claims === 1 ? "its query" : "their queries"} killed within two seconds. ` : ""}What is done stays in the target. Airflow's tasks of this plan are skipped.`,
        yes: "Cancel the backfill",
        no: "Leave it running",
        kind: "danger",
        reason: true,
      },
      resume: {
        title: `Let the backfill of ${plan.target} go on?`,
        text: `This lifts the ${plan.status === "paused" ? "pause" : "cancel"}, and clears these tasks in Airflow, which go on with what is not done:`,
        tasks: async (dryRun) => {
          const [last] = answer.airflow.runs;
          const all = await clearTasks(last.dagId, last.runId, last.taskIds, true);
          const left = all.filter((task) => task.state !== "success");
          if (dryRun) return left;
          await ask(`${api}/resume`, {});
          const names = left.filter((task) => last.taskIds.includes(task.task_id)).map(nameOf);
          return names.length ? clearTasks(last.dagId, last.runId, names, false) : [];
        },
        yes: "Resume",
        no: "Leave it as it is",
        kind: "primary",
      },
      retry: {
        title: `Retry the failed chunks of ${plan.target}?`,
        text: "Each gets a fresh set of attempts; what is done is not touched. These tasks are cleared in Airflow:",
        tasks: async (dryRun) => {
          const runs = clearable(answer.airflow);
          const names = (run) => run.failedTasks.map((task) => nameOf({ task_id: task.taskId, map_index: task.mapIndex }));
          return (await Promise.all(runs.map((run) => clearTasks(run.dagId, run.runId, names(run), dryRun)))).flat();
        },
        yes: "Retry",
        no: "Leave them as they are",
        kind: "primary",
      },
      waive: {
        title: `Waive the backfill of ${plan.target}?`,
        text: "It need not be finished: check still shows it and no longer fails because of it. Nothing that runs is stopped. The waiver ends when somebody runs or resumes the plan.",
        yes: "Waive",
        no: "Leave it as it is",
        kind: "primary",
        reason: true,
        needed: true,
      },
    }[verb];
    const said = h("div", { role: "alert" });
    const listed = texts.tasks ? h("ul", { class: "tasks", tabindex: "0", "aria-label": "Tasks that are cleared" }, h("li", { class: "second" }, "Asking Airflow …")) : null;
    const reason = texts.reason ? h("textarea", { id: "reason", rows: "2", maxlength: "500" }) : null;
    const yes = h("button", { type: "button", class: texts.kind }, texts.yes);
    const no = h("button", { type: "button", class: "quiet" }, texts.no);
    const dialog = h(
      "dialog",
      { "aria-labelledby": "dialog-title", "aria-describedby": "dialog-text" },
      h("h2", { id: "dialog-title" }, texts.title),
      h("p", { id: "dialog-text" }, texts.text),
      listed,
      reason ? [h("label", { for: "reason" }, texts.needed ? "Why (for the event log)" : "Why (for the event log, optional)"), reason] : null,
      said,
      h("div", { class: "buttons" }, no, yes),
    );
    no.addEventListener("click", () => dialog.close());
    yes.addEventListener("click", async () => {
      yes.disabled = true;
      try {
        if (texts.tasks) await texts.tasks(false);
        else await ask(`${api}/${verb}`, reason ? { reason: reason.value } : {});
        dialog.close();
        version = "";
        again();
      } catch (error) {
        yes.disabled = false;
        patch(said, problem(error));
      }
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      if (opener.isConnected) opener.focus();
    });
    document.body.append(dialog);
    dialog.showModal();
    if (texts.tasks) preview(texts, listed, said, yes);
  }

  // Which tasks it would be, as Airflow itself says; with that it also says whether this user may clear them.
  async function preview(texts, listed, said, yes) {
    yes.disabled = true;
    try {
      const tasks = (await texts.tasks(true)).sort((one, other) => one.task_id.localeCompare(other.task_id) || one.map_index - other.map_index);
      const line = (task) => h("li", {}, h("code", {}, task.map_index >= 0 ? `${task.task_id}[${task.map_index}]` : task.task_id), h("span", { class: "second" }, [task.rendered_map_index, task.state].filter(Boolean).join(" · ")));
      patch(listed, tasks.length ? tasks.map(line) : h("li", { class: "second" }, "Airflow finds no task to clear: the DAG run may be gone. Trigger the DAG again; what is done stays done."));
      yes.textContent = tasks.length ? `Clear ${plural(tasks.length, "task")}` : yes.textContent;
      yes.disabled = !tasks.length;
    } catch (error) {
      listed.remove();
      patch(said, problem(error));
    }
  }

  // -------------------------------------------------------------- numbers

  function stats() {
    const { plan, series, began } = answer;
    const counts = plan.chunkCounts;
    const took = began && plan.updatedAt ? (Date.parse(plan.updatedAt) - began) / 1000 : null;
    const active = series.perSecond.length * series.width / 1000;
    const mean = active ? (series.perSecond.reduce((sum, value) => sum + value, 0) * series.width) / 1000 / active : 0;
    const live = plan.status === "running" && plan.rowsPerSecond !== null;
    const items = [
      ["Rows written", counts.done ? compact(plan.rowsWritten) : "–", counts.done ? `in ${plural(plan.attempts, "attempt")}` : "nothing yet"],
      live ? ["Rows a second", compact(plan.rowsPerSecond), "of late"] : ["Rows a second", mean ? compact(mean) : "–", mean ? "on average" : ""],
      plan.status === "running"
        ? ["Time left", plan.secondsLeft === null ? "–" : duration(plan.secondsLeft) || "0 s", plan.secondsLeft === null ? "nothing was done of late" : `after ${duration(took)}`]
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
      h("dl", {}, items.map(([name, value, note]) => h("div", {}, h("dt", {}, name), h("dd", {}, value, h("span", { class: "second" }, note))))),
    );
  }

  // -------------------------------------------------------------- findings and lists

  function findings() {
    const found = answer.plan.findings;
    return h(
      "section",
      { class: "card", "aria-labelledby": "findings-title" },
      h("div", { class: "card-head" }, h("h2", { id: "findings-title" }, found.length ? "What to know" : answer.plan.signal === "waiting" ? "This plan waits for somebody" : "Nothing is wrong")),
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
        : h("p", { class: "empty" }, "The doctor has nothing to say about the state of this plan. With a ClickHouse at hand, ", h("code", {}, `clickhouse-backfill doctor --plan-id ${answer.plan.planId}`), " looks at the server as well."),
    );
  }

  function running() {
    if (!answer.running.length) return null;
    return h(
      "section",
      { class: "card", "aria-labelledby": "running-title" },
      h("div", { class: "card-head" }, h("h2", { id: "running-title" }, "Running now")),
      h(
        "ul",
        { class: "chunks" },
        answer.running.map((chunk) => h("li", { "data-key": chunk.chunkId }, chunkButton(chunk), h("span", { class: "second" }, `attempt ${chunk.attempt}, ${ago(chunk.startedAt)}, ${owner(chunk.owner)}`))),
      ),
      answer.workers.some((worker) => worker.gone) ? h("p", { class: "second error" }, "A worker that holds chunks is gone; see above.") : null,
    );
  }

  function failed() {
    if (!answer.failed.length) return null;
    const more = answer.plan.chunkCounts.failed - answer.failed.length;
    return h(
      "section",
      { class: "card", "aria-labelledby": "failed-title" },
      h("div", { class: "card-head" }, h("h2", { id: "failed-title" }, plural(answer.plan.chunkCounts.failed, "failed chunk"))),
      h("ul", { class: "chunks" }, answer.failed.map((chunk) => h("li", { "data-key": chunk.chunkId }, chunkButton(chunk), h("span", { class: "second error" }, chunk.error)))),
      more > 0 ? h("p", { class: "second" }, `and ${number(more)} more`) : null,
    );
  }

  function chunkButton(chunk) {
    const button = h("button", { type: "button", class: "link" }, span(chunk.from, chunk.to));
    button.addEventListener("click", () => openChunk(chunk.chunkId));
    return button;
  }

  // -------------------------------------------------------------- events

  function feed() {
    const shown = events.filter((event) => !onlyTrouble || !["ChunkDone", "ChunkStarted"].includes(event.type)).filter((event) => event.type !== "ChunkStarted").slice(-40).reverse();
    const toggle = h("button", { type: "button", class: "chip", "aria-pressed": String(onlyTrouble) }, "without done chunks");
    toggle.addEventListener("click", () => {
      onlyTrouble = !onlyTrouble;
      patch(parts.feed, feed());
      parts.feed.querySelector("button").focus();
    });
    return h(
      "section",
      { class: "card", "aria-labelledby": "feed-title" },
      h("div", { class: "card-head" }, h("h2", { id: "feed-title" }, "Events"), h("span", { class: "range" }, `times in ${zone()}`), toggle),
      shown.length && answer.complete
        ? h("ol", { class: "feed", tabindex: "0", "aria-label": "Events, newest first" }, shown.map((event) => h("li", { "data-key": String(event.number) }, sentence(event))))
        : h("p", { class: "empty" }, answer.complete ? "Nothing happened yet." : "Reading the log …"),
    );
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
      // The next look shows it.
    }
  }

  function showChunk(chunk) {
    const close = h("button", { type: "button", class: "quiet", "aria-label": "Close the chunk" }, icon("close"));
    close.addEventListener("click", () => {
      opened = "";
      patch(parts.chunk);
      map.field.focus();
    });
    patch(
      parts.chunk,
      h(
        "section",
        { class: "card chunk-card", "aria-labelledby": "chunk-title" },
        h("div", { class: "card-head" }, h("h2", { id: "chunk-title", tabindex: "-1" }, span(chunk.from, chunk.to)), pill(chunk.status), close),
        h(
          "p",
          { class: "second" },
          [chunk.rows !== null && `${plural(chunk.rows, "row")} in ${duration(chunk.seconds)}`, chunk.checksum && `checksum ${chunk.checksum}`].filter(Boolean).join(", "),
          chunk.rows !== null ? " · " : "",
          "chunk ",
          h("code", {}, chunk.chunkId),
        ),
        chunk.partOf ? h("p", {}, "A part of ", jump(chunk.partOf, "the chunk that was split"), ".") : null,
        chunk.parts.length ? h("ul", { class: "chunks" }, chunk.parts.map((part) => h("li", {}, jump(part.chunkId, span(part.from, part.to)), pill(part.status)))) : null,
        chunk.attempts.length
          ? h("ol", { class: "attempts", reversed: true }, [...chunk.attempts].reverse().map(attempt))
          : h("p", { class: "empty" }, "No attempt was made yet."),
        chunk.statements.map((one) => details(`SQL${chunk.statements.length > 1 ? ` of ${one.name}` : ""}`, `${one.insert}\n${one.filter}`)),
      ),
    );
  }

  function jump(chunkId, text) {
    const button = h("button", { type: "button", class: "link" }, text);
    button.addEventListener("click", () => openChunk(chunkId));
    return button;
  }

  function attempt(one) {
    const lines = {
      done: () => `${plural(one.rows, "row")} in ${duration(one.seconds)}`,
      failed: () => `${one.message}${one.final ? "" : " (will be tried again)"}`,
      split: () => one.message,
      "given back": () => one.reason,
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

  // -------------------------------------------------------------- how it was planned

  function definition() {
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
}

// The DAG runs with failed chunks whose tasks this user may clear.
const clearable = (airflow) => airflow.runs.filter((run) => run.mayClear && run.failedTasks.length);

// A task instance as Airflow's "clear" takes it.
const nameOf = (task) => (task.map_index >= 0 ? [task.task_id, task.map_index] : task.task_id);

function details(title, text) {
  return h("details", { class: "sql" }, h("summary", {}, title), copyable(text, "the SQL"));
}

// What happened, in one sentence with its time.
function sentence(event) {
  const at = Date.parse(event.at);
  const what = event.from !== undefined ? `${span(event.from, event.to)}: ` : "";
  const by = owner(event.by);
  const told = {
    RunStarted: () => ["running", `${by} started the run`],
    RunResumed: () => ["running", `${by} resumed the run`],
    RunPaused: () => ["paused", `Paused: ${event.reason}`],
    RunUndone: () => ["cancelled", `${by} brought back what the run had replaced`],
    RunCancelled: () => ["cancelled", `${by} cancelled the run${event.reason ? `: ${event.reason}` : ""}`],
    RunReplayed: () => ["running", `${by} wants ${event.statuses.join(" and ")} chunks again`],
    RunWaived: () => ["info", `${by} waived the plan: ${event.reason}`],
    ChunkDone: () => ["done", `${what}${compact(event.rows)} rows in ${duration(event.seconds)}`],
    ChunkFailed: () => ["failed", `${what}attempt ${event.attempt} ${event.final ? "failed for good" : "failed, will be tried again"}: ${event.message}`],
    ChunkReleased: () => ["cancelled", `${what}given back: ${event.reason}`],
    ChunkSplit: () => ["split", `${what}split into ${event.parts.length} parts: ${event.message}`],
  }[event.type];
  const [kind, text] = told ? told() : ["info", event.type];
  return [h("span", { class: `dot ${kind}` }, icon(kind)), h("time", { datetime: event.at, title: `${dayThere(at)} ${zoneName(at)}` }, clockSeconds(at)), h("span", { class: "what" }, text)];
}
