// Streams of matrices and vectors (formats.md, "A stream of matrices" to "Fresh contexts").
import { demand } from "./binary.mjs";
import { SHARE, STRETCH, mixingExponential } from "./integer_math.mjs";
import { MixingDecoder } from "./mixed_bytes.mjs";

const [ROWS, COLUMNS, VECTORS, COPIED] = [12, 13, 14, 15]; // kinds of integers
const CLASSES = 40;
const CONTEXTS = 1425;
const INSIDE = 1424 * CLASSES; // the context of bits inside classes; its slot 0 is for copied rows
const FRESH_WEIGHTS = [29491, 9830, 9830, 13107, 3277];
const MOST_INTEGER = 196607;

/** Return the level of x, about four per octave of x + 1. */
function levelOf(x) {
  const octave = 31 - Math.clz32(x + 1);
  return 4 * octave + Math.floor((4 * (x + 1)) / 2 ** octave) - 4;
}

const LEVELS = Uint8Array.from({ length: 4096 }, (_, x) => levelOf(x));
/** Return M(level), where a level begins, with 12 fraction bits. */
const levelStart = (level) => Math.floor((4 + (level % 4)) * 64 * 2 ** (level >> 2)) - 128;

// Classes of magnitudes: how many bits are inside each, and where it begins.
const CLASS_BITS = Array.from({ length: CLASSES }, (_, k) => (k < 12 ? 0 : ((k - 11) >> 1) + 2));
const CLASS_START = CLASS_BITS.map((bits, k) => (bits ? (2 + ((k - 11) % 2)) * 2 ** bits : k));

/** Return chances(level): for each class the probability, out of 2^22, of a higher one. */
function chancesOf(level) {
  const m = levelStart(level);
  const limited = (q) => Math.min(Math.max(q, 2 ** 14), 2 ** 22 - 2 ** 14);
  if (m < 4096) return new Array(CLASSES).fill(limited(Math.floor((2 ** 22 * m) / (4096 + m))));
  const masses = new Array(CLASSES).fill(0n); // of a Gaussian, S_k
  let f = mixingExponential(10n ** 6n << 24n, 3141593n * BigInt(m) ** 2n);
  const g = (f * f) >> 60n;
  for (let j = 0, k = 0, t = 1n << 60n; t > 0n && j <= MOST_INTEGER; j++) {
    while (CLASS_START[k + 1] <= j) k++;
    masses[k] += j ? 2n * t : t;
    t = (t * f) >> 60n;
    f = (f * g) >> 60n;
  }
  let above = 0n;
  return masses.reduceRight((chances, mass) => {
    chances.unshift(limited(above ? Number((above << 22n) / (above + mass)) : 0));
    above += mass;
    return chances;
  }, []);
}

let freshSlots = null;

/** Return the slots' chances and counts of fresh contexts. */
function makeFreshSlots() {
  const levels = Array.from({ length: 64 }, (_, level) => chancesOf(level));
  const chances = new Int32Array(CONTEXTS * CLASSES).fill(2 ** 21);
  const counts = new Int16Array(CONTEXTS * CLASSES);
  const begin = (context, level, count) => {
    chances.set(levels[level], context * CLASSES);
    counts.fill(count, context * CLASSES, (context + 1) * CLASSES);
  };
  for (let i = 0; i < 128; i++) begin(i, i % 64, 20);
  for (let i = 0; i < 256; i++) begin(128 + i, levelOf(8 * ((i % 16) + (i >> 4)) + 4), 5);
  for (let i = 0; i < 1024; i++) begin(384 + i, 2 * (i % 32), 10);
  [chances[INSIDE], counts[INSIDE]] = [2 ** 16, 20];
  return { chances, counts };
}

/** Decode the integers of one stream in contexts that all its matrices share. */
class WeightDecoder extends MixingDecoder {
  constructor(bytes, name) {
    freshSlots ??= makeFreshSlots();
    const [chances, counts] = [freshSlots.chances.slice(), freshSlots.counts.slice()];
    const mixed = Float64Array.from({ length: 16 * CLASSES * 5 }, (_, i) => FRESH_WEIGHTS[i % 5]);
    super(bytes, name, { chances, counts, limit: 1000, mixed, rate: 18 });
    [this.learners, this.stretched] = [new Int32Array(5), new Int32Array(5)];
  }

  /** Decode a bit with the slot's own chance, which learns it. */
  slotBit(slot) {
    const bit = this.bit(Math.min(Math.max(this.chances[slot] >> 6, 16), 65520));
    this.learn(slot, bit);
    return bit;
  }

  /** Decode "One integer" in its five contexts. */
  integer(kind, ...contexts) {
    const { learners, stretched, chances } = this;
    let k = 0;
    for (; k < 39; k++) {
      for (let i = 0; i < 5; i++) {
        learners[i] = contexts[i] * CLASSES + k;
        stretched[i] = STRETCH[chances[learners[i]] >> 10];
      }
      if (!this.mixedBit((kind * CLASSES + k) * 5, learners, stretched)) break;
    }
    const inside = CLASS_BITS[k] - 1;
    let magnitude = CLASS_START[k];
    if (inside >= 0) magnitude += this.slotBit(INSIDE + k) * 2 ** inside + this.raw(inside);
    return magnitude && this.raw(1) ? -magnitude : magnitude;
  }

  /** Decode "Rows of integers": Int32Array [rows, columns], no magnitude over `most`. */
  rows(rows, columns, kind, most) {
    const values = new Int32Array(rows * columns);
    const start = levelStart(this.raw(6));
    const columnMeans = new Float64Array(columns).fill(start); // C_c
    let [allMean, copiedMean] = [start, start]; // A, D
    const levelFor = (x) => LEVELS[Math.min(x, 4095)];
    for (let r = 0, at = 0; r < rows; r++) {
      const copied = r > 0 && columns > 0 && this.slotBit(INSIDE) === 1;
      const rowKind = copied ? COPIED : kind;
      let rowMean = copied ? copiedMean : allMean; // R
      let [l, l2] = [0, 0];
      for (let c = 0; c < columns; c++, at++) {
        const u = copied || r < 1 ? 0 : Math.abs(values[at - columns]);
        const u2 = copied || r < 2 ? 0 : Math.abs(values[at - 2 * columns]);
        const z = (copied ? rowMean : columnMeans[c]) >> 8;
        const x = copied ? z : Math.floor((z * (rowMean >> 8)) / Math.max(allMean >> 8, 1));
        const [level, column] = [levelFor(x), 64 + levelFor(z)];
        const nearest = 128 + 16 * Math.min(l, 15) + Math.min(u, 15);
        const near = 384 + 32 * (levelFor(3 * (2 * l + l2 + 2 * u + u2)) >> 1) + (level >> 1);
        const integer = this.integer(rowKind, level, column, nearest, near, 1408 + rowKind);
        values[at] = copied ? integer + values[at - columns] : integer;
        const isRight = Math.abs(values[at]) <= most;
        demand(isRight, `${this.name}: an integer is over the limit of ${most}`);
        [l2, l] = [l, Math.abs(integer)];
        const a = l * 4096;
        const moved = (mean, share) => mean + Math.floor(((a - mean) * SHARE[share]) / 65536);
        if (!copied) columnMeans[c] = moved(columnMeans[c], Math.min(r, 200) + 10);
        if (!copied) allMean = moved(allMean, Math.min(at, 4000) + 60);
        rowMean = moved(rowMean, Math.min(c, 4000) + 24);
      }
      if (copied) copiedMean = rowMean;
    }
    return values;
  }

  /** Decode "A list": Int32Array [count], every value from `least` to `most`. */
  list(count, kind, least, most) {
    const start = this.raw(18) - 2 ** 17;
    let mean = 256 * start;
    return this.rows(1, count, kind, MOST_INTEGER).map((difference) => {
      const value = difference + ((mean + 128) >> 8);
      demand(value >= least && value <= most, `${this.name}: ${value} is not a value of its kind`);
      mean += (256 * value - mean) >> 3;
      return value;
    });
  }
}

/** Return 2^(exponent / 4): the float32 nearest to it in [1, 2), times a power of two. */
export function quarterPower(exponent) {
  const roots = [1, Math.sqrt(Math.SQRT2), Math.SQRT2, Math.SQRT2 * Math.sqrt(Math.SQRT2)];
  return Math.fround(roots[exponent & 3]) * 2 ** (exponent >> 2);
}

/** Return the value of a positive finite fp16 number. */
const halfValue = (bits) =>
  bits < 1024 ? bits * 2 ** -24 : (1024 + (bits & 1023)) * 2 ** ((bits >> 10) - 25);

/**
 * Decode a stream of matrices.
 * @param shapes of each matrix {rows, columns, kind}
 * @param grid 0 log2_quarter, 1 fp16_row
 * @returns of each matrix {rows, columns, codes: Int16Array, columnExponents: Int32Array,
 *   rowScale(row, exponent): 2^(exponent / 4) times the row's scale, float32}
 */
export function readMatrices(bytes, name, shapes, grid) {
  const decoder = new WeightDecoder(bytes, name);
  const exponents = (count, kind) => decoder.list(count, kind, -400, 400);
  let before = [];
  const matrices = shapes.map(({ rows, columns, kind }) => {
    const most = decoder.raw(1) ? 32767 : 127;
    const scales = grid ? decoder.list(rows, ROWS, 1, 31743) : exponents(rows, ROWS);
    const rowScale = (row, exponent) =>
      grid ? halfValue(scales[row]) : quarterPower(scales[row] + exponent);
    const areSame = !grid && before.length === columns && decoder.raw(1) === 1;
    if (grid) before = new Int32Array(columns);
    else if (!areSame) before = exponents(columns, COLUMNS);
    const codes = Int16Array.from(decoder.rows(rows, columns, kind, most));
    return { rows, columns, codes, columnExponents: before, rowScale };
  });
  decoder.end();
  return matrices;
}

/** Decode a stream of vectors: of each shape {rows, columns} a Float32Array, row by row. */
export function readVectors(bytes, name, shapes) {
  const decoder = new WeightDecoder(bytes, name);
  const vectors = shapes.map(({ rows, columns }) => {
    const exponent = decoder.raw(10) - 512;
    demand(Math.abs(exponent) <= 400, `${name}: an exponent is not from -400 to 400`);
    const step = quarterPower(exponent);
    const codes = decoder.list(rows * columns, VECTORS, -32767, 32767);
    const values = Float32Array.from(codes, (code) => code * step);
    const areRight = values.every((value) => Math.abs(value) <= 2 ** 20);
    demand(areRight, `${name}: a value is beyond exact arithmetic`);
    return values;
  });
  decoder.end();
  return vectors;
}
