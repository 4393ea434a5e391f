// The text as far as it is decoded: tokens, what each of them cost, and the sections that they form.

export const LIKELIEST = 5;
const PREDICTORS = 3; // network, n-grams, neural cache
const SECTION_TOKENS = 8192; // at most, so that one is laid out in a moment
const STORED_BYTES = 12; // of a token in a stored document, at most
const NEWLINE = 10;
const BLANK = 32;

// One chunk of a proof. Arrays have an entry per token; bits are NaN until the token is decoded.
class ChunkOfText {
  constructor(first, tokens) {
    this.first = first; // index of its first token in the text
    this.tokens = tokens;
    this.token = new Uint16Array(tokens);
    this.bits = new Float32Array(tokens).fill(NaN);
    this.top = new Uint16Array(LIKELIEST * tokens);
    this.topBits = new Float32Array(LIKELIEST * tokens);
    this.shares = new Float32Array(PREDICTORS * tokens);
    this.end = new Uint32Array(tokens); // where the token's bytes end in the bytes of its run
    this.runs = new Map();
    this.sections = [];
    this.isStored = false;
    this.isChanged = true;
  }
}

// Tokens [from, to) of one document without a gap, and what they write.
class Run {
  constructor(from, startsDocument, writer) {
    Object.assign(this, { from, to: from, startsDocument, writer });
  }

  // Write the tokens up to `to` that are not written yet.
  writeTo(to, chunk) {
    const { writer } = this;
    for (let i = this.to; i < to; i++) {
      writer.write(chunk.token[i]);
      chunk.end[i] = writer.length;
    }
    this.to = to;
    this.bytes = writer.bytes.subarray(0, writer.length);
  }
}

// Tokens [from, to) of a chunk: a part of a run, or a gap that is not decoded yet (run is null).
class Section {
  constructor(chunk, from, to, run) {
    Object.assign(this, { chunk, from, to, run });
    this.startsDocument = run !== null && run.startsDocument && run.from === from;
    this.isLast = run !== null && run.to === to;
    this.rows = null; // belongs to layout.mjs
  }

  // Where the bytes of token i stand in the bytes of the run.
  byteRange(i) {
    return [i > this.run.from ? this.chunk.end[i - 1] : 0, this.chunk.end[i]];
  }
}

export class DecodedText {
  // What decode() hands to onHeader; hasShares: whether it is known who predicted a token.
  constructor({ chunks, vocabulary, bos, newWriter, tokenBytes, hasShares = true }) {
    Object.assign(this, { vocabulary, bos, newWriter, tokenBytes, hasShares });
    this.tokens = 0;
    this.chunks = chunks.map(({ tokens, stored, begun }) => {
      const chunk = stored ? storedChunk(this.tokens, stored) : new ChunkOfText(this.tokens, tokens);
      this.tokens += chunk.tokens;
      if (!stored) this.beginDocuments(chunk, begun);
      return chunk;
    });
    this.isChanged = true;
    this.update();
  }

  // The first token of a lane that starts a document is not coded: it is there from the start, for nothing.
  beginDocuments(chunk, begun) {
    for (const i of begun) {
      chunk.token[i] = this.bos;
      chunk.bits[i] = 0;
    }
  }

  // Take a block of decoded tokens, as decode() hands it to onTokens.
  add({ chunk: number, start, token, bits, top, topBits, shares }) {
    const chunk = this.chunks[number];
    for (let k = 0; k < start.length; k++) {
      const i = start[k];
      chunk.token[i] = token[k];
      chunk.bits[i] = bits[k];
      for (let j = 0; j < LIKELIEST; j++) {
        chunk.top[LIKELIEST * i + j] = top[LIKELIEST * k + j];
        chunk.topBits[LIKELIEST * i + j] = topBits[LIKELIEST * k + j];
      }
      if (shares) for (let j = 0; j < PREDICTORS; j++) chunk.shares[PREDICTORS * i + j] = shares[PREDICTORS * k + j];
    }
    chunk.isChanged = this.isChanged = true;
  }

  // Bring the sections up to date with what was added; return whether there was anything.
  update() {
    if (!this.isChanged) return false;
    this.isChanged = false;
    for (const chunk of this.chunks) if (chunk.isChanged) this.findSections(chunk);
    this.sections = this.chunks.flatMap((chunk) => chunk.sections);
    this.documents = this.sections.filter((section) => section.startsDocument);
    return true;
  }

  findSections(chunk) {
    const { bits, token, tokens, runs, isStored } = chunk;
    const before = new Map(chunk.sections.map((section) => [section.from, section]));
    const keep = (from, to, run) => {
      const old = before.get(from);
      const isSame = old?.to === to && old.run === run && (run === null || old.isLast === (run.to === to));
      return isSame ? old : new Section(chunk, from, to, run);
    };
    chunk.isChanged = false;
    chunk.sections = [];
    for (let from = 0; from < tokens; ) {
      const isDecoded = !Number.isNaN(bits[from]);
      let to = from + 1;
      if (isStored) to = runs.get(from).to;
      else while (to < tokens && Number.isNaN(bits[to]) !== isDecoded && !(isDecoded && token[to] === this.bos)) to++;
      if (isDecoded) {
        let run = runs.get(from);
        if (!run) runs.set(from, (run = new Run(from, token[from] === this.bos, this.newWriter())));
        if (run.to < to) run.writeTo(to, chunk);
        for (let next; from < to; from = next) chunk.sections.push(keep(from, (next = sectionEnd(chunk, run, from)), run));
      } else chunk.sections.push(keep(from, to, null));
      from = to;
    }
  }

  // Return the section with the token of this index in the text, and the token's index in its chunk.
  find(index) {
    const chunk = this.chunks.findLast((candidate) => candidate.first <= index);
    const i = index - chunk.first;
    return { section: chunk.sections.findLast((candidate) => candidate.from <= i), i };
  }

  // Everything about one token: {bytes, bits, id, likeliest: [{id, bits}], shares}.
  detailsOf(section, i) {
    const { chunk, run } = section;
    const [from, to] = section.byteRange(i);
    const details = { bytes: run.bytes.subarray(from, to), bits: chunk.bits[i], id: null, likeliest: [], shares: null };
    if (chunk.isStored) return details;
    details.id = chunk.token[i];
    for (let j = LIKELIEST * i; j < LIKELIEST * (i + 1); j++)
      details.likeliest.push({ id: chunk.top[j], bits: chunk.topBits[j] });
    if (this.hasShares) details.shares = Array.from(chunk.shares.subarray(PREDICTORS * i, PREDICTORS * (i + 1)));
    return details;
  }

  // Return sums over `bins` equal runs of tokens, and how tokens spread over `bounds` of bits.
  statistics(bins, bounds) {
    const bits = new Float64Array(bins);
    const bytes = new Float64Array(bins);
    const count = new Float64Array(bounds.length);
    const cost = new Float64Array(bounds.length);
    for (const section of this.sections) {
      if (section.run === null) continue;
      const { chunk } = section;
      let [end] = section.byteRange(section.from);
      for (let i = section.from; i < section.to; i++) {
        const bin = Math.floor(((chunk.first + i) * bins) / this.tokens);
        const charge = chunk.bits[i];
        bits[bin] += charge;
        bytes[bin] += chunk.end[i] - end;
        end = chunk.end[i];
        if (charge === 0) continue;
        let k = bounds.length - 1;
        while (charge < bounds[k]) k--;
        count[k] += 1;
        cost[k] += charge;
      }
    }
    return { bits, bytes, count, cost };
  }
}

// Return where a section that begins at `from` ends: with its run, or at a newline if there is one.
function sectionEnd(chunk, run, from) {
  const most = from + SECTION_TOKENS;
  if (run.to <= most) return run.to;
  for (let to = most; to > from + SECTION_TOKENS / 2; to--) if (run.bytes[chunk.end[to - 1] - 1] === NEWLINE) return to;
  return most;
}

// A chunk whose documents are stored as they are, 8 bits a byte. A few bytes up to a blank stand for a token; so does the
// start of a document, for nothing.
function storedChunk(first, documents) {
  const ends = documents.map(storedEnds);
  const chunk = new ChunkOfText(first, ends.reduce((sum, { length }) => sum + length, 0));
  chunk.isStored = true;
  let from = 0;
  for (const [k, bytes] of documents.entries()) {
    const run = new Run(from, true, null);
    Object.assign(run, { bytes, to: from + ends[k].length });
    chunk.runs.set(from, run);
    chunk.end.set(ends[k], from);
    ends[k].forEach((end, i) => (chunk.bits[from + i] = i ? 8 * (end - ends[k][i - 1]) : 0));
    from = run.to;
  }
  return chunk;
}

// Return where the tokens of a stored document end in its bytes.
function storedEnds(bytes) {
  const ends = [0];
  for (let i = 1; i <= bytes.length; i++)
    if (i === bytes.length || i - ends.at(-1) === STORED_BYTES || bytes[i] === BLANK || bytes[i - 1] === NEWLINE) ends.push(i);
  return ends;
}
