// Operations of exact arithmetic (exact.md, section 1): float32 products, roundings, integer sums.
// A float32 product is Math.fround(a * b), or a * b stored in a Float32Array: the double product is exact.

const MAGIC = 1.5 * 2 ** 52;
const floatView = new Float32Array(1);
const bitsView = new Int32Array(floatView.buffer);

/** Round to the nearest integer, ties to even, for |t| < 2^51. */
export function rint(t) {
  return t + MAGIC - MAGIC;
}

/** 1.2: round a float32 to an integer, saturated at ±2^28. */
export function fixed(t) {
  return rint(Math.min(Math.max(t, -(2 ** 28)), 2 ** 28));
}

/** Return the bits of a float32 number. */
export function floatBits(number) {
  floatView[0] = number;
  return bitsView[0];
}

/** Return the largest magnitude among array[start] ... array[stop - 1]. */
export function largestMagnitude(array, start, stop) {
  let most = 0;
  for (let i = start; i < stop; i++) {
    const magnitude = Math.abs(array[i]);
    if (magnitude > most) most = magnitude;
  }
  return most;
}

const POWERS = Float64Array.from({ length: 601 }, (_, i) => 2 ** (i - 300));

/** Return 2^e for |e| <= 300. */
export function powerOfTwo(e) {
  return POWERS[e + 300];
}

/** 1.1: add the float32 row `t` to integers x[start] ... of exponent e; returns the new exponent. */
export function addToStream(x, start, e, t) {
  const count = t.length;
  const most = Math.min(largestMagnitude(t, 0, count), 2 ** 100);
  if (most === 0) return e;
  const above = (floatBits(most) >> 23) - 126; // 2^above is the least power of two above
  let exponent = Math.max(e, above - 28);
  const shift = Math.min(exponent - e, 31);
  const half = shift ? 2 ** (shift - 1) : 0;
  const scale = powerOfTwo(-exponent);
  let largest = 0;
  for (let i = 0; i < count; i++) {
    const term = Math.min(Math.max(t[i], -(2 ** 100)), 2 ** 100);
    const sum = ((x[start + i] + half) >> shift) + rint(term * scale);
    x[start + i] = sum;
    largest = Math.max(largest, Math.abs(sum));
  }
  if (largest > 2 ** 28) {
    for (let i = start; i < start + count; i++) x[i] = (x[i] + 1) >> 1;
    exponent += 1;
  }
  return exponent;
}

/** 1.5: return 1 / the root mean square of integers x[start] ... x[stop - 1], a float32 number. */
export function inverseRootMeanSquare(x, start, stop) {
  const shift = Math.max(32 - Math.clz32(largestMagnitude(x, start, stop)) - 24, 0);
  // Squares are below 2^48: sums of 16 are exact doubles, and are added in two parts.
  let high = 0;
  let low = 0;
  for (let i = start; i < stop; ) {
    let sum = 0;
    for (const end = Math.min(i + 16, stop); i < end; i++) {
      const y = x[i] >> shift;
      sum += y * y;
    }
    const top = Math.floor(sum / 2 ** 26);
    high += top;
    low += sum - top * 2 ** 26;
  }
  const count = stop - start;
  const quotient = Math.floor(high / count);
  const mean = Math.max(quotient * 2 ** 26 + Math.floor(((high - quotient * count) * 2 ** 26 + low) / count), 1);
  const bits = mean < 2 ** 32 ? 32 - Math.clz32(mean) : 64 - Math.clz32(mean / 2 ** 32);
  const t = (52 - bits) >> 1;
  const root = Math.floor(Math.sqrt(mean * powerOfTwo(2 * t)));
  return Math.fround(Math.floor(2 ** 50 / root)) * powerOfTwo(t - 50 - shift);
}

/** 1.6: 2^-f · 2^16 for the fraction bits f of an exponent, f < 4096. */
export const POWER_FRACTIONS = Int32Array.from({ length: 4096 }, (_, f) => {
  const inner = 15110 - ((f * 2565) >> 12);
  const middle = 45313 - ((f * inner) >> 12);
  return 65536 - ((f * middle) >> 12);
});

/** 1.7 and 7: look a float32 t, in steps of 2^-16, up in a table at multiples of 1/512. */
export function lookUp(table, t) {
  const u = rint(Math.min(Math.max(t, 1 - 2 ** 19), 2 ** 19 - 1));
  const magnitude = Math.abs(u);
  const index = magnitude >> 7;
  const value = table[index] + (((table[index + 1] - table[index]) * (magnitude & 127) + 64) >> 7);
  return u < 0 ? -value : value;
}
