// Decode a proof with its model: one range coder here; groups of lanes in workers, or one here.
import { splitArtifact } from "./artifact.mjs";
import { Damage, NoVerdict, demand, hexOf, joinBytes } from "./binary.mjs";
import { symbolAt } from "./frequencies.mjs";
import { readProof } from "./proof.mjs";
import { RangeDecoder } from "./range_coder.mjs";
import { TextWriter, openTokenizer, pieceBytes } from "./tokenizer.mjs";
import { serveWorker } from "./worker.mjs";

const PATIENCE_MS = 40;
const FAILURES = { NoVerdict, Damage, Error };

/** Return the SHA-256 of bytes. */
async function sha256(bytes) {
  const { subtle } = globalThis.crypto ?? {};
  const sentence = "open this page as a file or over https: elsewhere browsers compute no SHA-256";
  demand(subtle, sentence, NoVerdict);
  return new Uint8Array(await subtle.digest("SHA-256", bytes));
}

/** Let the event loop run. */
async function pause() {
  const { port1, port2 } = new MessageChannel();
  port2.postMessage(null);
  await new Promise((resolve) => (port1.onmessage = resolve));
  port1.close();
}

/** Return a worker of this very thread: messages are calls. */
function startLocalWorker() {
  const worker = { postMessage: (data) => port.onmessage({ data }), terminate() {} };
  const port = { postMessage: (data) => worker.onmessage({ data }) };
  serveWorker(port);
  return worker;
}

/** A worker that holds a group of lanes: `ask` makes the promise `answer`. */
class Member {
  constructor(worker) {
    this.worker = worker;
    worker.onmessage = ({ data: { answer, failure, sentence } }) => {
      if (failure) this.fail(new FAILURES[failure](sentence));
      else this.resolve(answer);
    };
    worker.onerror = (event) => this.fail(new Error(`a worker failed: ${event.message}`));
  }

  ask(name, value) {
    this.answer = new Promise((resolve, fail) => Object.assign(this, { resolve, fail }));
    this.answer.catch(() => {}); // who waits for it hears of it
    this.worker.postMessage([name, value]);
    return this.answer;
  }
}

/** Open the model in workers, or here where they cannot start: [what one answered, members]. */
async function openModel(model, count, startWorker) {
  const members = [];
  try {
    for (let i = 0; i < count; i++) members.push(new Member(startWorker()));
    const [opened] = await Promise.all(members.map((member) => member.ask("open", model)));
    return [opened, members];
  } catch (error) {
    for (const { worker } of members) worker.terminate();
    if (error instanceof Damage || startWorker === startLocalWorker) throw error;
    return openModel(model, 1, startLocalWorker);
  }
}

/**
 * Decode a proof. model and proof are Uint8Array; result {text, documents, bits, bpb, ...}.
 * @param options {workers: how many, startWorker(): one, onHeader, onTokens, onProgress, details,
 *   signal}
 * Throws Damage (or NoVerdict, which is one) with a sentence.
 */
export async function decode(model, proof, options = {}) {
  const { workers = 0, startWorker } = options;
  const began = performance.now();
  const { textDigest, modelDigest, chunks } = readProof(proof);
  const [modelSha256, proofSha256] = [hexOf(await sha256(model)), hexOf(await sha256(proof))];
  if (!modelSha256.startsWith(modelDigest)) {
    splitArtifact(model); // which may say that the model is damaged
    const sentence = `the proof belongs to another model: its SHA-256 begins with ${modelDigest}`;
    throw new NoVerdict(sentence);
  }
  const team = workers && startWorker ? [workers, startWorker] : [1, startLocalWorker];
  const [opened, members] = await openModel(model, ...team);
  try {
    options.signal?.throwIfAborted();
    const tokenizer = openTokenizer(opened.kind, opened.text);
    const lanes = chunks.flatMap((chunk) => chunk.lanes);
    const totalTokens = lanes.reduce((sum, { count }) => sum + count, 0);
    const run = { ...options, members, tokenizer, totalTokens, tokens: 0, bits: 0 };
    await options.onHeader?.({
      modelSha256,
      proofSha256,
      modelBytes: model.length,
      proofBytes: proof.length,
      recipe: opened.recipe,
      vocabulary: tokenizer.vocabulary,
      bos: tokenizer.bos,
      chunks,
      tokenBytes: (token) => pieceBytes(tokenizer, token),
      newWriter: () => new TextWriter(tokenizer),
    });
    const made = [];
    for (const [index, chunk] of chunks.entries()) {
      made.push(chunk.stored ?? cutDocuments(tokenizer, await decodeChunk(run, index, chunk)));
    }
    const text = joinBytes(made.flat());
    demand(text.length > 0, "the proof decodes to a text of no bytes");
    const documents = made.flat().map(({ length }) => length);
    const lengths = BigUint64Array.from(documents, BigInt);
    const hashes = [await sha256(text), await sha256(lengths)];
    const digest = hexOf(await sha256(joinBytes(hashes)));
    const sentence = "the decoded text is not the one that the proof's header names";
    demand(digest.startsWith(textDigest), sentence);
    const [bpb, seconds] = [(proof.length * 8) / text.length, (performance.now() - began) / 1000];
    const { bits, tokens } = run;
    const textSha256 = hexOf(hashes[0]);
    return { text, documents, bits, bpb, textSha256, modelSha256, proofSha256, tokens, seconds };
  } finally {
    for (const { worker } of members) worker.terminate();
  }
}

/** Decode a chunk's tokens, Uint16Array, those at lanes' starts included. */
async function decodeChunk(run, index, { tokens: count, lanes, stream, name }) {
  const { members, tokenizer, details = false, onTokens, onProgress, totalTokens, signal } = run;
  const tokens = new Uint16Array(count).fill(tokenizer.bos);
  const decoder = new RangeDecoder(stream, name);
  // Each member has neighbours in the order of coding: one can predict while another decodes.
  const size = Math.ceil(lanes.length / members.length);
  const groups = members.slice(0, Math.ceil(lanes.length / size));
  groups.forEach((member, i) => {
    member.ask("start", { lanes: lanes.slice(i * size, (i + 1) * size), details });
  });
  const answerOf = async (member) => {
    const prediction = await member.answer;
    if (prediction.details) onTokens?.({ chunk: index, ...prediction.details });
    return prediction;
  };
  const width = tokenizer.vocabulary + 1;
  let rested = performance.now();
  for (let step = 0; step < lanes[0].count; step++) {
    for (let i = 0; i < groups.length && lanes[i * size].count > step; i++) {
      const prediction = await answerOf(groups[i]);
      const decoded = new Uint16Array(prediction.count).map((_, lane) => {
        const cumulative = prediction.frequencies.subarray(lane * width, (lane + 1) * width);
        const token = symbolAt(cumulative, decoder.target());
        const [start, stop] = cumulative.subarray(token, token + 2);
        decoder.narrow(start, stop);
        run.bits += 30 - Math.log2(stop - start);
        return (tokens[lanes[i * size + lane].first + step] = token);
      });
      run.tokens += decoded.length;
      groups[i].ask("tokens", decoded);
    }
    if (performance.now() - rested < PATIENCE_MS) continue;
    onProgress?.({ tokens: run.tokens, totalTokens });
    await pause();
    signal?.throwIfAborted();
    rested = performance.now();
  }
  await Promise.all(groups.map(answerOf));
  decoder.end();
  onProgress?.({ tokens: run.tokens, totalTokens });
  return tokens;
}

/** Write a chunk's tokens: an array of its documents' bytes, each from a BOS to the next. */
function cutDocuments(tokenizer, tokens) {
  const writer = new TextWriter(tokenizer);
  const starts = [];
  for (const token of tokens) {
    if (token === tokenizer.bos) starts.push(writer.length);
    writer.write(token);
  }
  return starts.map((start, i) => writer.bytes.subarray(start, starts[i + 1] ?? writer.length));
}
