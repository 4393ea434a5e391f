// Decode a proof with its model: one range coder here, and groups of lanes in workers, or one group here.
import { Damage, NoVerdict, bytesOfHex, demand, joinBytes } from "./binary.mjs";
import { splitArtifact } from "./artifact.mjs";
import { Distribution } from "./frequencies.mjs";
import { readProof } from "./proof.mjs";
import { RangeDecoder } from "./range_coder.mjs";
import { sha256Of } from "./sha256.mjs";
import { TextWriter, openTokenizer, pieceBytes } from "./tokenizer.mjs";
import { serveWorker } from "./worker.mjs";

const PATIENCE_MS = 40;
const FAILURES = { NoVerdict, Damage, Error };

/** Let the event loop run. */
function pause() {
  const { port1, port2 } = new MessageChannel();
  port2.postMessage(null);
  return new Promise((resolve) => (port1.onmessage = resolve)).then(() => port1.close());
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

/** Open the model in workers, or here where they cannot start: [what the first answered, members]. */
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
 * Decode a proof. model and proof are Uint8Array; result {text, documents, bits, bpb, textSha256, ...}.
 * @param options {workers: how many, startWorker(): one, sha256, onHeader, onTokens, onProgress, details, signal}
 * Throws Damage (or NoVerdict, which is one) with a sentence.
 */
export async function decode(model, proof, options = {}) {
  const { workers = 0, startWorker, sha256 = sha256Of, onHeader, onProgress } = options;
  const began = performance.now();
  const { textDigest, modelDigest, chunks } = readProof(proof);
  const [modelSha256, proofSha256] = [await sha256(model), await sha256(proof)];
  const isItsModel = modelSha256.startsWith(modelDigest);
  if (!isItsModel) splitArtifact(model); // which may say that the model is damaged
  demand(isItsModel, `the proof belongs to another model, one whose SHA-256 begins with ${modelDigest}`, NoVerdict);
  const team = workers && startWorker ? [workers, startWorker] : [1, startLocalWorker];
  const [opened, members] = await openModel(model, ...team);
  try {
    options.signal?.throwIfAborted();
    const tokenizer = openTokenizer(opened.kind, opened.text);
    const totalTokens = chunks.reduce((sum, { lanes = [] }) => lanes.reduce((part, { count }) => part + count, sum), 0);
    const tell = () => onProgress?.({ tokens: run.tokens, totalTokens });
    const run = { ...options, members, tokenizer, tokens: 0, bits: 0, tell };
    await onHeader?.({
      ...{ modelSha256, proofSha256, modelBytes: model.length, proofBytes: proof.length, recipe: opened.recipe },
      ...{ vocabulary: tokenizer.vocabulary, bos: tokenizer.bos, chunks: chunks.map(describeChunk) },
      tokenBytes: (token) => pieceBytes(tokenizer, token),
      newWriter: () => new TextWriter(tokenizer),
    });
    const documents = [];
    for (const [index, chunk] of chunks.entries()) {
      const made = chunk.documents ?? cutDocuments(tokenizer, await decodeChunk(run, index, chunk));
      for (const document of made) documents.push(document);
    }
    run.tell();
    const text = joinBytes(documents);
    demand(text.length > 0, "the proof decodes to a text of no bytes");
    const lengths = documents.map(({ length }) => length);
    const textSha256 = await sha256(text);
    const lengthsSha256 = await sha256(new Uint8Array(BigUint64Array.from(lengths, BigInt).buffer));
    const digest = await sha256(bytesOfHex(textSha256 + lengthsSha256));
    demand(digest.startsWith(textDigest), "the decoded text is not the one that the proof's header names");
    const [bpb, seconds] = [(proof.length * 8) / text.length, (performance.now() - began) / 1000];
    const { bits, tokens } = run;
    return { text, documents: lengths, bits, bpb, textSha256, modelSha256, proofSha256, tokens, seconds };
  } finally { for (const { worker } of members) worker.terminate(); }
}

/** Tell of a chunk: `stored`, its documents, or null; `begun`, positions of the BOS tokens that are not coded. */
function describeChunk({ documents, tokens, lanes }) {
  if (documents) return { tokens: 0, stored: documents, begun: [] };
  const begun = lanes.filter(({ inside }) => !inside).map(({ first }) => first - 1);
  return { tokens, stored: null, begun };
}

/** Decode a chunk's tokens, Uint16Array, those at lanes' starts included. */
async function decodeChunk(run, index, { tokens: count, lanes, stream, name }) {
  const { members, tokenizer, details = false, onTokens } = run;
  const tokens = new Uint16Array(count).fill(tokenizer.bos), decoder = new RangeDecoder(stream, name);
  // Each member has neighbours in the order of coding, so that the first can predict while the last is decoded.
  const size = Math.ceil(lanes.length / members.length);
  const groups = members.slice(0, Math.ceil(lanes.length / size));
  groups.forEach((member, i) => member.ask("start", { lanes: lanes.slice(i * size, (i + 1) * size), details }));
  const answerOf = async (member) => {
    const prediction = await member.answer;
    if (prediction.details) onTokens?.({ chunk: index, ...prediction.details });
    return prediction;
  };
  for (let step = 0, rested = performance.now(); step < lanes[0].count; step++) {
    for (let i = 0; i < groups.length && lanes[i * size].count > step; i++) {
      const { sums, additions, rests } = await answerOf(groups[i]);
      const decoded = Uint16Array.from(rests, (rest, lane) => {
        const distribution = new Distribution(sums[lane], additions[lane], rest);
        const token = distribution.find(decoder.target());
        const [start, stop] = [distribution.cumulative(token), distribution.cumulative(token + 1)];
        decoder.narrow(start, stop); run.bits += 30 - Math.log2(stop - start);
        return (tokens[lanes[i * size + lane].first + step] = token);
      });
      run.tokens += decoded.length; groups[i].ask("tokens", decoded);
    }
    if (performance.now() - rested < PATIENCE_MS) continue;
    run.tell(); await pause(); run.signal?.throwIfAborted(); rested = performance.now();
  }
  await Promise.all(groups.map(answerOf)); decoder.end();
  return tokens;
}

/** Write a chunk's tokens: an array of its documents' bytes, each from a BOS to the next. */
function cutDocuments(tokenizer, tokens) {
  const writer = new TextWriter(tokenizer), starts = [];
  for (const token of tokens) { if (token === tokenizer.bos) starts.push(writer.length); writer.write(token); }
  return starts.map((start, i) => writer.bytes.subarray(start, starts[i + 1] ?? writer.length));
}
