// Streams of matrices and vectors (formats.md, "A stream of matrices" to "Fresh contexts").
import { demand } from "./binary.mjs";
import { RangeDecoder } from "./range_coder.mjs";
import { SHARE, STRETCH, mixingExponential } from "./integer_math.mjs";
import { Slots, mixedBit } from "./mixed_bytes.mjs";

const ROWS_KIND = 12;
const COLUMNS_KIND = 13;
const VECTORS_KIND = 14;
const COPIED_KIND = 15;
const CLASSES = 40;
const CONTEXTS = 1425;
const INSIDE = 1424 * CLASSES; // the context of bits inside classes; its slot 0 is for copied rows
const SLOT_LIMIT = 1000;
const FRESH_WEIGHTS = [29491, 9830, 9830, 13107, 3277];
const MOST_INTEGER = 196607;

/** Return the level of x, about four per octave of x + 1. */
function levelOf(x) {
  const octave = 31 - Math.clz32(x + 1);
  return 4 * octave + Math.floor((4 * (x + 1)) / 2 ** octave) - 4;
}

/** Return M(level), where a level begins, with 12 fraction bits. */
const levelStart = (level) => Math.floor(((4 + (level % 4)) * 256 * 2 ** (level >> 2)) / 4) - 128;
const LEVELS = Uint8Array.from({ length: 4096 }, (_, x) => levelOf(x));

// Classes of magnitudes: how many bits are inside each, and where it begins.
const CLASS_BITS = Uint8Array.from({ length: CLASSES }, (_, k) => (k < 12 ? 0 : Math.floor((k - 11) / 2) + 2));
const CLASS_START = Array.from(CLASS_BITS, (bits, k) => (bits ? (2 + ((k - 11) % 2)) * 2 ** bits : k));

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
    masses[k] += j ? 2n * t : t; t = (t * f) >> 60n; f = (f * g) >> 60n;
  }
  const chances = new Array(CLASSES);
  for (let k = 39, above = 0n; k >= 0; above += masses[k--]) {
    chances[k] = limited(above ? Number((above << 22n) / (above + masses[k])) : 0);
  }
  return chances;
}

let freshSlots = null;

/** Return the slots' chances and counts of fresh contexts. */
function makeFreshSlots() {
  const levels = Array.from({ length: 64 }, (_, level) => chancesOf(level));
  const chances = new Int32Array(CONTEXTS * CLASSES).fill(2 ** 21), counts = new Int16Array(CONTEXTS * CLASSES);
  const begin = (context, level, count) => {
    chances.set(levels[level], context * CLASSES);
    counts.fill(count, context * CLASSES, (context + 1) * CLASSES);
  };
  for (let i = 0; i < 128; i++) begin(i, i % 64, 20);
  for (let i = 0; i < 256; i++) begin(128 + i, levelOf(8 * ((i % 16) + (i >> 4)) + 4), 5);
  for (let i = 0; i < 1024; i++) begin(384 + i, 2 * (i % 32), 10);
  chances[INSIDE] = 2 ** 16; counts[INSIDE] = 20;
  return { chances, counts };
}

/** Decode the integers of one stream in contexts that all its matrices share. */
class WeightDecoder {
  constructor(bytes, name) {
    freshSlots ??= makeFreshSlots(); Object.assign(this, { name, decoder: new RangeDecoder(bytes, name) });
    this.slots = new Slots(freshSlots.chances.slice(), freshSlots.counts.slice(), SLOT_LIMIT);
    this.weights = Float64Array.from({ length: 16 * CLASSES * 5 }, (_, i) => FRESH_WEIGHTS[i % 5]);
    [this.contexts, this.learners, this.stretched] = [1, 2, 3].map(() => new Int32Array(5));
  }

  /** Decode a bit with the slot's own chance, which learns it. */
  slotBit(slot) {
    const bit = this.decoder.bit(Math.min(Math.max(this.slots.chances[slot] >> 6, 16), 65520));
    this.slots.learn(slot, bit);
    return bit;
  }

  /** Decode "One integer" in its five contexts. */
  integer(kind, ...five) {
    const { contexts, learners, stretched, slots, weights, decoder } = this;
    let k = 0;
    for (let i = 0; i < 5; i++) contexts[i] = five[i] * CLASSES;
    for (; k < 39; k++) {
      for (let i = 0; i < 5; i++) stretched[i] = STRETCH[slots.chances[(learners[i] = contexts[i] + k)] >> 10];
      if (!mixedBit(decoder, weights, (kind * CLASSES + k) * 5, 18, stretched, slots, learners)) break;
    }
    let magnitude = CLASS_START[k];
    if (CLASS_BITS[k]) magnitude += this.slotBit(INSIDE + k) * 2 ** (CLASS_BITS[k] - 1) + decoder.raw(CLASS_BITS[k] - 1);
    return magnitude && decoder.bit(32768) ? -magnitude : magnitude;
  }

  /** Decode "Rows of integers": Int32Array [rows, columns], no magnitude over `most`. */
  rows(rows, columns, kind, most) {
    const values = new Int32Array(rows * columns), start = levelStart(this.decoder.raw(6));
    const columnMeans = new Float64Array(columns).fill(start); // C_c
    let [allMean, copiedMean] = [start, start]; // A, D
    const moved = (mean, a, share) => mean + Math.floor(((a - mean) * SHARE[share]) / 65536);
    for (let r = 0, at = 0; r < rows; r++) {
      const copied = r > 0 && columns > 0 && this.slotBit(INSIDE) === 1, rowKind = copied ? COPIED_KIND : kind;
      let rowMean = copied ? copiedMean : allMean; // R
      let [l, l2] = [0, 0];
      for (let c = 0; c < columns; c++, at++) {
        const u = copied || r < 1 ? 0 : Math.abs(values[at - columns]);
        const u2 = copied || r < 2 ? 0 : Math.abs(values[at - 2 * columns]);
        const z = (copied ? rowMean : columnMeans[c]) >> 8;
        const x = copied ? z : Math.floor((z * (rowMean >> 8)) / Math.max(allMean >> 8, 1));
        const level = LEVELS[Math.min(x, 4095)], near = LEVELS[Math.min(3 * (2 * l + l2 + 2 * u + u2), 4095)];
        const column = 64 + LEVELS[Math.min(z, 4095)], nearest = 128 + 16 * Math.min(l, 15) + Math.min(u, 15);
        const integer = this.integer(rowKind, level, column, nearest, 384 + 32 * (near >> 1) + (level >> 1), 1408 + rowKind);
        values[at] = copied ? integer + values[at - columns] : integer;
        demand(Math.abs(values[at]) <= most, `${this.name}: an integer is over the limit of ${most}`);
        [l2, l] = [l, Math.abs(integer)];
        const a = l * 4096;
        if (!copied) columnMeans[c] = moved(columnMeans[c], a, Math.min(r, 200) + 10);
        if (!copied) allMean = moved(allMean, a, Math.min(at, 4000) + 60);
        rowMean = moved(rowMean, a, Math.min(c, 4000) + 24);
      }
      if (copied) copiedMean = rowMean;
    }
    return values;
  }

  /** Decode "A list": Int32Array [count], every value from `least` to `most`. */
  list(count, kind, least, most) {
    const start = this.decoder.raw(18) - 2 ** 17;
    let mean = 256 * start;
    return this.rows(1, count, kind, MOST_INTEGER).map((difference) => {
      const value = difference + ((mean + 128) >> 8);
      demand(value >= least && value <= most, `${this.name}: a value is not from ${least} to ${most}`);
      mean += (256 * value - mean) >> 3;
      return value;
    });
  }
}

/** Return 2^(exponent / 4): the float32 nearest to 2^((exponent mod 4) / 4), times 2^⌊exponent / 4⌋. */
export function quarterPower(exponent) {
  const roots = [1, Math.sqrt(Math.SQRT2), Math.SQRT2, Math.SQRT2 * Math.sqrt(Math.SQRT2)];
  return Math.fround(roots[exponent & 3]) * 2 ** (exponent >> 2);
}

/** Return the value of a positive finite fp16 number. */
const halfValue = (bits) => (bits < 1024 ? bits * 2 ** -24 : (1024 + (bits & 1023)) * 2 ** ((bits >> 10) - 25));

/** Decode a stream of matrices.
 * @param shapes of each matrix {rows, columns, kind}
 * @param grid 0 log2_quarter, 1 fp16_row
 * @returns of each matrix {rows, columns, codes: Int16Array, columnExponents: Int32Array in quarters of an octave,
 *   rowScale(row, exponent): 2^(exponent / 4) times the row's scale, float32}
 */
export function readMatrices(bytes, name, shapes, grid) {
  const decoder = new WeightDecoder(bytes, name), matrices = [];
  for (const { rows, columns, kind } of shapes) {
    const most = decoder.decoder.raw(1) ? 32767 : 127;
    const scales = grid ? decoder.list(rows, ROWS_KIND, 1, 31743) : decoder.list(rows, ROWS_KIND, -400, 400);
    const rowScale = grid ? (row) => halfValue(scales[row]) : (row, exponent) => quarterPower(scales[row] + exponent);
    const before = matrices.at(-1)?.columnExponents;
    let columnExponents = new Int32Array(columns);
    if (!grid && before?.length === columns && decoder.decoder.raw(1) === 1) columnExponents = before;
    else if (!grid) columnExponents = decoder.list(columns, COLUMNS_KIND, -400, 400);
    const codes = Int16Array.from(decoder.rows(rows, columns, kind, most));
    matrices.push({ rows, columns, codes, columnExponents, rowScale });
  }
  decoder.decoder.end();
  return matrices;
}

/** Decode a stream of vectors: of each shape {rows, columns} a Float32Array, row by row. */
export function readVectors(bytes, name, shapes) {
  const decoder = new WeightDecoder(bytes, name);
  const vectors = shapes.map(({ rows, columns }) => {
    const exponent = decoder.decoder.raw(10) - 512;
    demand(Math.abs(exponent) <= 400, `${name}: an exponent is not from -400 to 400`);
    const step = quarterPower(exponent);
    const values = Float32Array.from(decoder.list(rows * columns, VECTORS_KIND, -32767, 32767), (code) => code * step);
    demand(values.every((value) => Math.abs(value) <= 2 ** 20), `${name}: a value is beyond exact arithmetic`);
    return values;
  });
  decoder.decoder.end();
  return vectors;
}
