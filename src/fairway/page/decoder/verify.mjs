// node verify.mjs [--threads N] MODEL PROOF [TEXT]: decode a proof with its model, and state the score.
// TEXT is compared with what was decoded if it exists, else written. Exit codes: 0 the proof holds, 1 it does not
// (it is damaged, or another text), 2 no verdict (a file that cannot be read, another model's or machine's proof).
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { createHash } from "node:crypto";
import { Worker, isMainThread, parentPort } from "node:worker_threads";
import { Damage, NoVerdict } from "./binary.mjs";
import { decode } from "./decode.mjs";
import { serveWorker } from "./worker.mjs";

const USAGE = "usage: node verify.mjs [--threads N] MODEL PROOF [TEXT]";

/** Present a worker or port of Node as one of the browser. */
function browserPort(port) {
  const wrapped = {
    postMessage: (message, transfer) => port.postMessage(message, transfer),
    onmessage: null,
    onerror: null,
    terminate: () => port.terminate(),
  };
  port.on("message", (data) => wrapped.onmessage({ data }));
  port.on("error", (error) => wrapped.onerror?.(error));
  return wrapped;
}

/** Say why there is no verdict, and end. */
function refuse(sentence) {
  process.stderr.write(`${sentence}\n`);
  process.exit(2);
}

function readArguments(given) {
  const files = [];
  let threads = availableParallelism();
  for (let i = 0; i < given.length; i++) {
    if (given[i] !== "--threads") files.push(given[i]);
    else threads = Number(given[++i]);
  }
  const right = Number.isInteger(threads) && threads >= 1 && threads <= 1024;
  if (!right || files.length < 2 || files.length > 3 || files.some((file) => file.startsWith("--"))) refuse(USAGE);
  return { threads, files };
}

function readFile(path) {
  try {
    return new Uint8Array(readFileSync(path));
  } catch (error) {
    return refuse(`cannot read ${JSON.stringify(path)}: ${error.code ?? error.message}`);
  }
}

/** Write a file under a temporary name, then give it its own. */
function writeFile(path, bytes) {
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    writeFileSync(temporary, bytes, { flag: "wx" });
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    refuse(`cannot write ${JSON.stringify(path)}: ${error.code ?? error.message}`);
  }
}

function showProgress({ tokens, totalTokens }) {
  if (process.stderr.isTTY) process.stderr.write(`\r${tokens} of ${totalTokens} tokens`);
}

async function main() {
  const { threads, files } = readArguments(process.argv.slice(2));
  const [model, proof] = files.slice(0, 2).map(readFile);
  const compared = files[2] !== undefined && existsSync(files[2]) ? readFile(files[2]) : null;
  const startWorker = () => browserPort(new Worker(fileURLToPath(import.meta.url)));
  const sha256 = async (bytes) => createHash("sha256").update(bytes).digest("hex");
  const workers = threads > 1 ? threads : 0;
  let result;
  try {
    result = await decode(model, proof, { workers, startWorker, sha256, onProgress: showProgress });
  } catch (error) {
    if (!(error instanceof Damage)) throw error;
    process.stderr.write(`${error.message}\n`);
    process.exit(error instanceof NoVerdict ? 2 : 1);
  }
  if (process.stderr.isTTY) process.stderr.write("\n");
  if (files[2] !== undefined && !compared) writeFile(files[2], result.text);
  const differs = compared !== null && Buffer.compare(compared, result.text) !== 0;
  const verdict = differs ? `no: the decoded text is not ${JSON.stringify(files[2])}` : "the proof holds";
  const lines = [
    ["verdict", verdict],
    ["bits per byte", result.bpb.toFixed(6)],
    ["text", `${result.text.length} bytes, ${result.documents.length} documents, ${result.tokens} coded tokens`],
    ["proof", `${proof.length} bytes`],
    ["model", `${model.length} bytes`],
    ["text SHA-256", result.textSha256],
    ["model SHA-256", result.modelSha256],
    ["proof SHA-256", result.proofSha256],
    ["decoded in", `${result.seconds.toFixed(1)} s, ${Math.round(result.tokens / result.seconds)} tokens/s, ${threads} threads`],
  ];
  for (const [name, value] of lines) process.stdout.write(`${name.padEnd(14)} ${value}\n`);
  process.exitCode = differs ? 1 : 0;
}

if (isMainThread) await main();
else serveWorker(browserPort(parentPort));
