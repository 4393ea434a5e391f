// Document memory (exact.md, section 8): what a lane's document said before, mixed into the frequencies.
import { floatBits, largestMagnitude, powerOfTwo, rint } from "./fixed_point.mjs";
import { capacityFor, placeInPairs } from "./kernels.mjs";
import { makeCacheWeights } from "./integer_math.mjs";

const NGRAM_REACH = 16384; // tokens of the document that n-grams are looked for in
const LAMBDAS = 24;
const ONE_LAMBDA = 2 ** 20;
// The table of section 8, in thousandths: λ[k][b] for k = 0 (neural cache) to 4.
const LAMBDA_TABLE = [
  [0, 3, 5, 4, 6, 6, 6, 6, 11, 16, 8, 21, 30, 17, 35, 91, 50, 63, 155, 90, 98, 190, 134, 178],
  [17, 0, 0, 141, 7, 0, 270, 59, 3, 382, 90, 11, 388, 159, 7, 378, 161, 22, 338, 186, 8, 642, 431, 27],
  [82, 0, 0, 345, 35, 0, 633, 145, 38, 697, 336, 51, 664, 455, 51, 650, 261, 76, 526, 264, 45, 893, 700, 85],
  [124, 0, 0, 349, 53, 0, 535, 127, 16, 488, 177, 24, 419, 240, 38, 364, 150, 62, 297, 150, 51, 427, 172, 90],
  [195, 0, 0, 440, 51, 0, 390, 136, 24, 310, 127, 54, 265, 165, 51, 201, 152, 40, 160, 116, 80, 198, 152, 21],
];

/** Return ⌊a · 2^30 / b⌋ for 0 <= a <= b < 2^30. */
function ratio(a, b) {
  const high = Math.floor((a * 32768) / b);
  return high * 32768 + Math.floor(((a * 32768 - high * b) * 32768) / b);
}

/** The memories of all lanes. A lane's prediction is kept until `learn` tells it the token. */
export class DocumentMemory {
  constructor(arena, recipe, vocabulary, bos, head, lanes) {
    const { ngram, neural_cache } = recipe;
    Object.assign(this, { ngram, cacheSize: neural_cache, vocabulary, bos, head });
    this.lambdas = Int32Array.from({ length: lanes * (ngram + 1) * LAMBDAS }, (_, i) => {
      const k = Math.floor(i / LAMBDAS) % (ngram + 1);
      return Math.floor((LAMBDA_TABLE[k][i % LAMBDAS] * ONE_LAMBDA) / 1000);
    });
    // The documents so far: tokens and the position before with the same token, rings.
    this.lengths = new Int32Array(lanes);
    this.history = ngram ? new Uint16Array(lanes * NGRAM_REACH) : null;
    this.sameBefore = ngram ? new Int32Array(lanes * NGRAM_REACH) : null;
    this.lastPlace = ngram ? new Int32Array(lanes * vocabulary).fill(-1) : null;
    this.matches = new Int32Array(1024); // pairs of the token after a match and its length, of all lanes
    this.matchEnd = 0;
    this.longest = new Uint8Array(vocabulary);
    this.gains = new Float64Array(vocabulary);
    this.capacity = capacityFor(neural_cache);
    this.stateSize = this.capacity * 2 * head.pairs;
    this.cacheTokens = new Uint16Array(lanes * neural_cache);
    this.cacheWeights = new Int32Array(lanes * neural_cache);
    arena.reserve(this, "states", Int16Array, lanes * this.stateSize);
    arena.reserve(this, "now", Int16Array, lanes * 2 * head.pairs);
    arena.reserve(this, "likeness", Int32Array, this.capacity);
    this.weightTable = neural_cache ? makeCacheWeights() : null;
    this.predictions = Array.from({ length: lanes }, () => ({
      firstMatch: 0,
      stopMatch: 0,
      counts: new Int32Array(ngram + 1), // n_k; n_0 is Z
      buckets: new Int32Array(ngram + 1), // b_k
      added: new Float64Array(ngram + 1), // u_1 + ... + u_k
      share: 0, // f
      rest: 0,
    }));
  }

  /** Begin a step: the lanes' predictions before are done with. */
  beginStep() {
    this.matchEnd = 0;
  }

  /** 8.1 to 8.3: write the sums of additions before each symbol to additions[at] ...; returns `rest`. */
  predict(kernels, lane, additions, at) {
    const prediction = this.predictions[lane];
    const { counts, buckets, added } = prediction;
    const { gains, ngram, vocabulary } = this;
    const lambdaAt = lane * (ngram + 1) * LAMBDAS;
    counts.fill(0);
    prediction.rest = 2 ** 30 - vocabulary;
    prediction.firstMatch = prediction.stopMatch = this.matchEnd;
    if (ngram) this.findMatches(lane, prediction);
    for (let k = ngram; k >= 1; k--) {
      added[k] = 0;
      if (counts[k] === 0) continue;
      const lambda = this.lambdas[lambdaAt + k * LAMBDAS + buckets[k]];
      added[k] = Math.floor(Math.floor((prediction.rest * lambda) / ONE_LAMBDA) / counts[k]);
      prediction.rest -= added[k] * counts[k];
    }
    for (let k = 2; k <= ngram; k++) added[k] += added[k - 1];
    for (let i = prediction.firstMatch; i < prediction.stopMatch; i += 2) gains[this.matches[i]] += added[this.matches[i + 1]];
    if (this.cacheSize) this.predictFromCache(kernels, lane, prediction, lambdaAt);
    let sum = 0;
    for (let i = 0; i < vocabulary; i++) {
      additions[at + i] = sum;
      sum += gains[i];
      gains[i] = 0;
    }
    additions[at + vocabulary] = sum;
    return prediction.rest;
  }

  /** 8.2: list the matches, and count them and the different tokens after them. */
  findMatches(lane, prediction) {
    const { ngram, history, sameBefore, longest } = this;
    const { counts, buckets } = prediction;
    const ring = lane * NGRAM_REACH;
    const token = (position) => history[ring + (position % NGRAM_REACH)];
    const last = this.lengths[lane] - 1;
    if (last < 0) return;
    const least = Math.max(0, last + 1 - NGRAM_REACH);
    let end = this.matchEnd;
    for (let j = sameBefore[ring + (last % NGRAM_REACH)]; j >= least; j = sameBefore[ring + (j % NGRAM_REACH)]) {
      let length = 1;
      while (length < ngram && j - length >= least && token(j - length) === token(last - length)) length++;
      if (end + 2 > this.matches.length) {
        const larger = new Int32Array(2 * this.matches.length);
        larger.set(this.matches);
        this.matches = larger;
      }
      this.matches[end++] = token(j + 1);
      this.matches[end++] = length;
    }
    prediction.stopMatch = this.matchEnd = end;
    const different = new Int32Array(ngram + 1);
    for (let i = prediction.firstMatch; i < end; i += 2) {
      const next = this.matches[i];
      const length = this.matches[i + 1];
      for (let k = 1; k <= length; k++) counts[k]++;
      for (let k = longest[next] + 1; k <= length; k++) different[k]++;
      longest[next] = Math.max(longest[next], length);
    }
    for (let i = prediction.firstMatch; i < end; i += 2) longest[this.matches[i]] = 0;
    for (let k = 1; k <= ngram; k++) buckets[k] = 3 * Math.min(counts[k], 8) + Math.min(different[k], 3) - 4;
  }

  /** 8.1: the unit vector of the state of the lane's prediction, to this.now[at] ... */
  makeState(lane) {
    const { head, now } = this;
    const { columns, columnScales, inputs } = head;
    const at = lane * 2 * head.pairs;
    const state = new Float32Array(columns);
    for (let i = 0; i < columns; i++) {
      state[i] = columnScales[i] ? inputs[at + i] / columnScales[i] : 0;
    }
    const most = largestMagnitude(state, 0, columns);
    now.fill(0, at, at + columns);
    if (most === 0) return;
    const scale = powerOfTwo(20 - ((floatBits(most) >> 23) - 126));
    let squares = 0;
    for (let i = 0; i < columns; i++) {
      state[i] = rint(state[i] * scale);
      squares += state[i] * state[i];
    }
    const root = Math.sqrt(squares);
    for (let i = 0; i < columns; i++) now[at + i] = rint((state[i] * 1024) / root);
  }

  /** 8.1 and 8.3: weigh the states that led to the last tokens. */
  predictFromCache(kernels, lane, prediction, lambdaAt) {
    const { cacheSize, likeness, cacheWeights, cacheTokens, weightTable, gains, head, capacity } = this;
    this.makeState(lane);
    const seen = Math.min(cacheSize, this.lengths[lane]);
    if (seen === 0) return;
    const first = lane * cacheSize;
    const [states, now] = [lane * this.stateSize, lane * 2 * head.pairs];
    kernels.dots(this.states, states, capacity, seen, this.now, now, 1, head.pairs, likeness, 0, capacity);
    let largest = likeness[0];
    for (let j = 1; j < seen; j++) if (likeness[j] > largest) largest = likeness[j];
    let total = 0;
    for (let j = 0; j < seen; j++) {
      const distance = (largest - likeness[j]) >> 9;
      const weight = distance < 1024 ? weightTable[distance] : 0;
      cacheWeights[first + j] = weight;
      total += weight;
    }
    const bucket = 3 * Math.min(Math.max((largest >> 16) - 8, 0), 7) + Math.min(total >> 17, 2);
    const lambda = this.lambdas[lambdaAt + bucket];
    const share = Math.floor((Math.floor((prediction.rest * lambda) / ONE_LAMBDA) * 65536) / total);
    for (let j = 0; j < seen; j++) {
      const gain = Math.floor((cacheWeights[first + j] * share) / 65536);
      gains[cacheTokens[first + j]] += gain;
      prediction.rest -= gain;
    }
    prediction.counts[0] = total;
    prediction.buckets[0] = bucket;
    prediction.share = share;
  }

  /** Return what the n-grams and the neural cache added to a token: [number, number]. */
  additionsTo(lane, token) {
    const { firstMatch, stopMatch, added, counts, share } = this.predictions[lane];
    let fromNgrams = 0;
    for (let i = firstMatch; i < stopMatch; i += 2) if (this.matches[i] === token) fromNgrams += added[this.matches[i + 1]];
    let fromCache = 0;
    const first = lane * this.cacheSize;
    const stop = counts[0] ? first + Math.min(this.cacheSize, this.lengths[lane]) : first;
    for (let j = first; j < stop; j++) {
      if (this.cacheTokens[j] === token) fromCache += Math.floor((this.cacheWeights[j] * share) / 65536);
    }
    return [fromNgrams, fromCache];
  }

  /** 8.4: learn the token that was coded; `frequency` is the network's. */
  learn(lane, token, frequency) {
    const { ngram, lambdas, cacheSize } = this;
    const { firstMatch, stopMatch, counts, buckets } = this.predictions[lane];
    const right = new Float64Array(ngram + 1); // c_k
    for (let i = firstMatch; i < stopMatch; i += 2) {
      if (this.matches[i] === token) for (let k = 1; k <= this.matches[i + 1]; k++) right[k]++;
    }
    if (counts[0]) {
      const first = lane * cacheSize;
      const seen = Math.min(cacheSize, this.lengths[lane]);
      for (let j = first; j < first + seen; j++) if (this.cacheTokens[j] === token) right[0] += this.cacheWeights[j];
    }
    const lambdaAt = lane * (ngram + 1) * LAMBDAS;
    const shares = new Float64Array(ngram + 1); // r_k
    let q = frequency;
    for (let k = 0; k <= ngram; k++) {
      if (counts[k] === 0) continue;
      const lambda = lambdas[lambdaAt + k * LAMBDAS + buckets[k]];
      const p = Math.floor((lambda * ratio(right[k], counts[k])) / ONE_LAMBDA);
      q = Math.max(p + Math.floor((q * (ONE_LAMBDA - lambda)) / ONE_LAMBDA), 1);
      shares[k] = Math.floor((p * ONE_LAMBDA) / q);
    }
    let s = ONE_LAMBDA;
    for (let k = ngram; k >= 0; k--) {
      if (counts[k] === 0) continue;
      const at = lambdaAt + k * LAMBDAS + buckets[k];
      const moved = lambdas[at] + Math.floor((s * (shares[k] - lambdas[at])) / 2 ** 27);
      lambdas[at] = Math.min(Math.max(moved, 2 ** 8), ONE_LAMBDA - 2 ** 14);
      s = Math.floor((s * (ONE_LAMBDA - shares[k])) / ONE_LAMBDA);
    }
    this.remember(lane, token);
  }

  /** Append a token to the lane's document; a BOS begins another one. */
  remember(lane, token) {
    const { ngram, cacheSize, vocabulary, head } = this;
    const position = this.lengths[lane];
    if (token === this.bos) {
      this.lengths[lane] = 0;
      this.lastPlace?.fill(-1, lane * vocabulary, (lane + 1) * vocabulary);
      return;
    }
    if (ngram) {
      const place = lane * NGRAM_REACH + (position % NGRAM_REACH);
      this.history[place] = token;
      this.sameBefore[place] = this.lastPlace[lane * vocabulary + token];
      this.lastPlace[lane * vocabulary + token] = position;
    }
    if (cacheSize) {
      const slot = lane * cacheSize + (position % cacheSize);
      this.cacheTokens[slot] = token;
      const now = lane * 2 * head.pairs;
      for (let i = 0; i < head.columns; i++) {
        this.states[lane * this.stateSize + placeInPairs(this.capacity, position % cacheSize, i)] = this.now[now + i];
      }
    }
    this.lengths[lane] = position + 1;
  }
}
