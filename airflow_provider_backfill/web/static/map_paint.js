// Paint the cells, borders and legend of the map.

import { h, svg } from "./dom.js";

// Paint a cell: filled from below by the share of done chunks, with a shape for other states.
export function paint(pen, colour, x, y, w, height, shares, total) {
  const radius = Math.min(3, w / 4, height / 4);
  const box = (top, tall, fill) => {
    pen.fillStyle = fill;
    pen.beginPath();
    pen.roundRect(x, y + top, w, tall, radius);
    pen.fill();
  };
  const { done = 0, running = 0, failed = 0 } = shares;
  box(0, height, colour("map-pending"));
  if (done) {
    const tall = done === total ? height : Math.max(1.5, (height * done) / total);
    box(height - tall, tall, colour("map-done"));
  } else if (!running && !failed && w > 6 && height > 6) {
    pen.strokeStyle = colour("map-edge");
    pen.lineWidth = 1;
    pen.beginPath();
    pen.roundRect(x + 0.5, y + 0.5, w - 1, height - 1, radius);
    pen.stroke();
  }
  if (running) {
    box(0, height, colour("map-running"));
    pen.save();
    pen.beginPath();
    pen.roundRect(x, y, w, height, radius);
    pen.clip();
    for (let offset = -height; offset < w; offset += 6) line(pen, colour("map-stripe"), x + offset, y + height, x + offset + height, y, 2);
    pen.restore();
  }
  if (failed) {
    // For many chunks, a mark at the top is enough; the rest of the cell still shows the progress.
    const tall = Math.min(height, Math.max(height * 0.5, (height * failed) / total, Math.min(w, height)));
    box(0, tall, colour("map-failed"));
    const size = Math.min(w, tall) * 0.26;
    if (size > 1) {
      const [cx, cy] = [x + w / 2, y + tall / 2];
      line(pen, colour("map-mark"), cx - size, cy - size, cx + size, cy + size, Math.max(1, size / 2.4));
      line(pen, colour("map-mark"), cx - size, cy + size, cx + size, cy - size, Math.max(1, size / 2.4));
    }
  }
}

export function line(pen, colour, x1, y1, x2, y2, width = 1.5) {
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.lineCap = "round";
  pen.beginPath();
  pen.moveTo(x1, y1);
  pen.lineTo(x2, y2);
  pen.stroke();
}

export function legend() {
  const key = (name, text, ...marks) =>
    h("li", {}, svg("svg", { viewBox: "0 0 14 14", class: `key ${name}`, "aria-hidden": "true" }, svg("rect", { x: "0.5", y: "0.5", width: "13", height: "13", rx: "3" }), ...marks), text);
  const path = (d) => svg("path", { d });
  return h(
    "ul",
    { class: "legend", "aria-label": "What the cells mean" },
    key("done", "done"),
    key("partly", "partly done", svg("rect", { x: "0.5", y: "6.5", width: "13", height: "7", rx: "3" })),
    key("running", "running", path("M1 13L13 1M-3 9L9 -3M5 17L17 5")),
    key("failed", "failed", path("M4.5 4.5l5 5M9.5 4.5l-5 5")),
    key("pending", "pending"),
    key("split", "split into parts", path("M7 0v14")),
  );
}
