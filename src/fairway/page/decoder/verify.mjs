// node verify.mjs [--threads N] MODEL PROOF [TEXT]: decode a proof with its model, and state the
// score. TEXT is compared with what was decoded if it exists, else written. Exit codes: 0 the proof
// holds, 1 it does not (it is damaged, or another text), 2 no verdict (a file that cannot be read,
// another model's or machine's proof).
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
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

const quoted = (path) => JSON.stringify(path);
const readFile = (path) => new Uint8Array(readFileSync(path));

/** Write a file under a temporary name, then give it its own. */
function writeFile(path, bytes) {
  const temporary = `${path}.${process.pid}.tmp`;
  writeFileSync(temporary, bytes, { flag: "wx" });
  renameSync(temporary, path);
}

/** Return the number of threads and the paths. */
function readArguments(given) {
  const at = given.indexOf("--threads");
  const threads = at < 0 ? availableParallelism() : Number(given.splice(at, 2)[1]);
  const isCount = Number.isInteger(threads) && threads >= 1 && threads <= 1024;
  const arePaths = given.length >= 2 && given.length <= 3 && !given.join("\n").match(/^--/m);
  if (!isCount || !arePaths) throw new NoVerdict(USAGE);
  return [threads, ...given];
}

/** Decode and print; returns the exit code. */
async function verify() {
  const [threads, modelPath, proofPath, textPath] = readArguments(process.argv.slice(2));
  const [model, proof] = [readFile(modelPath), readFile(proofPath)];
  const expected = textPath && existsSync(textPath) ? readFile(textPath) : null;
  const { isTTY } = process.stderr;
  const result = await decode(model, proof, {
    workers: threads > 1 ? threads : 0,
    startWorker: () => browserPort(new Worker(new URL(import.meta.url))),
    onProgress: ({ tokens, totalTokens }) =>
      isTTY && process.stderr.write(`\r${tokens} of ${totalTokens} tokens`),
  });
  const { text, documents, tokens, seconds } = result;
  if (textPath && !expected) writeFile(textPath, text);
  const differs = expected !== null && Buffer.compare(expected, text) !== 0;
  const lines = {
    verdict: differs ? `no: the decoded text is not ${quoted(textPath)}` : "the proof holds",
    "bits per byte": result.bpb.toFixed(6),
    text: `${text.length} bytes, ${documents.length} documents, ${tokens} coded tokens`,
    proof: `${proof.length} bytes`,
    model: `${model.length} bytes`,
    "text SHA-256": result.textSha256,
    "model SHA-256": result.modelSha256,
    "proof SHA-256": result.proofSha256,
    "decoded in": `${seconds.toFixed(1)} s, ${(tokens / seconds).toFixed()} tokens/s`,
  };
  if (isTTY) process.stderr.write("\n");
  for (const name in lines) process.stdout.write(`${name.padEnd(14)} ${lines[name]}\n`);
  return differs ? 1 : 0;
}

async function main() {
  try {
    process.exitCode = await verify();
  } catch (error) {
    const isFile = Boolean(error.code && error.path);
    if (!(error instanceof Damage) && !isFile) throw error;
    const sentence = isFile ? `cannot open ${quoted(error.path)}: ${error.code}` : error.message;
    process.stderr.write(`${sentence}\n`);
    process.exitCode = isFile || error instanceof NoVerdict ? 2 : 1;
  }
}

if (isMainThread) await main();
else serveWorker(browserPort(parentPort));
