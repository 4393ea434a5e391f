// Document memory (exact.md, section 8): what a lane's document said before, mixed into the frequencies.
import { clamp, exponentAbove, largestMagnitude, powerOfTwo, rint } from "./fixed_point.mjs";
import { makeCacheWeights } from "./integer_math.mjs";
import { capacityFor, placeInBlocks } from "./kernels.mjs";

const FREQUENCIES = 2 ** 30;
const REACH = 16384; // tokens of the document that n-grams are looked for in
const BUCKETS = 24;
const LAMBDA_ONE = 2 ** 20;
// The table of section 8, in thousandths: λ[k][b] for k = 0 (neural cache) to 4.
const LAMBDA_TABLE = [
  [0, 3, 5, 4, 6, 6, 6, 6, 11, 16, 8, 21, 30, 17, 35, 91, 50, 63, 155, 90, 98, 190, 134, 178],
  [17, 0, 0, 141, 7, 0, 270, 59, 3, 382, 90, 11, 388, 159, 7, 378, 161, 22, 338, 186, 8, 642, 431, 27],
  [82, 0, 0, 345, 35, 0, 633, 145, 38, 697, 336, 51, 664, 455, 51, 650, 261, 76, 526, 264, 45, 893, 700, 85],
  [124, 0, 0, 349, 53, 0, 535, 127, 16, 488, 177, 24, 419, 240, 38, 364, 150, 62, 297, 150, 51, 427, 172, 90],
  [195, 0, 0, 440, 51, 0, 390, 136, 24, 310, 127, 54, 265, 165, 51, 201, 152, 40, 160, 116, 80, 198, 152, 21],
];
const LAMBDAS = LAMBDA_TABLE.flat().map((thousandths) => Math.floor((thousandths * LAMBDA_ONE) / 1000));

let cacheWeights = null; // the table of 8.1, made when it is needed

/** Return ⌊2^30 · a / b⌋ for 0 <= a <= b < 2^30. */
function ratio(a, b) {
  const high = Math.floor((a * 32768) / b);
  return high * 32768 + Math.floor(((a * 32768 - high * b) * 32768) / b);
}

/** Return ⌊a · λ / 2^20⌋. */
const timesLambda = (a, lambda) => Math.floor((a * lambda) / LAMBDA_ONE);

/** The memory of one lane. A prediction is kept until `learn` tells the token. */
export class LaneMemory {
  constructor(arena, { ngram, neural_cache }, vocabulary, bos, head) {
    Object.assign(this, { ngram, vocabulary, bos, head, cacheSize: neural_cache, capacity: capacityFor(neural_cache) });
    Object.assign(this, { length: 0, matches: [], rest: 0, share: 0, lambdas: Int32Array.from(LAMBDAS) });
    // The document so far: its last tokens and where each stood before, rings; and where each token stood last.
    this.tokens = new Uint16Array(REACH);
    this.sameBefore = new Int32Array(REACH);
    this.lastPlace = new Int32Array(vocabulary).fill(-1);
    // The neural cache: states in pairs (kernels.mjs), their tokens, v · U_j and W_j.
    arena.reserve(this, "states", Int16Array, this.capacity * 2 * head.pairs);
    arena.reserve(this, "now", Int16Array, 2 * head.pairs);
    arena.reserve(this, "likeness", Int32Array, this.capacity);
    this.state = new Float32Array(neural_cache ? head.columns : 0);
    this.stateTokens = new Uint16Array(neural_cache);
    this.weights = new Int32Array(neural_cache);
    if (neural_cache) cacheWeights ??= makeCacheWeights();
    this.counts = new Int32Array(ngram + 1); // n_k; n_0 is Z
    this.buckets = new Int32Array(ngram + 1); // k · 24 + b_k
    this.added = new Float64Array(ngram + 1); // u_1 + ... + u_k
    this.longest = new Uint8Array(vocabulary);
    this.gains = new Float64Array(vocabulary);
  }

  tokenAt(position) { return this.tokens[position % REACH]; }

  /** 8.1 to 8.3: write the sums of additions before each symbol, Float64Array [V + 1]; sets this.rest. */
  predict(kernels, lane, additions) {
    const { counts, buckets, added, lambdas, gains, ngram, vocabulary } = this;
    this.rest = ngram || this.cacheSize ? FREQUENCIES - vocabulary : FREQUENCIES;
    counts.fill(0);
    this.findMatches();
    for (let k = ngram; k >= 1; k--) {
      added[k] = counts[k] ? Math.floor(timesLambda(this.rest, lambdas[buckets[k]]) / counts[k]) : 0;
      this.rest -= added[k] * counts[k];
    }
    for (let k = 2; k <= ngram; k++) added[k] += added[k - 1];
    for (const { next, size } of this.matches) gains[next] += added[size];
    this.askCache(kernels, lane);
    for (let i = 0; i < vocabulary; i++) additions[i + 1] = additions[i] + gains[i];
    gains.fill(0);
  }

  /** 8.2: list the matches, and count them and the different tokens after them. */
  findMatches() {
    const { matches, counts, buckets, length, ngram, longest } = this;
    const last = length - 1, least = Math.max(0, length - REACH);
    matches.length = 0;
    for (let j = ngram && length ? this.sameBefore[last % REACH] : -1; j >= least; j = this.sameBefore[j % REACH]) {
      let size = 1;
      while (size < ngram && j - size >= least && this.tokenAt(j - size) === this.tokenAt(last - size)) size++;
      matches.push({ next: this.tokenAt(j + 1), size });
    }
    const different = [0, 0, 0, 0, 0];
    for (const { next, size } of matches) {
      for (let k = 1; k <= size; k++) counts[k]++;
      for (let k = longest[next] + 1; k <= size; k++) different[k]++;
      longest[next] = Math.max(longest[next], size);
    }
    for (const { next } of matches) longest[next] = 0;
    for (let k = 1; k <= ngram; k++) buckets[k] = BUCKETS * k + 3 * Math.min(counts[k], 8) + Math.min(different[k], 3) - 4;
  }

  /** 8.1: make the unit vector of the state of the prediction, this.now. */
  makeState(lane) {
    const { now, head, state } = this;
    const at = lane * 2 * head.pairs;
    for (let i = 0; i < state.length; i++) state[i] = head.columnScales[i] ? head.inputs[at + i] / head.columnScales[i] : 0;
    const most = largestMagnitude(state), scale = most ? powerOfTwo(20 - exponentAbove(most)) : 0;
    let squares = 0;
    for (let i = 0; i < state.length; i++) squares += (state[i] = rint(state[i] * scale)) ** 2;
    const root = Math.sqrt(squares) || 1;
    for (let i = 0; i < state.length; i++) now[i] = rint((state[i] * 1024) / root);
  }

  /** 8.1 and 8.3: weigh the states that led to the last tokens. */
  askCache(kernels, lane) {
    const { weights, lambdas, buckets, likeness, gains, head, capacity } = this;
    this.makeState(lane);
    const seen = Math.min(this.cacheSize, this.length);
    if (seen === 0) return;
    kernels.dots(this.states, capacity, seen, this.now, 0, 1, head.pairs, likeness);
    let [largest, total] = [likeness[0], 0];
    for (let j = 1; j < seen; j++) if (likeness[j] > largest) largest = likeness[j];
    for (let j = 0; j < seen; j++) {
      const s = (largest - likeness[j]) >> 9;
      weights[j] = s < 1024 ? cacheWeights[s] : 0;
      total += weights[j];
    }
    buckets[0] = 3 * clamp((largest >> 16) - 8, 0, 7) + Math.min(total >> 17, 2);
    this.counts[0] = total;
    this.share = Math.floor((timesLambda(this.rest, lambdas[buckets[0]]) * 65536) / total);
    this.eachOfCache((token, weight) => {
      const gain = Math.floor((weight * this.share) / 65536);
      gains[token] += gain;
      this.rest -= gain;
    });
  }

  /** Call with the token and weight of each state that was weighed. */
  eachOfCache(call) {
    const seen = this.counts[0] ? Math.min(this.cacheSize, this.length) : 0;
    for (let slot = 0; slot < seen; slot++) call(this.stateTokens[slot], this.weights[slot]);
  }

  /** Return c_k of section 8.4 for a token, and what the n-grams and the neural cache added to it. */
  supportOf(token) {
    const right = [0, 0, 0, 0, 0];
    let [fromNgrams, fromCache] = [0, 0];
    for (const { next, size } of this.matches) {
      for (let k = 1; next === token && k <= size; k++) right[k]++;
      if (next === token) fromNgrams += this.added[size];
    }
    this.eachOfCache((cached, weight) => {
      if (cached === token) right[0] += weight;
      if (cached === token) fromCache += Math.floor((weight * this.share) / 65536);
    });
    return { right, fromNgrams, fromCache };
  }

  /** 8.4: learn the token that was coded, from its c_k; q is the network's frequency. */
  learn(token, q, right) {
    const { counts, buckets, lambdas } = this;
    const r = [];
    for (let k = 0; k < counts.length; k++) {
      if (counts[k] === 0) continue;
      const lambda = lambdas[buckets[k]], p = timesLambda(ratio(right[k], counts[k]), lambda);
      q = Math.max(p + timesLambda(q, LAMBDA_ONE - lambda), 1); r[k] = Math.floor((p * LAMBDA_ONE) / q);
    }
    for (let k = counts.length - 1, s = LAMBDA_ONE; k >= 0; k--) {
      if (counts[k] === 0) continue;
      const moved = lambdas[buckets[k]] + Math.floor((s * (r[k] - lambdas[buckets[k]])) / 2 ** 27);
      lambdas[buckets[k]] = clamp(moved, 2 ** 8, LAMBDA_ONE - 2 ** 14); s = timesLambda(s, LAMBDA_ONE - r[k]);
    }
    this.remember(token);
  }

  /** Append a token to the document; a BOS begins another one. */
  remember(token) {
    const { cacheSize, head, state } = this;
    const position = this.length++;
    this.tokens[position % REACH] = token; this.sameBefore[position % REACH] = this.lastPlace[token];
    this.lastPlace[token] = position;
    const slot = cacheSize ? position % cacheSize : 0;
    this.stateTokens[slot] = token;
    for (let i = 0; i < state.length; i++) this.states[placeInBlocks(head.pairs, slot, i)] = this.now[i];
    if (token !== this.bos) return;
    this.length = 0; this.lastPlace.fill(-1);
  }
}
