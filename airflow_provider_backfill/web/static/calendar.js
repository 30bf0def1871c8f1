// Show a window as the rows of a calendar: days, months or years, so that the rows fit a screen.

import { MONTHS, day } from "./format.js";

export const DAY = 86_400_000;
const MOST = 40;

// A row has a name, its start and end, and the part of it inside the window (from, to).
export function rows(from, to) {
  const kinds = [
    [(at) => Math.floor(at / DAY) * DAY, (at) => at + DAY, day, 3 * DAY],
    [(at) => month(at, 0), (at) => month(at, 1), (at) => `${MONTHS[new Date(at).getUTCMonth()]} ${new Date(at).getUTCFullYear()}`, MOST * 31 * DAY],
    [(at) => year(at, 0), (at) => year(at, 1), (at) => String(new Date(at).getUTCFullYear()), Infinity],
  ];
  const [first, next, name] = kinds.find(([, , , most]) => to - from <= most);
  const found = [];
  for (let at = first(from); at < to; at = next(at)) found.push({ name: name(at), from: Math.max(at, from), to: Math.min(next(at), to), end: next(at), begin: at });
  // Positions are relative to the start of the row.
  return found.map((row) => ({ ...row, from: row.begin }));
}

function month(at, more) {
  const date = new Date(at);
  return Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + more, 1);
}

const year = (at, more) => Date.UTC(new Date(at).getUTCFullYear() + more, 0, 1);
