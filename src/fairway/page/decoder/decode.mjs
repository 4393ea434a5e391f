// Decode a proof with its model: one range coder here, and lanes in groups, here or in workers.
import { Damage, NoVerdict, bytesOfHex, demand, joinBytes } from "./binary.mjs";
import { readArtifact, splitArtifact } from "./artifact.mjs";
import { Distribution } from "./frequencies.mjs";
import { LaneGroup } from "./group.mjs";
import { readProof } from "./proof.mjs";
import { RangeDecoder } from "./range_coder.mjs";
import { sha256Of } from "./sha256.mjs";
import { TextWriter, openTokenizer, pieceBytes } from "./tokenizer.mjs";

const PATIENCE_MS = 40;
const PROGRESS_MS = 100;

/** Let the event loop run. */
function pause() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

/** Lanes in this thread, one group. */
class LocalTeam {
  async open(model) {
    this.artifact = readArtifact(model);
    return this.artifact;
  }

  start(lanes, details, onDetails) {
    const group = new LaneGroup(this.artifact, lanes, details);
    const tell = (atEnd) => {
      const block = group.takeDetails(atEnd);
      if (block) onDetails(block);
    };
    const accept = (tokens) => {
      group.accept(tokens);
      tell(false);
    };
    return [{ predict: () => group.predict(), accept, finish: async () => tell(true) }];
  }

  close() {}
}

/** Lanes in workers (worker.mjs), a group each: neighbours in the order of coding, so that one group can be ahead. */
class WorkerTeam {
  constructor(count, startWorker) {
    this.members = Array.from({ length: count }, () => new Member(startWorker()));
  }

  async open(model) {
    const opened = await Promise.all(this.members.map((member) => member.ask("opened", { kind: "open", model })));
    const { recipe, tokenizerKind, tokenizerText } = opened[0];
    return { recipe, tokenizer: openTokenizer(tokenizerKind, tokenizerText) };
  }

  start(lanes, details, onDetails) {
    const size = Math.ceil(lanes.length / this.members.length);
    const groups = [];
    for (let first = 0; first < lanes.length; first += size) {
      groups.push(this.members[groups.length].startGroup(lanes.slice(first, first + size), details, onDetails));
    }
    return groups;
  }

  close() {
    for (const member of this.members) member.worker.terminate();
  }
}

/** One worker: messages of some kinds are waited for, one at a time. */
class Member {
  constructor(worker) {
    this.worker = worker;
    this.waiting = new Map();
    this.arrived = new Map();
    this.failure = null;
    this.onDetails = null;
    worker.onmessage = ({ data }) => this.receive(data);
    worker.onerror = (event) => this.fail(new Error(`a worker failed: ${event.message ?? event}`));
  }

  receive(message) {
    if (message.kind === "failed") {
      const { sentence, noVerdict, damage } = message;
      this.fail(damage ? new (noVerdict ? NoVerdict : Damage)(sentence) : new Error(sentence));
    } else if (message.kind === "details") this.onDetails(message.block);
    else if (this.waiting.has(message.kind)) this.waiting.get(message.kind).resolve(message);
    else this.arrived.set(message.kind, message);
  }

  fail(error) {
    this.failure = error;
    for (const { reject } of this.waiting.values()) reject(error);
  }

  async wait(kind) {
    if (this.failure) throw this.failure;
    let message = this.arrived.get(kind);
    this.arrived.delete(kind);
    if (!message) message = await new Promise((resolve, reject) => this.waiting.set(kind, { resolve, reject }));
    this.waiting.delete(kind);
    return message;
  }

  ask(kind, message) {
    this.worker.postMessage(message);
    return this.wait(kind);
  }

  startGroup(lanes, details, onDetails) {
    this.onDetails = onDetails;
    this.worker.postMessage({ kind: "start", lanes, details });
    return {
      predict: async () => (await this.wait("prediction")).prediction,
      accept: (tokens) => this.worker.postMessage({ kind: "tokens", tokens }),
      finish: () => this.ask("finished", { kind: "finish" }),
    };
  }
}

/**
 * Decode a proof. See the contract: model and proof are Uint8Array; result {text, documents, bits, bpb, ...}.
 * Throws Damage (or NoVerdict, which is one) with a sentence.
 */
export async function decode(model, proof, options = {}) {
  const { workers = 0, startWorker = null, sha256 = sha256Of, signal = null } = options;
  const { onHeader, onTokens, onProgress, details = false } = options;
  const began = Date.now();
  const { textDigest, modelDigest, chunks } = readProof(proof);
  const [modelSha256, proofSha256] = [await sha256(model), await sha256(proof)];
  const team = workers > 0 && startWorker ? new WorkerTeam(workers, startWorker) : new LocalTeam();
  try {
    if (!modelSha256.startsWith(modelDigest)) {
      splitArtifact(model);
      throw new NoVerdict("the proof belongs to another model: it names one whose SHA-256 begins with " + modelDigest);
    }
    const { recipe, tokenizer } = await team.open(model);
    const totalTokens = chunks.reduce((sum, { tokens }) => sum + (tokens ?? 0), 0);
    onHeader?.({
      ...{ modelSha256, proofSha256, modelBytes: model.length, proofBytes: proof.length },
      ...{ recipe, vocabulary: tokenizer.vocabulary, bos: tokenizer.bos, totalTokens },
      tokenBytes: (id) => pieceBytes(tokenizer, id),
      newWriter: () => new TextWriter(tokenizer),
      chunks: chunks.map(describeChunk),
    });
    const run = { team, tokenizer, details, signal, onTokens, onProgress, totalTokens, tokens: 0, bits: 0, told: 0 };
    const documents = [];
    for (const [index, chunk] of chunks.entries()) {
      if (chunk.documents) documents.push(...chunk.documents);
      else documents.push(...cutDocuments(tokenizer, await decodeChunk(run, index, chunk)));
    }
    onProgress?.({ tokens: run.tokens, totalTokens });
    const text = joinBytes(documents);
    demand(text.length > 0, "the proof decodes to a text of no bytes");
    const lengths = documents.map(({ length }) => length);
    const textSha256 = await sha256(text);
    const digest = await sha256(bytesOfHex(textSha256 + (await sha256(lengthFields(lengths)))));
    demand(digest.startsWith(textDigest), "the decoded text is not the one that the proof's header names");
    const { tokens, bits } = run;
    const bpb = (proof.length * 8) / text.length;
    const seconds = (Date.now() - began) / 1000;
    return { text, documents: lengths, bits, bpb, textSha256, modelSha256, proofSha256, tokens, seconds };
  } finally {
    team.close();
  }
}

/** Tell of a chunk: `stored`, its documents, or null; `begun`, positions of the BOS tokens that are not coded. */
function describeChunk({ documents, tokens, lanes, stream }) {
  if (documents) return { tokens: 0, lanes: 0, streamBytes: joinBytes(documents).length, stored: documents, begun: [] };
  const begun = lanes.filter(({ inside }) => !inside).map(({ first }) => first - 1);
  return { tokens, lanes: lanes.length, streamBytes: stream.length, stored: null, begun };
}

/** Decode a chunk's tokens, Uint16Array, those at lanes' starts included. */
async function decodeChunk(run, index, { tokens: count, lanes, stream, name }) {
  const { team, tokenizer, details, onTokens } = run;
  const tokens = new Uint16Array(count).fill(tokenizer.bos);
  const decoder = new RangeDecoder(stream, name);
  const groups = team.start(lanes, details, (block) => onTokens?.({ chunk: index, ...block }));
  const distribution = new Distribution(tokenizer.vocabulary);
  let rested = performance.now();
  for (let step = 0; step < lanes[0].count; step++) {
    let lane = 0;
    for (const group of groups) {
      if (lanes[lane].count <= step) break;
      const prediction = await group.predict();
      const decoded = new Uint16Array(prediction.lanes);
      for (let i = 0; i < prediction.lanes; i++, lane++) {
        const { sums, additions, rests } = prediction;
        distribution.set(sums, additions, i * (tokenizer.vocabulary + 1), rests[i]);
        const token = distribution.find(decoder.target());
        const start = distribution.cumulative(token);
        const stop = distribution.cumulative(token + 1);
        decoder.narrow(start, stop);
        run.bits += 30 - Math.log2(stop - start);
        decoded[i] = token;
        tokens[lanes[lane].first + step] = token;
      }
      run.tokens += prediction.lanes;
      group.accept(decoded);
    }
    const now = performance.now();
    if (now - run.told > PROGRESS_MS) {
      run.told = now;
      run.onProgress?.({ tokens: run.tokens, totalTokens: run.totalTokens });
    }
    if (now - rested > PATIENCE_MS) {
      await pause();
      run.signal?.throwIfAborted();
      rested = performance.now();
    }
  }
  await Promise.all(groups.map((group) => group.finish()));
  decoder.end();
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
  starts.push(writer.length);
  return starts.slice(1).map((stop, i) => writer.bytes.subarray(starts[i], stop));
}

/** Return numbers as little-endian 64-bit fields. */
function lengthFields(lengths) {
  const view = new DataView(new ArrayBuffer(8 * lengths.length));
  lengths.forEach((length, i) => view.setBigUint64(8 * i, BigInt(length), true));
  return new Uint8Array(view.buffer);
}
