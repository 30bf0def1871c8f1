// Build the page. All texts become text nodes, so no name or error can become markup.

export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Replace only the children that differ, so that focus, selection and scroll position survive an update.
export function patch(element, ...children) {
  const wanted = children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
  const nodes = wanted.map((child) => (child instanceof Node ? child : document.createTextNode(String(child))));
  nodes.forEach((node, index) => {
    const there = element.childNodes[index];
    if (!there) element.append(node);
    else if (there !== node) morph(there, node);
  });
  while (element.childNodes.length > nodes.length) element.lastChild.remove();
  return element;
}

function morph(there, node) {
  const keyed = there.nodeType === 1 && node.nodeType === 1;
  if (there.isEqualNode(node) && !node.live) return;
  if (there.nodeType === 3 && node.nodeType === 3) {
    there.nodeValue = node.nodeValue;
    return;
  }
  if (!keyed || there.tagName !== node.tagName || there.live || node.live || hasHandlers(node) || there.dataset?.key !== node.dataset?.key) {
    there.replaceWith(node);
    return;
  }
  for (const { name } of [...there.attributes]) if (!node.hasAttribute(name)) there.removeAttribute(name);
  for (const { name, value } of node.attributes) {
    // The content security policy forbids the attribute and allows the property.
    if (name === "style") there.style.cssText = node.style.cssText;
    else if (there.getAttribute(name) !== value) there.setAttribute(name, value);
  }
  patch(there, ...node.childNodes);
}

// Replace elements with listeners as a whole, because listeners cannot be compared.
const hasHandlers = (node) => node.tagName === "BUTTON" || node.tagName === "DIALOG";

const PATHS = {
  done: "M3 8.5l3.2 3.2L13 4.8",
  failed: "M4 4l8 8M12 4l-8 8",
  running: "M5 3.5v9l7.5-4.5z",
  paused: "M5.5 3.5v9M10.5 3.5v9",
  planned: "M8 2a6 6 0 1 0 0 12 6 6 0 1 0 0-12M8 5v3l2 1.4",
  pending: "M8 2a6 6 0 1 0 0 12 6 6 0 1 0 0-12M8 5v3l2 1.4",
  cancelled: "M4 8h8",
  skipped: "M4 8h8",
  split: "M3 8h4m0 0l4-4m-4 4l4 4M11 4h2m-2 8h2",
  warn: "M8 4v5M8 11.6v.4",
  info: "M8 7.2v5M8 4v.4",
  shield: "M8 2l5 2v4c0 3-2.2 5-5 6-2.8-1-5-3-5-6V4zM5.6 8l1.8 1.8L10.6 6.4",
  copy: "M5.5 5.5h7v8h-7zM3.5 10.5v-8h7",
  back: "M9.5 3.5L5 8l4.5 4.5",
  close: "M4 4l8 8M12 4l-8 8",
  out: "M6.5 3.5h-3v9h9v-3M9 3.5h3.5V7M12.5 3.5L7.5 8.5",
};
PATHS.completed = PATHS.done;
PATHS.error = PATHS.failed;
PATHS["released"] = PATHS.undone = PATHS.cancelled;
PATHS.lost = PATHS.warn;

export function icon(name) {
  return svg(
    "svg",
    { class: "icon", viewBox: "0 0 16 16", "aria-hidden": "true", focusable: "false" },
    svg("path", { d: PATHS[name] ?? PATHS.info }),
  );
}

// Show a status by colour, shape and word.
export function pill(status, text = status) {
  return h("span", { class: `pill ${status.replace(" ", "-")}` }, icon(status), text);
}

export function copyable(text, label) {
  const button = h("button", { type: "button", class: "copy", "aria-label": `Copy ${label}` }, icon("copy"), h("span", {}, "Copy"));
  const code = h("code", { tabindex: "0" }, text);
  button.addEventListener("click", async () => {
    const done = await copy(text, code);
    button.lastChild.textContent = done ? "Copied" : "Press Ctrl+C";
    setTimeout(() => (button.lastChild.textContent = "Copy"), 1600);
  });
  return h("div", { class: "copyable" }, code, button);
}

async function copy(text, element) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Without https there is no clipboard API: select the text, and try execCommand.
    const range = document.createRange();
    range.selectNodeContents(element);
    const selection = getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
    return document.execCommand("copy");
  }
}

// Link to one of Airflow's pages. Airflow's frame may not open these, so the outer page does.
export function airflowLink(path, ...children) {
  const link = h("a", { href: path }, ...children);
  link.addEventListener("click", (event) => {
    if (window.parent === window || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const outer = window.parent.document;
    const helper = outer.createElement("a");
    helper.href = link.href;
    outer.body.append(helper);
    helper.click();
    helper.remove();
  });
  return link;
}

// Show SQL that is folded until the user opens it.
export function details(title, text) {
  return h("details", { class: "sql" }, h("summary", {}, title), copyable(text, "the SQL"));
}
