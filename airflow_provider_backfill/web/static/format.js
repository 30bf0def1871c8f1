// Format numbers and times. Windows are in UTC, as everywhere in a backfill; times of events are in the time zone that
// the user has chosen in Airflow.

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const number = (value) => whole.format(Math.round(value));
export const compact = (value) => (Math.abs(value) < 100_000 ? number(value) : short.format(value));
export const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

export function bytes(value) {
  let size = value;
  for (const unit of ["B", "KiB", "MiB", "GiB", "TiB"]) {
    if (size < 1024 || unit === "TiB") return `${size < 10 && unit !== "B" ? size.toFixed(1) : number(size)} ${unit}`;
    size /= 1024;
  }
  return "";
}

export function percent(part, total) {
  if (!total) return "0 %";
  const share = (100 * part) / total;
  // Show "100 %" only when all is done, and "0 %" only when nothing is done.
  if (part < total && share > 99) return `${Math.floor(share * 10) / 10} %`;
  return share > 0 && share < 1 ? "< 1 %" : `${Math.round(share)} %`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 0.995) return `${Math.max(seconds, 0).toFixed(2)} s`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  let rest = Math.round(seconds);
  const parts = [];
  for (const [unit, size] of units) {
    const count = Math.floor(rest / size);
    rest -= count * size;
    if (count || parts.length) parts.push([count, unit]);
  }
  return parts.slice(0, 2).filter(([count]) => count).map(([count, unit]) => `${count} ${unit}`).join(" ");
}

export function ago(instant) {
  const seconds = (Date.now() - Date.parse(instant)) / 1000;
  if (seconds < 5) return "just now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  for (const [unit, size] of [["day", 86400], ["h", 3600], ["min", 60]]) {
    const count = Math.floor(seconds / size);
    if (count) return unit === "day" ? `${plural(count, "day")} ago` : `${count} ${unit} ago`;
  }
  return "";
}

export const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const two = (value) => String(value).padStart(2, "0");

export function day(ms) {
  const date = new Date(ms);
  return `${date.getUTCDate()} ${MONTHS[date.getUTCMonth()]} ${date.getUTCFullYear()}`;
}

export function clock(ms) {
  const date = new Date(ms);
  const text = `${two(date.getUTCHours())}:${two(date.getUTCMinutes())}`;
  return date.getUTCSeconds() || date.getUTCMilliseconds() ? `${text}:${two(date.getUTCSeconds())}` : text;
}

// Return the time zone that the user has chosen in Airflow, otherwise the browser's.
export function zone() {
  try {
    const chosen = JSON.parse(localStorage.getItem("timezone"));
    if (chosen) return new Intl.DateTimeFormat("en", { timeZone: chosen }).resolvedOptions().timeZone;
  } catch {
    // Nothing is stored, or it is not the name of a zone.
  }
  return new Intl.DateTimeFormat().resolvedOptions().timeZone;
}

const formats = new Map();
function parts(ms) {
  const timeZone = zone();
  if (!formats.has(timeZone)) {
    const wanted = { year: "numeric", month: "numeric", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZoneName: "short" };
    formats.set(timeZone, new Intl.DateTimeFormat("en", { timeZone, ...wanted }));
  }
  return Object.fromEntries(formats.get(timeZone).formatToParts(ms).map(({ type, value }) => [type, value]));
}

// Format the time of an event.
export function clockSeconds(ms) {
  const { hour, minute, second } = parts(ms);
  return `${hour}:${minute}:${second}`;
}

export function dayThere(ms) {
  const { day, month, year } = parts(ms);
  return `${day} ${MONTHS[month - 1]} ${year}`;
}

// Return the short name of the zone at that moment, such as UTC or GMT+1.
export const zoneName = (ms) => parts(ms).timeZoneName;
const midnight = (ms) => ms % 86_400_000 === 0;

// "1 Mar 2025, 06:00 – 12:00", with only the days if both ends are midnights.
export function span(from, to) {
  if (midnight(from) && midnight(to)) {
    if (to - from === 86_400_000) return day(from);
    return `${day(from)} – ${day(to)}`;
  }
  const last = new Date(to - 1);
  const same = day(from) === day(last.getTime());
  return `${day(from)}, ${clock(from)} – ${same ? (midnight(to) ? "24:00" : clock(to)) : `${day(to)}, ${clock(to)}`}`;
}

// Return host and process of a worker's name, without the parts for machines.
export function owner(name) {
  const [host, process, ...rest] = name.split(":");
  return rest.length ? `${host} · process ${process}` : name;
}
