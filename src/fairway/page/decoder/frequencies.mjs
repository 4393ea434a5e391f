// Frequencies (exact.md, section 7): cumulative, out of 2^30. A decoder needs them at a few symbols only, so sums of
// masses are kept, and the rest is computed on demand.
import { POWER_FRACTIONS, lookUp } from "./fixed_point.mjs";

const TOTAL = 2 ** 30;

/** Write the sums of masses before each symbol, Float64Array [V + 1], from the head's products (overwritten). */
export function sumMasses(table, products, sums) {
  const vocabulary = products.length;
  let largest = -(2 ** 31);
  for (let i = 0; i < vocabulary; i++) {
    const z = (products[i] = lookUp(table, products[i]));
    if (z > largest) largest = z;
  }
  let sum = 0;
  for (let i = 0; i < vocabulary; i++) {
    sums[i] = sum;
    const d = largest - products[i];
    sum += d < 131072 ? (POWER_FRACTIONS[d & 4095] << 14) >> (d >> 12) : 0;
  }
  sums[vocabulary] = sum;
}

/** Return ⌊a · b / 2^30⌋ for a, b up to 2^30. */
function timesShare(a, b) {
  const low = Math.floor(((a % 32768) * b) / 32768);
  return Math.floor((Math.floor(a / 32768) * b + low) / 32768);
}

/**
 * The frequencies of one prediction: sums of masses, what the document memory adds (section 8.3): `additions`, sums of
 * it before each symbol, and `rest`, what it leaves to the network: 2^30 where there is no memory.
 */
export class Distribution {
  constructor(sums, additions, rest) {
    const vocabulary = sums.length - 1;
    // ⌊(2^30 - V) · 2^32 / C⌋ in two halves
    const factor = Number((BigInt(TOTAL - vocabulary) << 32n) / BigInt(sums[vocabulary]));
    Object.assign(this, { sums, additions, rest, vocabulary });
    [this.factorHigh, this.factorLow] = [Math.floor(factor / 65536), factor % 65536];
  }

  /** Return c_i, the network's cumulative frequency: ⌊C_i · factor / 2^32⌋ + i. */
  network(symbol) {
    if (symbol === this.vocabulary) return TOTAL;
    const sum = this.sums[symbol], high = Math.floor(sum / 2 ** 23);
    const low = high * this.factorLow * 128 + Math.floor(((sum - high * 2 ** 23) * this.factorLow) / 65536);
    return Math.floor((sum * this.factorHigh + low) / 65536) + symbol;
  }

  /** Return the cumulative frequency before a symbol (8.3). */
  cumulative(symbol) {
    const own = this.network(symbol);
    if (symbol === this.vocabulary) return own;
    return symbol + timesShare(own - symbol, this.rest) + this.additions[symbol];
  }

  frequency(symbol) { return this.cumulative(symbol + 1) - this.cumulative(symbol); }

  /** Return the symbol whose frequencies hold this place in [0, 2^30). */
  find(place) {
    let [low, high] = [0, this.vocabulary];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (this.cumulative(middle) <= place) low = middle;
      else high = middle;
    }
    return low;
  }

  /** Return the symbols of the greatest frequencies, the greatest first, equal ones by their number. */
  likeliest(count) {
    const { sums, additions, vocabulary } = this;
    const factor = this.rest / sums[vocabulary];
    const found = Array.from({ length: count }, () => ({ symbol: 0, size: -1 }));
    for (let i = 0; i < vocabulary; i++) {
      const size = (sums[i + 1] - sums[i]) * factor + additions[i + 1] - additions[i];
      if (size <= found[count - 1].size) continue;
      found.splice(found.findIndex((other) => other.size < size), 0, { symbol: i, size }); found.length = count;
    }
    const byFrequency = (a, b) => this.frequency(b) - this.frequency(a) || a - b;
    return found.map(({ symbol }) => symbol).sort(byFrequency);
  }
}
