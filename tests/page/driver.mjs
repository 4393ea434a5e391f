// Decode many proofs in one process: each line of standard input is an object with a model and a
// proof in base64, each line of standard output what became of them.
//
//     node driver.mjs FOLDER [plain]     plain: without WebAssembly

import { createHash } from "node:crypto";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

if (process.argv[3] === "plain") delete globalThis.WebAssembly;
const folder = pathToFileURL(process.argv[2] + "/");
const { decode } = await import(new URL("decode.mjs", folder));
const { Damage } = await import(new URL("binary.mjs", folder));

const hash = (bytes) => createHash("sha256").update(bytes).digest("hex");

async function outcome({ model, proof, details = false }) {
  const records = [];
  try {
    const found = await decode(Buffer.from(model, "base64"), Buffer.from(proof, "base64"), {
      workers: 0,
      startWorker: null,
      details,
      onHeader: () => {},
      onProgress: () => {},
      onTokens: (block) =>
        records.push(Object.fromEntries(Object.entries(block).map(([k, v]) => [k, k === "chunk" ? v : [...v]]))),
    });
    const { documents, bits, bpb, tokens, textSha256, modelSha256, proofSha256 } = found;
    return { sha256: hash(found.text), documents, bits, bpb, tokens, textSha256, modelSha256, proofSha256, records };
  } catch (error) {
    return error instanceof Damage ? { damage: error.message } : { fault: String(error.stack ?? error) };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await outcome(JSON.parse(line))));
}
