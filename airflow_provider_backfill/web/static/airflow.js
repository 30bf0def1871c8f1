// Use Airflow's API and pages with the user's session and rights.

import { ask, query } from "./api.js";

const runPath = (dag, run) => `../api/v2/dags/${encodeURIComponent(dag)}/dagRuns/${encodeURIComponent(run)}`;

// Return the address of a DAG or of a DAG run in Airflow.
export const dagAddress = (dag) => new URL(`../dags/${encodeURIComponent(dag)}`, document.baseURI).href;
export const runAddress = (dag, run) => new URL(`../dags/${encodeURIComponent(dag)}/runs/${encodeURIComponent(run)}`, document.baseURI).href;

// Read the parameters that Airflow puts into a tab's address. Airflow 3.1 does not escape them, so a plus stays a plus.
export function place(search) {
  const found = {};
  for (const part of search.replace(/^\?/, "").split("&")) {
    const at = part.indexOf("=");
    if (at > 0) found[part.slice(0, at)] = decodeURIComponent(part.slice(at + 1));
  }
  const mapIndex = /^\d+$/.test(found.index ?? "") ? Number(found.index) : -1;
  return { dag: found.dag ?? "", run: found.run ?? "", task: found.task ?? "", mapIndex, plan: found.plan ?? "" };
}

// Return the plan ids of a DAG run or of one of its tasks; empty before the plan task has created a plan.
export async function plansOf({ dag, run, task, mapIndex }) {
  const tasks = `${runPath(dag, run)}/taskInstances`;
  const planId = async (task_id, key, map_index) => {
    const { value } = await ask(`${tasks}/${encodeURIComponent(task_id)}/xcomEntries/${key}?${query({ map_index })}`);
    return String(value).match(/([0-9a-f]{16})"?$/)?.[1];
  };
  if (task) {
    try {
      return [await planId(task, "_link_BackfillPlanLink", mapIndex)].filter(Boolean);
    } catch (error) {
      if (error.status === 404) return [];
      throw error;
    }
  }
  const found = await ask(`${tasks}/~/xcomEntries?${query({ xcom_key: "plan_id", limit: 100 })}`);
  const ids = await Promise.all(found.xcom_entries.map((entry) => planId(entry.task_id, "plan_id", entry.map_index)));
  return [...new Set(ids.filter(Boolean))];
}

// Clear tasks of a DAG run with their downstream tasks; as a dry run, only list these tasks.
export async function clearTasks(dag, run, tasks, dryRun) {
  const found = await ask(`../api/v2/dags/${encodeURIComponent(dag)}/clearTaskInstances`, {
    dry_run: dryRun,
    dag_run_id: run,
    task_ids: tasks,
    only_failed: false,
    include_downstream: true,
  });
  return found.task_instances;
}

// Return the DAG runs with failed chunks whose tasks this user may clear.
export const clearable = (airflow) => airflow.runs.filter((run) => run.mayClear && run.failedTasks.length);

// Return the clearable DAG runs, limited to the tasks of these failed chunks.
export function tasksOf(chunks, airflow) {
  const found = clearable(airflow).map((run) => ({
    ...run,
    failedTasks: run.failedTasks.filter((task) => chunks.some(({ task: own }) => own && own.dagId === run.dagId && own.runId === run.runId && own.taskId === task.taskId && own.mapIndex === task.mapIndex)),
  }));
  return found.filter((run) => run.failedTasks.length);
}
