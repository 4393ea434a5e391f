// Operations of exact arithmetic (exact.md, section 1): float32 products, roundings, integer sums.
// A float32 product is Math.fround(a * b), or a * b stored in a Float32Array: the double is exact.

const MAGIC = 1.5 * 2 ** 52;
const FLOAT = new Float32Array(1);
const FLOAT_BITS = new Int32Array(FLOAT.buffer);
const POWERS = Float64Array.from({ length: 601 }, (_, i) => 2 ** (i - 300));

/** Return 2^e for |e| <= 300. */
export const powerOfTwo = (e) => POWERS[e + 300];
export const clamp = (x, least, most) => (x < least ? least : x > most ? most : x);
/** Round to the nearest integer, ties to even, for |t| < 2^51. */
export const rint = (t) => t + MAGIC - MAGIC;
/** 1.2: round a float32 to an integer, saturated at ±2^28. */
export const fixed = (t) => rint(clamp(t, -(2 ** 28), 2 ** 28));

/** Return the bits of a float32 number. */
export function floatBits(number) {
  FLOAT[0] = number;
  return FLOAT_BITS[0];
}

/** Return the exponent E of the least power of two above a positive float32 number. */
export const exponentAbove = (number) => (floatBits(number) >> 23) - 126;

/** Return the largest magnitude of a Float32Array. */
export function largestMagnitude(array) {
  let most = 0;
  for (let i = 0; i < array.length; i++) {
    const magnitude = Math.abs(array[i]);
    if (magnitude > most) most = magnitude;
  }
  return most;
}

/** 1.3: return what the largest input m says: s for codes up to A, and the token_scale. */
export function inputScale(m, largestCode) {
  const bits = floatBits(m);
  const eighths = 9 + ((bits >> 20) & 7);
  const power = powerOfTwo((bits >> 23) - 127);
  const scale = Math.fround((largestCode * 8) / eighths) / power;
  return [scale, Math.fround(eighths / (8 * largestCode)) * power];
}

/** 1.5: return 1/rms(x) of integers, Int32Array, a float32 number. */
export function inverseRms(x) {
  const count = x.length;
  let allBits = 0;
  for (let i = 0; i < count; i++) allBits |= Math.abs(x[i]);
  const shift = Math.max(32 - Math.clz32(allBits) - 24, 0);
  // Squares are below 2^48: sums of 16 are exact doubles, and are added in two parts.
  let [high, low] = [0, 0];
  for (let i = 0; i < count; ) {
    let sum = 0;
    for (const end = Math.min(i + 16, count); i < end; i++) {
      const y = x[i] >> shift;
      sum += y * y;
    }
    const top = Math.floor(sum / 2 ** 26);
    high += top;
    low += sum - top * 2 ** 26;
  }
  const quotient = Math.floor(high / count);
  const rest = (high - quotient * count) * 2 ** 26 + low;
  const mean = Math.max(quotient * 2 ** 26 + Math.floor(rest / count), 1);
  const bits = mean < 2 ** 32 ? 32 - Math.clz32(mean) : 64 - Math.clz32(mean / 2 ** 32);
  const t = (52 - bits) >> 1;
  const root = Math.floor(Math.sqrt(mean * powerOfTwo(2 * t)));
  return Math.fround(Math.floor(2 ** 50 / root)) * powerOfTwo(t - 50 - shift);
}

/** 1.6: power(d) for the fraction bits of d. */
export const POWER_FRACTIONS = Int32Array.from({ length: 4096 }, (_, f) => {
  const inner = 15110 - ((f * 2565) >> 12);
  return 65536 - ((f * (45313 - ((f * inner) >> 12))) >> 12);
});

/** 1.7: look a float32 t, in steps of 2^-16, up in a table at multiples of 1/512. */
export function lookUp(table, t) {
  const u = rint(clamp(t, 1 - 2 ** 19, 2 ** 19 - 1));
  const magnitude = Math.abs(u);
  const i = magnitude >> 7;
  const value = table[i] + (((table[i + 1] - table[i]) * (magnitude & 127) + 64) >> 7);
  return u < 0 ? -value : value;
}

/** 1.1: a row of the residual stream, integers x with an exponent e. */
export class Stream {
  constructor(dim) { Object.assign(this, { x: new Int32Array(dim), e: 0 }); }

  set({ x, e }) {
    this.x.set(x);
    this.e = e;
  }

  /** Add a float32 row. */
  add(t) {
    const { x } = this;
    const most = Math.min(largestMagnitude(t), 2 ** 100);
    if (most === 0) return;
    const e = Math.max(this.e, exponentAbove(most) - 28);
    const shift = Math.min(e - this.e, 31);
    const [half, scale] = [shift ? 2 ** (shift - 1) : 0, powerOfTwo(-e)];
    let isOver = false;
    for (let i = 0; i < x.length; i++) {
      const added = rint(clamp(t[i], -(2 ** 100), 2 ** 100) * scale);
      const sum = ((x[i] + half) >> shift) + added;
      x[i] = sum;
      isOver ||= sum > 2 ** 28 || sum < -(2 ** 28);
    }
    for (let i = 0; isOver && i < x.length; i++) x[i] = (x[i] + 1) >> 1;
    this.e = isOver ? e + 1 : e;
  }
}
