// Constants from integers (exact.md, section 10; formats.md, "The range coder"), series in BigInt.
// Of Math's functions, only those that IEEE-754 rounds correctly are used anywhere.

const BITS = 120n;
const ONE = 1n << BITS;
const times = (a, b) => (a * b) >> BITS;
const bitLength = (a) => BigInt(a === 0n ? 0 : a.toString(2).length);

/** Return ⌊a / b⌋, b > 0. */
function floorDivide(a, b) { return a / b - (a % b < 0n ? 1n : 0n); }

/** Return ⌊a · b / c⌋, below 2^37: in doubles, unless their error may reach over an integer. */
export function quotient(a, b, c) {
  const close = (a * b) / c;
  const floor = Math.floor(close);
  const fraction = close - floor;
  const isExact = Math.abs(a * b) <= 2 ** 53;
  if (isExact || (fraction > 2 ** -14 && fraction < 1 - 2 ** -14)) return floor;
  return Number(floorDivide(BigInt(a) * BigInt(b), BigInt(c)));
}

/** Return the exact value of a double as [numerator, denominator]. */
function fractionOf(number) {
  let denominator = 1n;
  for (; !Number.isInteger(number); number *= 2) denominator *= 2n;
  return [BigInt(number), denominator];
}

/** Return exp(-a/b), a >= 0. */
function exponential(a, b) {
  if (a > 100n * b) return 0n;
  const squarings = bitLength(a / b) + 8n;
  const y = floorDivide(-a << BITS, b << squarings);
  let [term, sum] = [ONE, ONE];
  for (let i = 1n; i <= 23n; i++) sum += term = floorDivide(times(term, y), i);
  for (let i = 0n; i < squarings; i++) sum = times(sum, sum);
  return sum;
}

/** Return ln(y), a series that converges for y from 1/2 to 1. */
function logarithmSeries(y) {
  const r = floorDivide((y - ONE) << BITS, y + ONE);
  let [t, sum] = [r, 0n];
  for (let k = 1n; k <= 399n && t; k += 2n) {
    sum += floorDivide(t, k);
    t = times(t, times(r, r));
  }
  return 2n * sum;
}

const LN2 = -logarithmSeries(ONE / 2n);

/** Return ln(a/b), a > b. */
function naturalLogarithm(a, b) {
  const o = bitLength(a / b);
  return o * LN2 + logarithmSeries((a << BITS) / (b << o));
}

/** Return arctan(1/n) with 136 fraction bits. */
function inverseArctan(n) {
  let [t, sum] = [(1n << 136n) / n, 0n];
  for (let k = 1n; t; k += 2n) {
    sum += k % 4n === 1n ? t / k : -(t / k);
    t /= n * n;
  }
  return sum;
}

const PI = (4n * (4n * inverseArctan(5n) - inverseArctan(239n))) >> 16n; // Machin's formula

/** log2(e) as the nearest double (exact.md, 5.3). */
export const LOG2_E = Number((ONE << 60n) / LN2) / 2 ** 60;

/** Return [cosines, sines] of n / 2^14 turns in steps of 2^-14, Int32Array(2^14) each (5.1). */
export function makeTurnTables() {
  const angle = PI >> 13n;
  const unit = [0n, 0n]; // cosine and sine of the first step, then all steps by rotations
  for (let i = 0n, term = ONE; term; term = times(term, angle) / i) {
    unit[i % 2n] += i % 4n < 2n ? term : -term;
    i++;
  }
  const [cosines, sines] = [new Int32Array(2 ** 14), new Int32Array(2 ** 14)];
  const nearest = (value) => Number((value + (1n << 105n)) >> 106n);
  let [c, s] = [ONE, 0n];
  for (let n = 0; n < 2 ** 14; n++) {
    [cosines[n], sines[n]] = [nearest(c), nearest(s)];
    [c, s] = [times(c, unit[0]) - times(s, unit[1]), times(s, unit[0]) + times(c, unit[1])];
  }
  return [cosines, sines];
}

/** Return the turns Θ_j of 5.1, BigInts, for the pairs j < dims / 2. */
export function makeTurns(base, dims) {
  const logarithm = naturalLogarithm(...fractionOf(base));
  const power = (j) => exponential(2n * BigInt(j) * logarithm, BigInt(dims) * ONE);
  return Array.from({ length: dims / 2 }, (_, j) => (power(j) << 63n) / PI);
}

/** Return factor · tanh(i / 512) / 2^shift, to the nearest, for i up to 4096: a table of 1.7. */
function tanhTable(factor, shift) {
  const step = exponential(2n, 512n);
  let q = ONE;
  return Int32Array.from({ length: 4097 }, () => {
    const tanh = ((ONE - q) << BITS) / (ONE + q);
    q = times(q, step);
    return Number((factor * tanh + (1n << (shift - 1n))) >> shift);
  });
}

/** Return the table of gates (1.7). */
export const makeGateTable = () => tanhTable(1n << 15n, BITS);

/** Return the table of section 7. */
export function makeSoftcapTable(softcap) {
  const [numerator, denominator] = fractionOf(softcap);
  return tanhTable((numerator << 32n) * ONE / (denominator * LN2), 140n);
}

/** Return σ(γ), in steps of 2^-24 and rounded down (section 3). */
export function makeSigmoid(gamma) {
  const e = exponential(...fractionOf(Math.abs(gamma)));
  return Number(((gamma < 0 ? e : ONE) << 24n) / (ONE + e)) * 2 ** -24;
}

/** Return 2^(16 - s/64), to the nearest, for s < 1024 (8.1). */
export function makeCacheWeights() {
  const power = (s) => exponential(BigInt(s) * LN2, 64n * ONE);
  return Int32Array.from({ length: 1024 }, (_, s) => Number((power(s) + (1n << 103n)) >> 104n));
}

/** Return e^(-a/b) with 60 fraction bits: exp of formats.md. */
export function mixingExponential(a, b) {
  const squarings = bitLength(a / b) + 4n;
  const x = (a << 60n) / (b << squarings);
  let [term, sum] = [1n << 60n, 1n << 60n];
  for (let i = 1n; i <= 17n; i++) sum += term = floorDivide(-((term * x) >> 60n), i);
  for (let i = 0n; i < squarings; i++) sum = (sum * sum) >> 60n;
  return sum;
}

/** squash(s), a probability in steps of 2^-16, at index s + 2048 for s from -2048 to 2048. */
export const SQUASH = new Int32Array(4097);
const SQUASH_STEP = mixingExponential(1n, 256n);
for (let s = 0, e = 1n << 60n; s <= 2048; s++) {
  SQUASH[2048 + s] = Math.min(Number((1n << 76n) / ((1n << 60n) + e)), 65520);
  SQUASH[2048 - s] = 65536 - SQUASH[2048 + s];
  e = (e * SQUASH_STEP) >> 60n;
}

/** stretch(j) for j < 4096: the least s with squash(s) >= 16j + 8. */
export const STRETCH = new Int32Array(4096);
for (let j = 0, s = -2048; j < 4096; j++) {
  while (s < 2047 && SQUASH[2048 + s] < 16 * j + 8) s++;
  STRETCH[j] = s;
}

/** share(j) = ⌊65536 / j⌋. */
export const SHARE = Int32Array.from({ length: 4096 }, (_, j) => (j ? Math.floor(65536 / j) : 0));
