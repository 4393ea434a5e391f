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
  const postMessage = (message) => port.postMessage(message);
  const wrapped = { postMessage, terminate: () => port.terminate() };
  port.on("message", (data) => wrapped.onmessage({ data }));
  port.on("error", (error) => wrapped.onerror?.(error));
  return wrapped;
}

const readFile = (path) => new Uint8Array(readFileSync(path));

/** Write a file under a temporary name, then give it its own. */
function writeFile(path, bytes) {
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    writeFileSync(temporary, bytes, { flag: "wx" });
    renameSync(temporary, path);
  } finally {
    rmSync(temporary, { force: true });
  }
}

function readArguments(given) {
  const at = given.indexOf("--threads");
  const threads = at < 0 ? availableParallelism() : Number(given.splice(at, 2)[1]);
  const right = Number.isInteger(threads) && threads >= 1 && threads <= 1024 && given.length >= 2 && given.length <= 3;
  if (!right || given.some((file) => file.startsWith("--"))) throw new NoVerdict(USAGE);
  return { threads, paths: given };
}

/** Decode and print; returns the exit code. */
async function verify() {
  const { threads, paths } = readArguments(process.argv.slice(2));
  const textPath = paths[2];
  const [model, proof] = paths.slice(0, 2).map(readFile);
  const expected = textPath && existsSync(textPath) ? readFile(textPath) : null;
  const showProgress = ({ tokens, totalTokens }) => process.stderr.write(`\r${tokens} of ${totalTokens} tokens`);
  const result = await decode(model, proof, {
    workers: threads > 1 ? threads : 0,
    startWorker: () => browserPort(new Worker(fileURLToPath(import.meta.url))),
    sha256: async (bytes) => createHash("sha256").update(bytes).digest("hex"),
    onProgress: process.stderr.isTTY ? showProgress : null,
  });
  const { text, documents, tokens, seconds } = result;
  if (textPath && !expected) writeFile(textPath, text);
  const differs = expected !== null && Buffer.compare(expected, text) !== 0;
  const lines = {
    verdict: differs ? `no: the decoded text is not ${JSON.stringify(textPath)}` : "the proof holds",
    "bits per byte": result.bpb.toFixed(6),
    text: `${text.length} bytes, ${documents.length} documents, ${tokens} coded tokens`,
    proof: `${proof.length} bytes`,
    model: `${model.length} bytes`,
    "text SHA-256": result.textSha256,
    "model SHA-256": result.modelSha256,
    "proof SHA-256": result.proofSha256,
    "decoded in": `${seconds.toFixed(1)} s, ${Math.round(tokens / seconds)} tokens/s, ${threads} threads`,
  };
  if (process.stderr.isTTY) process.stderr.write("\n");
  for (const [name, value] of Object.entries(lines)) process.stdout.write(`${name.padEnd(14)} ${value}\n`);
  return differs ? 1 : 0;
}

async function main() {
  try {
    process.exitCode = await verify();
  } catch (error) {
    const isFile = error.code !== undefined && error.path !== undefined;
    if (!(error instanceof Damage) && !isFile) throw error;
    process.stderr.write(isFile ? `cannot open ${JSON.stringify(error.path)}: ${error.code}\n` : `${error.message}\n`);
    process.exitCode = isFile || error instanceof NoVerdict ? 2 : 1;
  }
}

if (isMainThread) await main();
else serveWorker(browserPort(parentPort));
