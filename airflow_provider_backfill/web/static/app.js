// Which of the two views the address asks for.

import { listView } from "./list.js";
import { planView } from "./plan.js";

const page = document.getElementById("page");
const base = new URL(document.baseURI).pathname;
const match = location.pathname.slice(base.length - 1).match(/^\/plans\/([^/]+)$/);

if (match) planView(page, decodeURIComponent(match[1]));
else listView(page);
