// Document memory (exact.md, section 8): what the document said before, mixed into frequencies.
import { clamp, exponentAbove, largestMagnitude, powerOfTwo, rint } from "./fixed_point.mjs";
import { TOTAL } from "./frequencies.mjs";
import { makeCacheWeights, quotient } from "./integer_math.mjs";
import { capacityFor, placeInBlocks } from "./kernels.mjs";

const REACH = 16384; // tokens of the document that n-grams are looked for in
const BUCKETS = 24;
const LAMBDA_ONE = 2 ** 20;
// The table of section 8, in thousandths: λ[k][b] for k = 0 (neural cache) to 4.
const LAMBDA_TABLE = `
0 3 5 4 6 6 6 6 11 16 8 21 30 17 35 91 50 63 155 90 98 190 134 178
17 0 0 141 7 0 270 59 3 382 90 11 388 159 7 378 161 22 338 186 8 642 431 27
82 0 0 345 35 0 633 145 38 697 336 51 664 455 51 650 261 76 526 264 45 893 700 85
124 0 0 349 53 0 535 127 16 488 177 24 419 240 38 364 150 62 297 150 51 427 172 90
195 0 0 440 51 0 390 136 24 310 127 54 265 165 51 201 152 40 160 116 80 198 152 21`;
const LAMBDAS = Int32Array.from(LAMBDA_TABLE.trim().split(/\s/), (n) => (n * LAMBDA_ONE) / 1000);

let cacheWeights = null; // the table of 8.1, made when it is needed

/** Return ⌊a · λ / 2^20⌋. */
const timesLambda = (a, lambda) => Math.floor((a * lambda) / LAMBDA_ONE);

/** The memory of one lane. A prediction is kept until `learn` tells the token. */
export class LaneMemory {
  constructor(arena, { ngram, neural_cache: cacheSize }, vocabulary, bos, head) {
    const capacity = capacityFor(cacheSize);
    Object.assign(this, { arena, ngram, cacheSize, vocabulary, bos, head, capacity });
    // The document so far: its last tokens and where each stood before (rings), where each is last.
    this.length = 0;
    this.tokens = new Uint16Array(REACH);
    this.sameBefore = new Int32Array(REACH);
    this.lastPlace = new Int32Array(vocabulary).fill(-1);
    // The neural cache: states in blocks (kernels.mjs), their tokens, v · U_j and W_j.
    arena.reserve(this, "states", Int16Array, capacity * 2 * head.pairs);
    arena.reserve(this, "now", Int16Array, 2 * head.pairs);
    arena.reserve(this, "likeness", Int32Array, capacity);
    this.state = new Float32Array(cacheSize ? head.columns : 0);
    this.stateTokens = new Uint16Array(cacheSize);
    this.weights = new Int32Array(cacheSize);
    if (cacheSize) cacheWeights ??= makeCacheWeights();
    // The mixture: n_k (n_0 is Z), the place of λ[k][b_k], what symbols get from either side.
    this.lambdas = LAMBDAS.slice();
    this.counts = new Int32Array(ngram + 1);
    this.places = new Int32Array(ngram + 1);
    this.matches = [];
    this.longest = new Uint8Array(vocabulary);
    this.fromNgrams = new Float64Array(vocabulary);
    this.fromCache = new Float64Array(vocabulary);
  }

  tokenAt(position) { return this.tokens[position % REACH]; }

  /** 8.1 to 8.3: write C' from C, the network's, both Uint32Array [V + 1]. */
  predict(lane, network, mixed) {
    const { fromNgrams, fromCache, vocabulary } = this;
    for (const array of [this.counts, fromNgrams, fromCache]) array.fill(0);
    this.findMatches();
    const rest = this.askCache(lane, this.mixNgrams(TOTAL - vocabulary));
    for (let w = 0, added = 0; w < vocabulary; w++) {
      mixed[w] = w + quotient(network[w] - w, rest, TOTAL) + added;
      added += fromNgrams[w] + fromCache[w];
    }
    mixed[vocabulary] = TOTAL;
  }

  /** 8.2: list the matches, and count them and the different tokens after them. */
  findMatches() {
    const { matches, counts, places, length, ngram, longest } = this;
    const [last, least] = [length - 1, Math.max(0, length - REACH)];
    const before = (j) => this.sameBefore[j % REACH];
    matches.length = 0;
    for (let j = ngram && length ? before(last) : -1; j >= least; j = before(j)) {
      const isSame = (i) => j - i >= least && this.tokenAt(j - i) === this.tokenAt(last - i);
      let size = 1;
      while (size < ngram && isSame(size)) size++;
      matches.push({ next: this.tokenAt(j + 1), size });
    }
    const different = [0, 0, 0, 0, 0];
    for (const { next, size } of matches) {
      for (let k = 1; k <= size; k++) counts[k]++;
      for (; longest[next] < size; longest[next]++) different[longest[next] + 1]++;
    }
    for (const { next } of matches) longest[next] = 0;
    for (let k = 1; k <= ngram; k++) {
      places[k] = BUCKETS * k + 3 * Math.min(counts[k], 8) + Math.min(different[k], 3) - 4;
    }
  }

  /** 8.3: give the tokens after matches their parts of `rest`; returns what is left. */
  mixNgrams(rest) {
    const { counts, places, lambdas, ngram, fromNgrams } = this;
    const parts = [0, 0, 0, 0, 0]; // u_1 + ... + u_k
    for (let k = ngram; k >= 1; k--) {
      if (counts[k]) parts[k] = Math.floor(timesLambda(rest, lambdas[places[k]]) / counts[k]);
      rest -= parts[k] * counts[k];
    }
    for (let k = 2; k <= ngram; k++) parts[k] += parts[k - 1];
    for (const { next, size } of this.matches) fromNgrams[next] += parts[size];
    return rest;
  }

  /** 8.1: make the unit vector of the state of the prediction, this.now. */
  makeState(lane) {
    const { now, head, state } = this;
    const at = lane * 2 * head.pairs;
    for (let i = 0; i < state.length; i++) {
      const scale = head.columnScales[i];
      state[i] = scale ? head.inputs[at + i] / scale : 0;
    }
    const most = largestMagnitude(state);
    const scale = most ? powerOfTwo(20 - exponentAbove(most)) : 0;
    let squares = 0;
    for (let i = 0; i < state.length; i++) {
      state[i] = rint(state[i] * scale);
      squares += state[i] * state[i];
    }
    const root = Math.sqrt(squares) || 1;
    for (let i = 0; i < state.length; i++) now[i] = rint((state[i] * 1024) / root);
  }

  /** How many states are weighed. */
  seen() { return Math.min(this.cacheSize, this.length); }

  /** 8.1 and 8.3: weigh the states that led to the last tokens; returns what is left of `rest`. */
  askCache(lane, rest) {
    const { weights, lambdas, places, likeness, head, stateTokens } = this;
    this.makeState(lane);
    const seen = this.seen();
    if (seen === 0) return rest;
    const { kernels } = this.arena;
    const { pairs } = head;
    kernels.dots(this.states, pairs, pairs, seen, this.now, 0, 1, likeness, 0);
    let [largest, total] = [-(2 ** 31), 0];
    for (let j = 0; j < seen; j++) if (likeness[j] > largest) largest = likeness[j];
    for (let j = 0; j < seen; j++) {
      const s = (largest - likeness[j]) >> 9;
      weights[j] = s < 1024 ? cacheWeights[s] : 0;
      total += weights[j];
    }
    places[0] = 3 * clamp((largest >> 16) - 8, 0, 7) + Math.min(total >> 17, 2);
    this.counts[0] = total;
    const factor = Math.floor((timesLambda(rest, lambdas[places[0]]) * 65536) / total);
    for (let j = 0; j < seen; j++) {
      if (weights[j] === 0) continue;
      const part = Math.floor((weights[j] * factor) / 65536);
      this.fromCache[stateTokens[j]] += part;
      rest -= part;
    }
    return rest;
  }

  /** 8.4: learn the token that was coded; q is the network's frequency. */
  learn(token, q) {
    const { counts, places, lambdas, matches, stateTokens, weights } = this;
    const right = [0, 0, 0, 0, 0]; // c_k
    for (const { next, size } of matches) {
      for (let k = 1; next === token && k <= size; k++) right[k]++;
    }
    for (let j = 0; j < this.seen(); j++) if (stateTokens[j] === token) right[0] += weights[j];
    const used = Array.from(counts.keys()).filter((k) => counts[k]);
    const r = used.map((k) => {
      const lambda = lambdas[places[k]];
      const p = timesLambda(quotient(TOTAL, right[k], counts[k]), lambda);
      q = Math.max(p + timesLambda(q, LAMBDA_ONE - lambda), 1);
      return Math.floor((p * LAMBDA_ONE) / q);
    });
    let s = LAMBDA_ONE;
    for (let i = used.length - 1; i >= 0; i--) {
      const place = places[used[i]];
      const moved = lambdas[place] + Math.floor((s * (r[i] - lambdas[place])) / 2 ** 27);
      lambdas[place] = clamp(moved, 2 ** 8, LAMBDA_ONE - 2 ** 14);
      s = timesLambda(s, LAMBDA_ONE - r[i]);
    }
    this.remember(token);
  }

  /** Append a token to the document; a BOS begins another one. */
  remember(token) {
    const { cacheSize, head, state, now, states } = this;
    const position = this.length++;
    this.tokens[position % REACH] = token;
    this.sameBefore[position % REACH] = this.lastPlace[token];
    this.lastPlace[token] = position;
    const slot = cacheSize ? position % cacheSize : 0;
    this.stateTokens[slot] = token;
    for (let i = 0; i < state.length; i++) states[placeInBlocks(head.pairs, slot, i)] = now[i];
    if (token !== this.bos) return;
    this.length = 0;
    this.lastPlace.fill(-1);
  }
}
