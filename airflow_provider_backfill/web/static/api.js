// Send requests to the server, and repeat them while the page is open.

export class Refusal extends Error {
  constructor(status, error, hint) {
    super(error);
    this.status = status;
    this.hint = hint;
  }
}

export async function ask(path, body) {
  const options = { headers: { Accept: "application/json" }, credentials: "same-origin" };
  if (body !== undefined) {
    options.method = "POST";
    options.headers["Content-Type"] = "application/json";
    options.headers["X-ClickHouse-Backfill"] = "1";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Refusal(0, "Airflow does not answer.", "this page retries automatically");
  }
  let found = {};
  try {
    found = await response.json();
  } catch {
    // The answer is a proxy's page or empty; the status code is enough.
  }
  if (response.ok) return found;
  if (response.status === 401) throw new Refusal(401, "Your login has ended.", "reload the page to log in again");
  // Airflow's own errors are in "detail": a text, or an object with a message.
  const detail = typeof found.detail === "string" ? found.detail : found.detail?.message;
  throw new Refusal(response.status, found.error ?? detail ?? `Airflow answers with status ${response.status}.`, found.hint ?? "");
}

export const query = (values) => new URLSearchParams(Object.entries(values).filter(([, value]) => value !== undefined && value !== "" && value !== null)).toString();

// Call look() repeatedly. It returns the milliseconds until its next call; Infinity ends the calls.
export function poll(look) {
  let timer = null;
  let busy = false;
  let wanted = false;
  let failures = 0;
  const turn = async () => {
    clearTimeout(timer);
    if (busy) {
      wanted = true;
      return;
    }
    if (document.hidden) return;
    busy = true;
    let pause;
    try {
      pause = await look();
      failures = 0;
    } catch (error) {
      failures += 1;
      pause = Math.min(30_000, 2000 * 2 ** (failures - 1));
      if (!(error instanceof Refusal)) console.error(error);
    }
    busy = false;
    if (wanted && pause < Infinity) pause = 0;
    wanted = false;
    if (pause < Infinity) timer = setTimeout(turn, pause);
    else document.removeEventListener("visibilitychange", turn);
  };
  document.addEventListener("visibilitychange", turn);
  turn();
  return turn;
}
