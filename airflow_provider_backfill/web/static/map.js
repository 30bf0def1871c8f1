// Draw the window as a map of chunks: columns are hours, days or weeks, and time runs down each column.
//
// A cell is [from, to, chunks, done, running, failed, rows, seconds, split, id?, parts?],
// in milliseconds since 1970; see ChunkIndex.map in views/chunk_map.py. Drawn on a canvas; for keyboards and
// screen readers, the map is a slider through time, whose value describes the current cell.

import { h, icon } from "./dom.js";
import { legend, paint } from "./map_paint.js";
import { MONTHS, clock, compact, day, duration, number, plural, span } from "./format.js";

const HOUR = 3_600_000;
const DAY = 24 * HOUR;
const WEEK = 7 * DAY;
const MONDAY = 4 * DAY;
const PERIODS = [HOUR, 6 * HOUR, 12 * HOUR, DAY, WEEK];
const DAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const TOP = 22;
const HEIGHT = 232;

export const state = (cell) =>
  cell[5] ? "failed" : cell[4] ? "running" : cell[3] === cell[2] ? "done" : cell[3] ? "partly done" : "pending";

export function words(cell) {
  const [from, to, chunks, done, running, failed, rows, seconds, split] = cell;
  const lines = [span(from, to)];
  if (chunks === 1) {
    lines.push(state(cell) + (split ? `, split into ${cell[10]?.length ?? 2} parts` : ""));
    if (done || rows) lines.push(`${plural(rows, "row")} in ${duration(seconds)}`);
  } else {
    const parts = [[done, "done"], [running, "running"], [failed, "failed"]];
    const rest = chunks - done - running - failed;
    const counts = [...parts, [rest, "pending"]].filter(([count]) => count).map(([count, name]) => `${number(count)} ${name}`);
    lines.push(`${plural(chunks, "chunk")}: ${counts.join(", ")}`);
    if (split) lines.push(`${number(split)} of them split`);
    if (rows) lines.push(`${compact(rows)} rows, ${duration(seconds / Math.max(done, 1))} a chunk`);
  }
  return lines;
}

// Return the offset of a row from the start of its column.
const offset = (ms) => (ms % HOUR ? `:${String((ms % HOUR) / 60_000).padStart(2, "0")}` : `+${ms / HOUR} h`);

// Lay out the cells: columns are periods if the cell lengths allow, otherwise equal numbers of cells.
export function layout(map, width) {
  const { cells } = map;
  const length = map.cellLength || (cells.length > 1 ? cells[1][0] - cells[0][0] : cells[0][1] - cells[0][0]);
  const first = cells[0][0];
  const regular = cells.every((cell, index) => index === 0 || (cell[0] - (cells[1]?.[0] ?? first)) % length === 0);
  const found = [];
  for (const period of PERIODS) {
    // A single row of parts of days would hide the days.
    if (!regular || period % length || (period === length && period < DAY)) continue;
    const shift = period === WEEK ? MONDAY : 0;
    const base = Math.floor((first - shift) / period) * period + shift;
    if (cells.length > 1 && (cells[1][0] - base) % length) continue;
    const rows = period / length;
    const places = cells.map((cell) => Math.floor((cell[0] - base) / length));
    found.push(sized({ rows, places, base, period, length }, width));
  }
  if (!found.some((one) => one.w >= 5 && one.h >= 5)) {
    for (let rows = 1; rows <= 24; rows += 1) {
      found.push(sized({ rows, places: cells.map((_, index) => index), base: first, period: 0, length }, width));
    }
  }
  return found.reduce((best, one) => (one.worth > best.worth ? one : best));
}

function sized(plan, width) {
  const columns = Math.floor(plan.places.at(-1) / plan.rows) + 1;
  const left = plan.period && plan.rows > 1 ? 44 : 8;
  let w = Math.min((width - left - 8) / columns, 90);
  const h = Math.min(HEIGHT / plan.rows, 34, w * 1.7);
  w = Math.min(w, h * 3);
  // Prefer cells of up to 20 pixels, little unused width, and columns of hours, days or weeks.
  const natural = plan.period === 6 * HOUR || plan.period === 12 * HOUR ? 0.6 : 1;
  const worth = Math.min(w, 20) * Math.min(h, 20) * ((w * columns) / width) * natural;
  return { ...plan, columns, left, worth, w: w > 6 ? Math.floor(w * 2) / 2 : w, h: h > 6 ? Math.floor(h) : h };
}

export class ChunkMap {
  // open(chunk id) shows a chunk; zoom(from, to) asks for a part of the window, zoom() for the whole window.
  // chosen() is called when the selection changes; the selection survives a redraw.
  constructor({ open, zoom, chosen }) {
    this.open = open;
    this.zoom = zoom;
    this.chosen = chosen;
    this.selected = new Map();
    this.map = null;
    this.cursor = 0;
    this.anchor = null;
    this.canvas = h("canvas", { "aria-hidden": "true" });
    this.tip = h("div", { class: "tip", hidden: true, "aria-hidden": "true" });
    this.field = h(
      "div",
      { class: "field", role: "slider", tabindex: "0", "aria-label": "Chunks in time", "aria-describedby": "map-help", "aria-valuemin": "0", "aria-valuemax": "0", "aria-valuenow": "0" },
      this.canvas,
    );
    this.title = h("span", { class: "range" });
    this.choice = h("div", { class: "choice" });
    this.outButton = h("button", { type: "button", class: "quiet", hidden: true }, icon("out"), "Zoom out");
    this.outButton.addEventListener("click", () => this.zoom());
    this.element = h(
      "section",
      { class: "card map", "aria-labelledby": "map-title" },
      h("div", { class: "card-head" }, h("h2", { id: "map-title" }, "The window"), this.title, this.outButton),
      h("div", { class: "field-wrap" }, this.field, this.tip),
      legend(),
      h("p", { id: "map-help", class: "help" }, "Drag over the map, or hold Shift with the arrow keys and press Enter, to zoom in. Click, or Enter, opens a chunk. Ctrl and click, or Space, selects failed chunks to retry."),
      this.choice,
    );
    this.element.live = true;
    this.listen();
    new ResizeObserver(() => this.draw()).observe(this.field);
    window.addEventListener("themechange", () => this.draw());
  }

  // Return the number of cells that can be distinguished in the available space.
  get capacity() {
    const width = this.field.clientWidth || 1100;
    return Math.max(200, Math.min(4000, Math.floor(width / 8) * 12));
  }

  show(map) {
    this.map = map;
    this.cursor = Math.min(this.cursor, map.cells.length - 1);
    const grain = map.cellLength ? `each cell ${duration(map.cellLength / 1000)}` : "each cell one chunk";
    this.title.textContent = `${span(map.from, map.to)} UTC · ${plural(map.chunks, "chunk")}, ${grain}`;
    this.outButton.hidden = map.whole;
    this.draw();
    if (!this.tip.hidden) this.point(this.cursor);
  }

  // -------------------------------------------------------------- drawing

  draw() {
    const width = this.field.clientWidth;
    if (!this.map || !width) return;
    const plan = layout(this.map, width);
    this.plan = plan;
    const height = TOP + plan.rows * plan.h + 6;
    const scale = window.devicePixelRatio || 1;
    this.canvas.width = width * scale;
    this.canvas.height = height * scale;
    this.canvas.style.height = `${height}px`;
    const pen = this.canvas.getContext("2d");
    pen.scale(scale, scale);
    const style = getComputedStyle(this.field);
    this.colour = (name) => style.getPropertyValue(`--${name}`).trim();
    pen.font = `11px ${style.fontFamily}`;
    this.drawLabels(pen);
    this.map.cells.forEach((cell, index) => {
      this.drawCell(pen, cell, index);
    });
    this.drawBorders(pen);
    if (this.anchor !== null) this.drawSelection(pen);
    this.map.cells.forEach((cell, index) => {
      if (this.selected.has(cell[0])) this.ring(pen, index);
    });
    if (this.field.matches(":focus-visible") || this.hovered) this.ring(pen, this.cursor);
    this.announce();
  }

  place(index) {
    const { places, rows, left, w, h: height } = this.plan;
    const at = places[index];
    return [left + Math.floor(at / rows) * w, TOP + (at % rows) * height];
  }

  drawCell(pen, cell, index) {
    const { w, h: height } = this.plan;
    const [x, y] = this.place(index);
    const gap = Math.min(w, height) >= 12 ? 2 : 1;
    if (cell[10]?.length) {
      const part = (w - gap) / cell[10].length;
      cell[10].forEach((one, number) => {
        paint(pen, this.colour, x + number * part, y, part - 1, height - gap, { [one[3]]: 1 }, 1);
      });
      return;
    }
    const shares = { done: cell[3], running: cell[4], failed: cell[5] };
    paint(pen, this.colour, x, y, w - gap, height - gap, shares, cell[2]);
  }

  // Draw lines at the start of months (columns of days or weeks) or of days (columns of hours).
  drawBorders(pen) {
    const { period, rows, w, h: height, left, base, length, places } = this.plan;
    if (!period) return;
    pen.strokeStyle = this.colour("map-rule");
    pen.lineWidth = 1.25;
    const last = places.at(-1);
    for (const at of this.borders()) {
      const place = Math.round((at - base) / length);
      if (place <= places[0] || place > last) continue;
      const x = left + Math.floor(place / rows) * w - 1;
      const y = TOP + (place % rows) * height - 1;
      pen.beginPath();
      if (place % rows) {
        pen.moveTo(x + w, TOP - 4);
        pen.lineTo(x + w, y);
        pen.lineTo(x, y);
      } else pen.moveTo(x, TOP - 4);
      pen.lineTo(x, TOP + rows * height);
      pen.stroke();
    }
  }

  borders() {
    const { from, to } = this.map;
    const found = [];
    if (this.plan.period >= DAY) {
      const date = new Date(from);
      for (let month = date.getUTCMonth() + 1; ; month += 1) {
        const at = Date.UTC(date.getUTCFullYear(), month, 1);
        if (at >= to) return found;
        found.push(at);
      }
    }
    for (let at = Math.ceil((from + 1) / DAY) * DAY; at < to; at += DAY) found.push(at);
    return found;
  }

  drawLabels(pen) {
    const { period, rows, columns, w, h: height, left, base, length } = this.plan;
    pen.fillStyle = this.colour("muted");
    pen.textBaseline = "alphabetic";
    let free = 0;
    for (let column = 0; column < columns; column += 1) {
      const x = left + column * w;
      const text = this.columnLabel(column);
      if (!text || x < free) continue;
      const size = pen.measureText(text).width;
      if (x + size > this.field.clientWidth) break;
      pen.fillText(text, x, TOP - 8);
      free = x + size + 7;
    }
    if (left < 40) return;
    pen.textBaseline = "middle";
    const days = period === WEEK;
    const step = days ? Math.max(1, Math.round(DAY / length)) : 1;
    const every = step * Math.max(1, Math.ceil(15 / (height * step)));
    for (let row = 0; row < rows; row += every) {
      const at = base + row * length;
      const text = days ? DAYS[Math.floor((row * length) / DAY)] : period === DAY ? clock(at) : offset(row * length);
      pen.fillText(text, 4, TOP + row * height + height / 2);
    }
  }

  columnLabel(column) {
    const { period, base, w, rows, places } = this.plan;
    if (!period) {
      const index = places.findIndex((place) => place >= column * rows);
      return day(this.map.cells[index][0]);
    }
    const at = base + column * period;
    const date = new Date(at);
    if (period === WEEK) {
      // A month begins in this week.
      const end = new Date(at + WEEK - 1);
      if (column && end.getUTCDate() > 7) return "";
      const shown = column ? end : new Date(this.map.from);
      return `${MONTHS[shown.getUTCMonth()]}${shown.getUTCMonth() === 0 || column === 0 ? ` ${shown.getUTCFullYear()}` : ""}`;
    }
    if (period === DAY) {
      if (column === 0 || date.getUTCDate() === 1) return `${date.getUTCDate()} ${MONTHS[date.getUTCMonth()]}${column === 0 || date.getUTCMonth() === 0 ? ` ${date.getUTCFullYear()}` : ""}`;
      return w >= 16 ? String(date.getUTCDate()) : "";
    }
    return column === 0 || at % DAY === 0 ? `${date.getUTCDate()} ${MONTHS[date.getUTCMonth()]}` : w >= 16 ? clock(at) : "";
  }

  drawSelection(pen) {
    const [low, high] = [Math.min(this.anchor, this.cursor), Math.max(this.anchor, this.cursor)];
    const { w, h: height } = this.plan;
    pen.fillStyle = this.colour("select");
    for (let index = low; index <= high; index += 1) {
      const [x, y] = this.place(index);
      pen.fillRect(x - 0.5, y - 0.5, w, height);
    }
  }

  ring(pen, index) {
    const { w, h: height } = this.plan;
    const [x, y] = this.place(index);
    pen.strokeStyle = this.colour("ink");
    pen.lineWidth = 2;
    pen.strokeRect(x - 1.5, y - 1.5, Math.max(w, 4) + 1, Math.max(height, 4) + 1);
  }

  announce() {
    const cell = this.map.cells[this.cursor];
    if (!cell) return;
    this.field.setAttribute("aria-valuemax", this.map.cells.length - 1);
    this.field.setAttribute("aria-valuenow", this.cursor);
    this.field.setAttribute("aria-valuetext", words(cell).join(". "));
  }

  // -------------------------------------------------------------- input

  listen() {
    const field = this.field;
    let pressed = null;
    field.addEventListener("pointerdown", (event) => {
      const index = this.at(event);
      if (index === null || event.button) return;
      pressed = index;
      field.setPointerCapture(event.pointerId);
    });
    field.addEventListener("pointermove", (event) => {
      const index = this.at(event);
      this.hovered = index !== null;
      if (index !== null) this.cursor = index;
      if (pressed !== null && index !== null && index !== pressed) this.anchor = pressed;
      this.draw();
      this.point(index);
    });
    field.addEventListener("pointerup", (event) => {
      const clicked = pressed !== null && this.anchor === null;
      const selected = this.anchor !== null;
      pressed = null;
      if (clicked && (event.ctrlKey || event.metaKey)) this.toggle();
      else if (clicked) this.enter();
      else if (selected) this.zoomToSelection();
    });
    field.addEventListener("pointerleave", () => {
      this.hovered = false;
      if (pressed === null) this.point(null);
      this.draw();
    });
    field.addEventListener("focus", () => {
      this.draw();
      if (field.matches(":focus-visible")) this.point(this.cursor);
    });
    field.addEventListener("blur", () => {
      this.anchor = null;
      this.point(null);
      this.draw();
    });
    field.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (!this.map) return;
    const { rows } = this.plan;
    const steps = { ArrowDown: 1, ArrowUp: -1, ArrowRight: rows, ArrowLeft: -rows, PageDown: rows * 7, PageUp: -rows * 7, Home: -Infinity, End: Infinity };
    if (event.key in steps) {
      if (event.shiftKey) this.anchor ??= this.cursor;
      else this.anchor = null;
      this.cursor = Math.max(0, Math.min(this.map.cells.length - 1, this.cursor + steps[event.key]));
    } else if (event.key === "Enter") {
      if (this.anchor !== null && this.anchor !== this.cursor) this.zoomToSelection();
      else this.enter();
    } else if (event.key === " ") {
      this.toggle();
    } else if (event.key === "Escape") {
      if (this.selected.size) this.deselect();
      else if (this.anchor !== null) this.anchor = null;
      else if (!this.map.whole) this.zoom();
    } else return;
    event.preventDefault();
    this.draw();
    this.point(this.cursor);
  }

  // Toggle the selection of a cell with failed chunks, or of all such cells from the anchor on.
  toggle() {
    const [low, high] = this.anchor === null ? [this.cursor, this.cursor] : [Math.min(this.anchor, this.cursor), Math.max(this.anchor, this.cursor)];
    for (const cell of this.map.cells.slice(low, high + 1)) {
      if (this.selected.delete(cell[0]) || !cell[5]) continue;
      this.selected.set(cell[0], cell[1]);
    }
    this.anchor = null;
    this.chosen();
    this.draw();
  }

  deselect() {
    this.selected.clear();
    this.chosen();
    this.draw();
  }

  // Return whether a chunk lies in a selected cell.
  has(from, to) {
    return [...this.selected].some(([start, end]) => from < end && to > start);
  }

  enter() {
    const cell = this.map.cells[this.cursor];
    if (cell[9]) this.open(cell[9]);
    else this.zoom(cell[0], cell[1]);
  }

  zoomToSelection() {
    this.tip.hidden = true;
    const [low, high] = [Math.min(this.anchor, this.cursor), Math.max(this.anchor, this.cursor)];
    this.anchor = null;
    this.zoom(this.map.cells[low][0], this.map.cells[high][1]);
  }

  at(event) {
    if (!this.plan) return null;
    const box = this.canvas.getBoundingClientRect();
    const { rows, columns, left, w, h: height, places } = this.plan;
    const column = Math.floor((event.clientX - box.left - left) / w);
    const row = Math.floor((event.clientY - box.top - TOP) / height);
    if (column < 0 || column >= columns || row < 0 || row >= rows) return null;
    const wanted = column * rows + row;
    let [low, high] = [0, places.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (places[middle] <= wanted) low = middle;
      else high = middle - 1;
    }
    return places[low] === wanted ? low : null;
  }

  point(index) {
    this.tip.hidden = index === null;
    if (index === null) return;
    const [low, high] = this.anchor === null ? [index, index] : [Math.min(this.anchor, index), Math.max(this.anchor, index)];
    const cells = this.map.cells;
    const lines = low === high ? words(cells[index]) : [span(cells[low][0], cells[high][1]), "Release to zoom in"];
    this.tip.replaceChildren(h("strong", {}, lines[0]), ...lines.slice(1).map((line) => h("span", {}, line)));
    const [x, y] = this.place(index);
    const room = this.field.clientWidth - this.tip.offsetWidth;
    this.tip.style.left = `${Math.max(0, Math.min(room, x - this.tip.offsetWidth / 2))}px`;
    this.tip.style.top = `${y + this.plan.h + 8}px`;
  }
}
