// Frequencies (exact.md, section 7): cumulative, out of 2^30.
import { POWER_FRACTIONS, lookUp } from "./fixed_point.mjs";
import { quotient } from "./integer_math.mjs";

/** All frequencies sum to this. */
export const TOTAL = 2 ** 30;

/** Write c_0 to c_V, Uint32Array, from section 7's table and the head's products (overwritten). */
export function cumulate(table, products, cumulative) {
  const vocabulary = products.length;
  const before = new Float64Array(vocabulary + 1); // C_i
  let largest = -(2 ** 31);
  for (let i = 0; i < vocabulary; i++) {
    products[i] = lookUp(table, products[i]);
    if (products[i] > largest) largest = products[i];
  }
  for (let i = 0; i < vocabulary; i++) {
    const d = largest - products[i];
    before[i + 1] = before[i] + ((POWER_FRACTIONS[d & 4095] << 14) >> Math.min(d >> 12, 31));
  }
  const factor = quotient(TOTAL - vocabulary, 2 ** 32, before[vocabulary]);
  for (let i = 0; i < vocabulary; i++) cumulative[i] = quotient(before[i], factor, 2 ** 32) + i;
  cumulative[vocabulary] = TOTAL;
}

/** Return the symbol whose frequencies hold this place in [0, 2^30). */
export function symbolAt(cumulative, place) {
  let [low, high] = [0, cumulative.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (cumulative[middle] <= place) low = middle;
    else high = middle;
  }
  return low;
}

/** Return the symbols of the greatest frequencies, the greatest first, equal ones by number. */
export function likeliest(cumulative, count) {
  const found = new Array(count).fill({ symbol: 0, size: -1 });
  for (let symbol = 0; symbol < cumulative.length - 1; symbol++) {
    const size = cumulative[symbol + 1] - cumulative[symbol];
    if (size <= found[count - 1].size) continue;
    found.splice(found.findIndex((other) => other.size < size), 0, { symbol, size });
    found.pop();
  }
  return found.map(({ symbol }) => symbol);
}
