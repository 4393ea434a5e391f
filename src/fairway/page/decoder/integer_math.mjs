// Constants from integers (formats.md, "The range coder"; exact.md, "Constants come from integers"):
// exponentials, logarithms, tanh, cosines and roots by series in BigInt. No function of Math is used but
// those that IEEE-754 rounds correctly.

const FRACTION = 120n;
const ONE = 1n << FRACTION;

/** Return ⌊a / b⌋ of BigInts, b > 0. */
function floorDivide(a, b) {
  const quotient = a / b;
  return a % b < 0n ? quotient - 1n : quotient;
}

function bitLength(a) {
  return BigInt(a === 0n ? 0 : a.toString(2).length);
}

/** Return the greatest r with r^degree <= a. */
export function integerRoot(a, degree) {
  let root = 0n;
  for (let bit = bitLength(a) / degree; bit >= 0n; bit--) {
    const trial = root | (1n << bit);
    if (trial ** degree <= a) root = trial;
  }
  return root;
}

/** Return e^(-a/b) with 60 fraction bits, as formats.md computes it. */
function mixingExponential(a, b) {
  const one = 1n << 60n;
  const quotientBits = bitLength(a / b);
  const halvings = quotientBits + 4n > 4n ? quotientBits + 4n : 4n;
  const x = (a << 60n) / (b << halvings);
  let term = one;
  let sum = one;
  for (let i = 1n; i <= 17n; i++) {
    term = floorDivide(-((term * x) >> 60n), i);
    sum += term;
  }
  for (let i = 0n; i < halvings; i++) sum = (sum * sum) >> 60n;
  return sum;
}

/** squash(s), a probability in steps of 2^-16, at index s + 2048 for s from -2048 to 2048. */
export const SQUASH = new Int32Array(4097);
/** stretch(j) for j < 4096: the least s with squash(s) >= 16j + 8. */
export const STRETCH = new Int32Array(4096);
/** share(j) = ⌊65536 / j⌋. */
export const SHARE = Int32Array.from({ length: 4096 }, (_, j) => (j ? Math.floor(65536 / j) : 0));

function fillMixingTables() {
  const one = 1n << 60n;
  const factor = mixingExponential(1n, 256n);
  for (let s = 0, exponential = one; s <= 2048; s++) {
    SQUASH[2048 + s] = Math.min(Number((1n << 76n) / (one + exponential)), 65520);
    SQUASH[2048 - s] = 65536 - SQUASH[2048 + s];
    exponential = (exponential * factor) >> 60n;
  }
  for (let j = 0, s = -2048; j < 4096; j++) {
    while (s < 2047 && SQUASH[2048 + s] < 16 * j + 8) s++;
    STRETCH[j] = s;
  }
}
fillMixingTables();

/** Return the gaussian chances of formats.md ("Fresh contexts") for the mean magnitude m, 12 fraction bits. */
export function gaussianMasses(mean, classOf) {
  const masses = new Array(40).fill(0n);
  const m = BigInt(mean);
  let factor = mixingExponential(10n ** 6n << 24n, 3141593n * m * m);
  const square = (factor * factor) >> 60n;
  let mass = 1n << 60n;
  for (let j = 0; mass > 0n && j <= 196607; j++) {
    masses[classOf(j)] += j ? 2n * mass : mass;
    mass = (mass * factor) >> 60n;
    factor = (factor * square) >> 60n;
  }
  return masses;
}

/** Return the integer nearest to value · 2^bits / ONE, for a series' result of 120 fraction bits. */
function roundFraction(value, bits) {
  return Number((value * 2n ** BigInt(bits) + (ONE >> 1n)) >> FRACTION);
}

/** Return a double as a fraction of BigInts [numerator, denominator]. */
function fractionOf(number) {
  let denominator = 1n;
  for (; !Number.isInteger(number); number *= 2) denominator *= 2n;
  return [BigInt(number), denominator];
}

/** Return e^(a/b) with 120 fraction bits, a >= 0: the series of a quotient below 1/16, squared again. */
function exponential(a, b) {
  const guard = 40n;
  const halvings = bitLength(a / b) + 4n;
  const x = (a << (FRACTION + guard)) / (b << halvings);
  let sum = 0n;
  for (let term = ONE << guard, i = 1n; term > 0n; i++) {
    sum += term;
    term = ((term * x) >> (FRACTION + guard)) / i;
  }
  for (let i = 0n; i < halvings; i++) sum = (sum * sum) >> (FRACTION + guard);
  return sum >> guard;
}

/** Return 2 · artanh(a/b) = ln((b + a) / (b - a)) with 120 fraction bits, a series. */
function logarithmSeries(a, b) {
  const guard = 20n;
  let power = (a << (FRACTION + guard)) / b;
  const square = (power * power) >> (FRACTION + guard);
  let sum = 0n;
  for (let i = 1n; power > 0n; i += 2n) {
    sum += power / i;
    power = (power * square) >> (FRACTION + guard);
  }
  return (2n * sum) >> guard;
}

const LN2 = logarithmSeries(1n, 3n);

/** Return ln(a/b), a > 0, with 120 fraction bits. */
function naturalLogarithm(a, b) {
  // a/b = 2^k · m with m from 1/2 to 2, and ln m = 2 · artanh((m - 1) / (m + 1))
  const k = bitLength(a) - bitLength(b);
  const [p, q] = k >= 0n ? [a, b << k] : [a << -k, b];
  return k * LN2 + (p >= q ? logarithmSeries(p - q, p + q) : -logarithmSeries(q - p, p + q));
}

/** Return arctan(1/n) with 120 fraction bits. */
function arctanOfInverse(n) {
  let power = (ONE << 20n) / n;
  let sum = 0n;
  for (let i = 1n; power > 0n; i += 2n) {
    sum += i % 4n === 1n ? power / i : -(power / i);
    power /= n * n;
  }
  return sum >> 20n;
}

const PI = 4n * (4n * arctanOfInverse(5n) - arctanOfInverse(239n)); // Machin's formula

/** Return [cosines, sines] of i / 2^14 turns in steps of 2^-14, Int32Array(2^14) each. */
export function makeTurnTables() {
  const size = 2 ** 14;
  const cosines = new Int32Array(size);
  const sines = new Int32Array(size);
  // One step's cosine and sine by series, then all steps of an eighth of a turn by rotations.
  const angle = (2n * PI) / BigInt(size);
  const unit = [0n, 0n];
  for (let term = ONE, i = 0n; term > 0n; i++) {
    unit[Number(i % 2n)] += i % 4n < 2n ? term : -term;
    term = ((term * angle) >> FRACTION) / (i + 1n);
  }
  let [c, s] = [ONE, 0n];
  for (let i = 0; i <= size / 8; i++) {
    const cosine = roundFraction(c, 14);
    const sine = roundFraction(s, 14);
    for (let quarter = 0; quarter < 4; quarter++) {
      const [x, y] = [[cosine, sine], [-sine, cosine], [-cosine, -sine], [sine, -cosine]][quarter];
      cosines[(i + (quarter * size) / 4) % size] = x;
      sines[(i + (quarter * size) / 4) % size] = y;
      // mirrored at the middle of this quarter of a turn
      const mirror = ((2 * quarter + 1) * size) / 4 - (i + (quarter * size) / 4);
      const [u, v] = [[sine, cosine], [-cosine, sine], [-sine, -cosine], [cosine, -sine]][quarter];
      cosines[mirror] = u;
      sines[mirror] = v;
    }
    [c, s] = [(c * unit[0] - s * unit[1]) >> FRACTION, (s * unit[0] + c * unit[1]) >> FRACTION];
  }
  return [cosines, sines];
}

/** Return tanh(i / 512) for i from 0 to 4096, times `numerator / denominator` and to the nearest integer. */
function tanhTable(numerator, denominator) {
  const step = exponential(1n, 256n); // e^(2/512)
  let power = ONE;
  return Int32Array.from({ length: 4097 }, () => {
    const value = (((power - ONE) * numerator * 2n) / ((power + ONE) * denominator) + 1n) >> 1n;
    power = (power * step) >> FRACTION;
    return Number(value);
  });
}

/** Return the table of section 7: 2^12 · log2(e) · softcap · tanh(i / 512). */
export function makeSoftcapTable(softcap) {
  const [numerator, denominator] = fractionOf(softcap);
  return tanhTable((numerator << 12n) * ONE, denominator * LN2);
}

/** Return the table of section 1.7: 2^15 · tanh(i / 512). */
export function makeGateTable() {
  return tanhTable(1n << 15n, 1n);
}

/** Return the turns Θ_j modulo 2^64 of section 5.1, BigInts, for pairs j < dims / 2: base^(-2j/dims) / 2π · 2^64. */
export function makeTurns(base, dims) {
  const logarithm = naturalLogarithm(...fractionOf(base));
  return Array.from({ length: dims / 2 }, (_, j) => {
    const power = exponential((logarithm * 2n * BigInt(j)) / BigInt(dims), ONE);
    return ((ONE * ONE) << 64n) / (power * 2n * PI);
  });
}

/** Return σ(γ) in steps of 2^-24, rounded down. */
export function makeSigmoid(gamma) {
  const [numerator, denominator] = fractionOf(Math.abs(gamma));
  const power = exponential(numerator, denominator);
  const [top, bottom] = gamma < 0 ? [ONE, ONE + power] : [power, ONE + power];
  return Number((top << 24n) / bottom);
}

/** Return log2(e) as the nearest double. */
export const LOG2_E = Number((ONE << 60n) / LN2) / 2 ** 60;

/** Return the weights of section 8.1: rint(2^(16 - s/64)) for s < 1024, by integer roots. */
export function makeCacheWeights() {
  return Int32Array.from({ length: 1024 }, (_, s) => {
    // the 64th root of 2^(64 · (16 + 20) - s): 2^(36 - s/64), then rounded to 20 bits fewer
    const root = integerRoot(1n << BigInt(64 * 36 - s), 64n);
    return Number((root + (1n << 19n)) >> 20n);
  });
}
