// Choose the view by the address.

import { listView } from "./list.js";
import { planView } from "./plan.js";
import { runView } from "./run.js";
import { tableView } from "./table.js";

const page = document.getElementById("page");
const base = new URL(document.baseURI).pathname;
const path = location.pathname.slice(base.length - 1);
const match = path.match(/^\/plans\/([^/]+)$/);

if (match) planView(page, decodeURIComponent(match[1]));
else if (path === "/run") runView(page);
else if (path === "/table") tableView(page, new URLSearchParams(location.search).get("target") ?? "");
else listView(page);
