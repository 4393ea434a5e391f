// Frequencies (exact.md, section 7): what the range coder takes. They are cumulative, out of 2^30; a decoder
// needs them at a few symbols only, so sums of masses are kept and the rest is computed on demand.
import { POWER_FRACTIONS, lookUp } from "./fixed_point.mjs";

const TOTAL = 2 ** 30;

/** Write sums of masses before each symbol to sums[at] ... sums[at + V], from a lane's product of the head. */
export function sumMasses(table, head, lane, scale, logits, sums, at) {
  const vocabulary = head.rows;
  const first = lane * head.capacity;
  let largest = -(2 ** 31);
  for (let i = 0; i < vocabulary; i++) {
    const t = Math.fround(Math.fround(Math.fround(head.sums[first + i]) * head.rowScales[i]) * scale);
    const z = lookUp(table, t);
    logits[i] = z;
    if (z > largest) largest = z;
  }
  let sum = 0;
  for (let i = 0; i < vocabulary; i++) {
    const d = largest - logits[i];
    sums[at + i] = sum;
    sum += (POWER_FRACTIONS[d & 4095] << 14) >> Math.min(d >> 12, 31);
  }
  sums[at + vocabulary] = sum;
}

/** Return ⌊a · b / 2^30⌋ for a, b up to 2^30. */
function timesShare(a, b) {
  const high = Math.floor(a / 32768) * b;
  return Math.floor((high + Math.floor(((a % 32768) * b) / 32768)) / 32768);
}

/**
 * The frequencies of one prediction: sums of masses, and what the document memory adds (section 8.3).
 * `additions` are sums, before each symbol, of what it adds, or null; `rest` is what it leaves to the network.
 */
export class Distribution {
  constructor(vocabulary) {
    this.vocabulary = vocabulary;
  }

  /** Take up sums[at] ... sums[at + V] and additions at the same places. */
  set(sums, additions, at, rest) {
    const total = sums[at + this.vocabulary];
    Object.assign(this, { sums, additions, at, rest });
    // ⌊(2^30 - V) · 2^32 / C⌋ in two halves
    const factor = Number((BigInt(TOTAL - this.vocabulary) << 32n) / BigInt(total));
    this.factorHigh = Math.floor(factor / 65536);
    this.factorLow = factor % 65536;
    return this;
  }

  /** Return c_i, the network's cumulative frequency: ⌊C_i · factor / 2^32⌋ + i. */
  network(symbol) {
    if (symbol === this.vocabulary) return TOTAL;
    const sum = this.sums[this.at + symbol];
    const high = Math.floor(sum / 2 ** 23);
    const low = sum - high * 2 ** 23;
    const lowProduct = high * this.factorLow * 128 + Math.floor((low * this.factorLow) / 65536);
    return Math.floor((sum * this.factorHigh + lowProduct) / 65536) + symbol;
  }

  /** Return the cumulative frequency before a symbol (8.3). */
  cumulative(symbol) {
    const own = this.network(symbol);
    if (this.additions === null || symbol === this.vocabulary) return own;
    return symbol + timesShare(own - symbol, this.rest) + this.additions[this.at + symbol];
  }

  /** Return the symbol whose frequencies hold this place in [0, 2^30). */
  find(place) {
    let low = 0;
    let high = this.vocabulary;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (this.cumulative(middle) <= place) low = middle;
      else high = middle;
    }
    return low;
  }
  /** Return the symbols of the greatest frequencies, the greatest first. */
  likeliest(count) {
    const { sums, additions, at, vocabulary } = this;
    const factor = additions ? (this.rest / TOTAL) * (TOTAL / sums[at + vocabulary]) : 1;
    const symbols = new Array(count).fill(-1);
    const sizes = new Array(count).fill(-1);
    for (let i = 0; i < vocabulary; i++) {
      let size = (sums[at + i + 1] - sums[at + i]) * factor;
      if (additions) size += additions[at + i + 1] - additions[at + i];
      if (size <= sizes[count - 1]) continue;
      let rank = count - 1;
      for (; rank > 0 && size > sizes[rank - 1]; rank--) {
        sizes[rank] = sizes[rank - 1];
        symbols[rank] = symbols[rank - 1];
      }
      sizes[rank] = size;
      symbols[rank] = i;
    }
    return symbols;
  }
}
