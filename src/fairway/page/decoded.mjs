// The text as far as it is decoded: tokens, what each of them cost, and the sections that they form.

export const LIKELIEST = 5;
const PREDICTORS = 3; // network, n-grams, neural cache
const STORED_BYTE = { bits: 8 };

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
    this.end = new Uint32Array(tokens); // where the token's bytes end in the bytes of its section
    this.stored = null; // or where documents start in a chunk that is stored
    this.sections = [new Section(this, 0, tokens, false)];
  }
}

// A run of tokens [from, to) of a chunk: one document, a decoded part of one, or a gap that is not decoded yet.
class Section {
  constructor(chunk, from, to, isDecoded, startsDocument = false) {
    this.chunk = chunk;
    this.from = from;
    this.to = to;
    this.isDecoded = isDecoded;
    this.startsDocument = startsDocument;
    this.bytes = null;
    this.rows = null; // belongs to layout.mjs
  }

  byteRange(i) {
    return [i > this.from ? this.chunk.end[i - 1] : 0, this.chunk.end[i]];
  }
}

export class DecodedText {
  // header: what decode() hands to onHeader.
  constructor({ chunks, vocabulary, textOf, tokenBytes, hasShares = true }) {
    Object.assign(this, { vocabulary, textOf, tokenBytes, hasShares });
    this.tokens = 0;
    this.decoded = 0;
    this.chunks = chunks.map(({ tokens, stored }) => {
      const chunk = stored ? storedChunk(this.tokens, stored) : new ChunkOfText(this.tokens, tokens);
      this.tokens += chunk.tokens;
      if (stored) this.decoded += chunk.tokens;
      return chunk;
    });
    this.isChanged = true;
    this.sections = [];
    this.update();
  }

  // Take a block of decoded tokens, as decode() hands it to onTokens.
  add({ chunk: number, start, token, bits, top, topBits, shares }) {
    const chunk = this.chunks[number];
    for (let k = 0; k < start.length; k++) {
      const i = start[k];
      if (Number.isNaN(chunk.bits[i])) this.decoded += 1;
      chunk.token[i] = token[k];
      chunk.bits[i] = bits[k];
      for (let j = 0; j < LIKELIEST; j++) {
        chunk.top[LIKELIEST * i + j] = top[LIKELIEST * k + j];
        chunk.topBits[LIKELIEST * i + j] = topBits[LIKELIEST * k + j];
      }
      for (let j = 0; j < PREDICTORS; j++) chunk.shares[PREDICTORS * i + j] = shares ? shares[PREDICTORS * k + j] : 0;
    }
    chunk.isChanged = this.isChanged = true;
  }

  // Bring the sections up to date with what was added; return whether any changed.
  update() {
    if (!this.isChanged) return false;
    this.isChanged = false;
    for (const chunk of this.chunks) if (chunk.isChanged && !chunk.stored) this.findSections(chunk);
    this.sections = this.chunks.flatMap((chunk) => chunk.sections);
    this.documents = this.sections.filter((section) => section.startsDocument);
    return true;
  }

  findSections(chunk) {
    chunk.isChanged = false;
    const before = new Map(chunk.sections.map((section) => [section.from, section]));
    const { bits, token, tokens } = chunk;
    const isBos = this.tokenBytes === null ? () => false : (i) => this.isBos(token[i]);
    chunk.sections = [];
    for (let from = 0; from < tokens; ) {
      const isDecoded = !Number.isNaN(bits[from]);
      let to = from + 1;
      while (to < tokens && Number.isNaN(bits[to]) !== isDecoded && !(isDecoded && isBos(to))) to++;
      let section = before.get(from);
      if (!section || section.to !== to || section.isDecoded !== isDecoded) {
        section = new Section(chunk, from, to, isDecoded, isDecoded && isBos(from));
        if (isDecoded) this.write(section);
      }
      chunk.sections.push(section);
      from = to;
    }
  }

  // Fill in what the tokens of a section write.
  write(section) {
    const { chunk, from, to } = section;
    const { bytes, ends } = this.textOf(chunk.token.subarray(from, to));
    section.bytes = bytes;
    chunk.end.set(ends, from);
  }

  isBos(id) {
    this.bos ??= Uint8Array.from({ length: this.vocabulary }, (_, i) => (this.tokenBytes(i) === null ? 1 : 0));
    return this.bos[id] === 1;
  }

  // Return the section with the token of this index in the text, and the token's index in its chunk.
  find(index) {
    const chunk = this.chunks.findLast((candidate) => candidate.first <= index);
    const i = index - chunk.first;
    return { section: chunk.sections.findLast((candidate) => candidate.from <= i), i };
  }

  // Everything about one token: {text bytes, bits, likeliest: [{id, bits}], shares}.
  detailsOf(section, i) {
    const { chunk } = section;
    const [from, to] = section.byteRange(i);
    const details = { bytes: section.bytes.subarray(from, to), bits: chunk.bits[i], id: null, likeliest: [], shares: null };
    if (chunk.stored) return details;
    details.id = chunk.token[i];
    if (details.bits === 0) return details; // a BOS that begins a lane: nobody had to predict it
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
      if (!section.isDecoded) continue;
      const { chunk } = section;
      let end = 0;
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

// A chunk whose bytes are stored as they are: every byte costs 8 bits and stands for a token; so does the start of a document, for nothing.
function storedChunk(first, { bytes, lengths }) {
  const chunk = new ChunkOfText(first, bytes.length + lengths.length);
  chunk.sections = [];
  chunk.stored = true;
  let at = 0;
  let from = 0;
  for (const length of lengths) {
    const section = new Section(chunk, from, from + 1 + length, true, true);
    section.bytes = bytes.subarray(at, at + length);
    chunk.bits[from] = 0;
    for (let i = 1; i <= length; i++) {
      chunk.bits[from + i] = STORED_BYTE.bits;
      chunk.end[from + i] = i;
    }
    chunk.sections.push(section);
    at += length;
    from += 1 + length;
  }
  return chunk;
}
