// Ask before a plan is cancelled, resumed, retried or waived.

import { clearTasks, clearable } from "./airflow.js";
import { ask } from "./api.js";
import { h, patch } from "./dom.js";
import { plural } from "./format.js";
import { problem } from "./list.js";

// Ask, then act; done() is called after success.
// For retry, runs has the tasks to clear; without runs, all failed tasks are cleared.
export function confirmAction(verb, opener, { current, api, done, runs }) {
  const { plan } = current();
  const claims = plan.chunkCounts.running;
  const texts = {
    cancel: {
      title: `Cancel the backfill of ${plan.target}?`,
      text: `No further chunk starts. ${claims ? `${plural(claims, "running chunk")} ${claims === 1 ? "is" : "are"} released and ${claims === 1 ? "its query" : "their queries"} killed within two seconds. ` : ""}Done chunks stay in the target. Airflow skips the tasks of this plan.`,
      yes: "Cancel the backfill",
      no: "Keep running",
      kind: "danger",
      reason: true,
    },
    resume: {
      title: `Resume the backfill of ${plan.target}?`,
      text: `This lifts the ${plan.status === "paused" ? "pause" : "cancel"}. These tasks are cleared in Airflow and continue with the unfinished chunks:`,
      tasks: async (dryRun) => {
        const [last] = current().airflow.runs;
        const all = await clearTasks(last.dagId, last.runId, last.taskIds, true);
        const left = all.filter((task) => task.state !== "success");
        if (dryRun) return left;
        await ask(`${api}/resume`, {});
        const names = left.filter((task) => last.taskIds.includes(task.task_id)).map(nameOf);
        return names.length ? clearTasks(last.dagId, last.runId, names, false) : [];
      },
      yes: "Resume",
      no: "Keep as is",
      kind: "primary",
    },
    retry: {
      title: `Retry the ${runs ? "selected" : "failed"} chunks of ${plan.target}?`,
      text: "Each failed chunk gets a new budget of attempts; done chunks are not touched. These tasks are cleared in Airflow:",
      tasks: async (dryRun) => {
        const chosen = runs ?? clearable(current().airflow);
        const names = (run) => run.failedTasks.map((task) => nameOf({ task_id: task.taskId, map_index: task.mapIndex }));
        return (await Promise.all(chosen.map((run) => clearTasks(run.dagId, run.runId, names(run), dryRun)))).flat();
      },
      yes: "Retry",
      no: "Keep as is",
      kind: "primary",
    },
    waive: {
      title: `Waive the backfill of ${plan.target}?`,
      text: "The plan is then not required: check lists the plan without failing. Running chunks continue. The waiver ends when a user runs or resumes the plan.",
      yes: "Waive",
      no: "Keep as is",
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
    reason ? [h("label", { for: "reason" }, texts.needed ? "Reason (for the event log)" : "Reason (for the event log, optional)"), reason] : null,
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
      done();
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

// Ask Airflow which tasks it would clear; the answer also shows whether this user may clear them.
async function preview(texts, listed, said, yes) {
  yes.disabled = true;
  try {
    const tasks = (await texts.tasks(true)).sort((one, other) => one.task_id.localeCompare(other.task_id) || one.map_index - other.map_index);
    const line = (task) => h("li", {}, h("code", {}, task.map_index >= 0 ? `${task.task_id}[${task.map_index}]` : task.task_id), h("span", { class: "second" }, [task.rendered_map_index, task.state].filter(Boolean).join(" · ")));
    patch(listed, tasks.length ? tasks.map(line) : h("li", { class: "second" }, "Airflow finds no task to clear: the DAG run may be deleted. Trigger the DAG again; done chunks stay done."));
    yes.textContent = tasks.length ? `Clear ${plural(tasks.length, "task")}` : yes.textContent;
    yes.disabled = !tasks.length;
  } catch (error) {
    listed.remove();
    patch(said, problem(error));
  }
}

// Return a task instance in the form of Airflow's "clear" request.
const nameOf = (task) => (task.map_index >= 0 ? [task.task_id, task.map_index] : task.task_id);
