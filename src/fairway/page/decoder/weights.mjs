// Streams of matrices and vectors (formats.md, "A stream of matrices" to "Fresh contexts").
import { demand } from "./binary.mjs";
import { RangeDecoder } from "./range_coder.mjs";
import { SHARE, SQUASH, STRETCH, gaussianMasses } from "./integer_math.mjs";
import { learnBit } from "./mixed_bytes.mjs";

const ROWS_KIND = 12;
const COLUMNS_KIND = 13;
const VECTORS_KIND = 14;
const COPIED_KIND = 15;
const CLASSES = 40;
const CONTEXTS = 1425;
const INSIDE = 1424 * CLASSES; // the context of bits inside classes; its slot 0 is for copied rows
const SLOT_LIMIT = 1000;

/** Return the level of x, about four per octave of x + 1. */
function levelOf(x) {
  const octave = 31 - Math.clz32(x + 1);
  return 4 * octave + Math.floor((4 * (x + 1)) / 2 ** octave) - 4;
}

/** Return where a level begins, with 12 fraction bits. */
function levelStart(level) {
  return Math.floor(((4 + (level % 4)) * 256 * 2 ** (level >> 2)) / 4) - 128;
}

const LEVELS = Uint8Array.from({ length: 4096 }, (_, x) => levelOf(x));

// Classes of magnitudes: where each begins and how many bits are inside.
const CLASS_BITS = Uint8Array.from({ length: CLASSES }, (_, k) => (k < 12 ? 0 : Math.floor((k - 11) / 2) + 2));
const CLASS_START = Int32Array.from({ length: CLASSES }, (_, k) =>
  k < 12 ? k : (2 + ((k - 11) % 2)) * 2 ** CLASS_BITS[k],
);

function classOf(magnitude) {
  let k = 39;
  while (CLASS_START[k] > magnitude) k--;
  return k;
}

/** Return chances(level): for each class the probability, out of 2^22, of a higher one. */
function chancesOf(level) {
  const mean = levelStart(level);
  const limited = (q) => Math.min(Math.max(q, 2 ** 14), 2 ** 22 - 2 ** 14);
  if (mean < 4096) return new Array(CLASSES).fill(limited(Math.floor((2 ** 22 * mean) / (4096 + mean))));
  const masses = gaussianMasses(mean, classOf);
  const chances = new Array(CLASSES).fill(limited(0));
  let above = masses[39];
  for (let k = 38; k >= 0; k--) {
    const atLeast = above + masses[k];
    chances[k] = limited(atLeast ? Number((above << 22n) / atLeast) : 0);
    above = atLeast;
  }
  return chances;
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
  chances[INSIDE] = 2 ** 16;
  counts[INSIDE] = 20;
  return { chances, counts };
}

/** Decode the integers of one stream in contexts that all its matrices share. */
class WeightDecoder {
  constructor(bytes, name) {
    freshSlots ??= makeFreshSlots();
    this.decoder = new RangeDecoder(bytes, name);
    this.name = name;
    this.chances = freshSlots.chances.slice();
    this.counts = freshSlots.counts.slice();
    this.weights = new Float64Array(16 * CLASSES * 5);
    for (let i = 0; i < this.weights.length; i++) this.weights[i] = [29491, 9830, 9830, 13107, 3277][i % 5];
    this.slots = new Int32Array(5);
    this.stretched = new Int32Array(5);
  }

  /** Decode a bit with the slot's own chance, which learns it. */
  slotBit(slot) {
    const bit = this.decoder.bit(Math.min(Math.max(this.chances[slot] >> 6, 16), 65520));
    learnBit(this.chances, this.counts, slot, bit, SLOT_LIMIT);
    return bit;
  }

  /** Decode one integer; `contexts` are the slots of class 0 of its five contexts ("One integer"). */
  integer(contexts, kind) {
    const { chances, counts, weights, stretched, decoder } = this;
    let k = 0;
    for (; k < 39; k++) {
      const set = (kind * CLASSES + k) * 5;
      let sum = 0;
      for (let i = 0; i < 5; i++) {
        stretched[i] = STRETCH[chances[contexts[i] + k] >> 10];
        sum += weights[set + i] * stretched[i];
      }
      const p = SQUASH[2048 + Math.min(Math.max(Math.floor(sum / 65536), -2047), 2047)];
      const bit = decoder.bit(p);
      for (let i = 0; i < 5; i++) {
        weights[set + i] += (stretched[i] * (65536 * bit - p) + 2 ** 17) >> 18;
        learnBit(chances, counts, contexts[i] + k, bit, SLOT_LIMIT);
      }
      if (!bit) break;
    }
    let magnitude = k;
    if (CLASS_BITS[k]) {
      const first = this.slotBit(INSIDE + k);
      magnitude = CLASS_START[k] + first * 2 ** (CLASS_BITS[k] - 1) + decoder.raw(CLASS_BITS[k] - 1);
    }
    return magnitude && decoder.bit(32768) ? -magnitude : magnitude;
  }

  /** Decode "Rows of integers": Int32Array [rows, columns], no magnitude over `most`. */
  rows(rows, columns, kind, most) {
    const values = new Int32Array(rows * columns);
    const start = levelStart(this.decoder.raw(6));
    const columnMeans = new Float64Array(columns).fill(start);
    let allMean = start;
    let copiedMean = start;
    const contexts = new Int32Array(5);
    for (let r = 0, at = 0; r < rows; r++) {
      const copied = r > 0 && columns > 0 && this.slotBit(INSIDE) === 1;
      let rowMean = copied ? copiedMean : allMean;
      let l = 0;
      let l2 = 0;
      for (let c = 0; c < columns; c++, at++) {
        let u = 0;
        let u2 = 0;
        let z = rowMean >> 8;
        let x = z;
        if (!copied) {
          if (r > 0) u = Math.abs(values[at - columns]);
          if (r > 1) u2 = Math.abs(values[at - 2 * columns]);
          z = columnMeans[c] >> 8;
          x = Math.floor((z * (rowMean >> 8)) / Math.max(allMean >> 8, 1));
        }
        const level = LEVELS[Math.min(x, 4095)];
        const near = LEVELS[Math.min(3 * (2 * l + l2 + 2 * u + u2), 4095)];
        const ownKind = copied ? COPIED_KIND : kind;
        contexts[0] = level * CLASSES;
        contexts[1] = (64 + LEVELS[Math.min(z, 4095)]) * CLASSES;
        contexts[2] = (128 + 16 * Math.min(l, 15) + Math.min(u, 15)) * CLASSES;
        contexts[3] = (384 + 32 * (near >> 1) + (level >> 1)) * CLASSES;
        contexts[4] = (1408 + ownKind) * CLASSES;
        const integer = this.integer(contexts, ownKind);
        const magnitude = Math.abs(integer);
        values[at] = copied ? integer + values[at - columns] : integer;
        demand(Math.abs(values[at]) <= most, `${this.name}: an integer is over the limit of ${most}`);
        const a = magnitude * 4096;
        if (!copied) {
          columnMeans[c] += Math.floor(((a - columnMeans[c]) * SHARE[Math.min(r, 200) + 10]) / 65536);
          allMean += Math.floor(((a - allMean) * SHARE[Math.min(at, 4000) + 60]) / 65536);
        }
        rowMean += Math.floor(((a - rowMean) * SHARE[Math.min(c, 4000) + 24]) / 65536);
        l2 = l;
        l = magnitude;
      }
      if (copied) copiedMean = rowMean;
    }
    return values;
  }

  /** Decode "A list": Int32Array [count], every value from `least` to `most`. */
  list(count, kind, least, most) {
    const start = this.decoder.raw(18) - 2 ** 17;
    const values = this.rows(1, count, kind, 196607);
    let mean = 256 * start;
    for (let i = 0; i < count; i++) {
      values[i] += (mean + 128) >> 8;
      demand(values[i] >= least && values[i] <= most, `${this.name}: a value is not from ${least} to ${most}`);
      mean += (256 * values[i] - mean) >> 3;
    }
    return values;
  }
}

/** Return 2^(exponent / 4): the float32 nearest to 2^((exponent mod 4) / 4), times 2^⌊exponent / 4⌋. */
export function quarterPower(exponent) {
  return Math.fround(2 ** ((exponent & 3) / 4)) * 2 ** (exponent >> 2);
}

/** Return the value of a positive finite fp16 number. */
function halfValue(bits) {
  const exponent = bits >> 10;
  return exponent ? (1024 + (bits & 1023)) * 2 ** (exponent - 25) : bits * 2 ** -24;
}

/** Decode a stream of matrices.
 * @param shapes of each matrix {rows, columns, kind}
 * @param grid 0 log2_quarter, 1 fp16_row
 * @returns of each matrix {rows, columns, codes: Int16Array, columnExponents: Int32Array in quarters of an octave,
 *   rowScale(row, exponent): 2^(exponent / 4) times the row's scale, float32}
 */
export function readMatrices(bytes, name, shapes, grid) {
  const decoder = new WeightDecoder(bytes, name);
  const matrices = [];
  for (const { rows, columns, kind } of shapes) {
    const most = decoder.decoder.raw(1) ? 32767 : 127;
    let columnExponents = new Int32Array(columns);
    let rowScale;
    if (grid === 1) {
      const halves = decoder.list(rows, ROWS_KIND, 1, 31743);
      rowScale = (row) => halfValue(halves[row]);
    } else {
      const exponents = decoder.list(rows, ROWS_KIND, -400, 400);
      const before = matrices.at(-1)?.columnExponents;
      const same = before?.length === columns && decoder.decoder.raw(1) === 1;
      columnExponents = same ? before : decoder.list(columns, COLUMNS_KIND, -400, 400);
      rowScale = (row, exponent) => quarterPower(exponents[row] + exponent);
    }
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
