// Draw rows per second over the time of the run, as a line with a filled area.

import { h, svg } from "./dom.js";
import { clockSeconds, compact, dayThere, duration, zoneName } from "./format.js";

const HEIGHT = 132;
const BOTTOM = 20;
const TOP = 8;
const LEFT = 52;

export class RateChart {
  constructor() {
    this.body = h("div", { class: "chart" });
    this.summary = h("span", { class: "range" });
    this.element = h(
      "section",
      { class: "card", "aria-labelledby": "rate-title" },
      h("div", { class: "card-head" }, h("h2", { id: "rate-title" }, "Rows a second"), this.summary),
      this.body,
    );
    this.element.live = true;
    new ResizeObserver(() => this.draw()).observe(this.body);
  }

  show(series) {
    this.series = series;
    this.draw();
  }

  draw() {
    const width = this.body.clientWidth;
    const { start, width: step, perSecond } = this.series ?? { perSecond: [] };
    if (!width) return;
    if (perSecond.length < 2) {
      this.summary.textContent = "";
      const text = perSecond.length ? `${compact(perSecond[0])} rows in the first second.` : "Nothing was written yet.";
      this.body.replaceChildren(h("p", { class: "empty" }, text));
      return;
    }
    const end = start + perSecond.length * step;
    const top = nice(Math.max(...perSecond));
    const mean = perSecond.reduce((sum, value) => sum + value, 0) / perSecond.length;
    const x = (at) => LEFT + ((at - start) / (end - start)) * (width - LEFT - 8);
    const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
    const points = perSecond.map((value, index) => [x(start + (index + 0.5) * step), y(value)]);
    const path = points.map(([a, b], index) => `${index ? "L" : "M"}${a.toFixed(1)} ${b.toFixed(1)}`).join("");
    const text = `${compact(mean)} a second on average, ${compact(Math.max(...perSecond))} at best, over ${duration((end - start) / 1000)}`;
    this.summary.textContent = text;
    const picture = svg(
      "svg",
      { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": `Rows a second: ${text}` },
      [0, top / 2, top].map((value) => [
        svg("line", { class: "grid", x1: LEFT, x2: width - 8, y1: y(value), y2: y(value) }),
        svg("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, compact(value)),
      ]),
      ticks(start, end, Math.floor(width / 100)).map((at) => svg("text", { x: x(at), y: HEIGHT - 4, "text-anchor": "middle" }, label(at, end - start))),
      svg("path", { class: "area", d: `${path}L${points.at(-1)[0].toFixed(1)} ${y(0)}L${points[0][0].toFixed(1)} ${y(0)}Z` }),
      svg("path", { class: "line", d: path }),
    );
    const mark = svg("line", { class: "mark", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
    picture.append(mark);
    const tip = h("div", { class: "tip", hidden: true, "aria-hidden": "true" });
    picture.addEventListener("pointermove", (event) => {
      const at = event.clientX - picture.getBoundingClientRect().left;
      const index = Math.max(0, Math.min(points.length - 1, Math.round(((at - LEFT) / (width - LEFT - 8)) * points.length - 0.5)));
      mark.setAttribute("x1", points[index][0]);
      mark.setAttribute("x2", points[index][0]);
      mark.setAttribute("visibility", "visible");
      tip.hidden = false;
      tip.replaceChildren(h("strong", {}, `${compact(perSecond[index])} rows a second`), h("span", {}, `${clockSeconds(start + index * step)} ${zoneName(start + index * step)}`));
      tip.style.left = `${Math.max(0, Math.min(width - tip.offsetWidth, points[index][0] - tip.offsetWidth / 2))}px`;
      tip.style.top = "0px";
    });
    picture.addEventListener("pointerleave", () => {
      mark.setAttribute("visibility", "hidden");
      tip.hidden = true;
    });
    this.body.replaceChildren(picture, tip);
  }
}

function nice(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 4, 5, 10].map((times) => times * power).find((top) => top >= value) ?? 10 * power;
}

const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400].map((seconds) => seconds * 1000);

function ticks(start, end, wanted) {
  const step = STEPS.find((one) => (end - start) / one <= wanted) ?? 7 * 86_400_000;
  const found = [];
  for (let at = Math.ceil((start + step / 4) / step) * step; at < end - step / 4; at += step) found.push(at);
  return found;
}

const label = (at, length) => (length > 2 * 86_400_000 ? dayThere(at).slice(0, -5) : clockSeconds(at).slice(0, length > 600_000 ? 5 : 8));
