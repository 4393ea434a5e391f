// The root of the page's script, which is also the script of its workers.

import { serveWorker } from "./decoder/worker.mjs";
import { startPage } from "./page.mjs";

if (typeof document === "undefined") serveWorker(self);
else startPage(document.currentScript.textContent);
