// Matrix products (exact.md, sections 1.3 and 1.4), and the operands that matrices become.
import { demand } from "./binary.mjs";
import { inputScale, inverseRms, largestMagnitude, rint } from "./fixed_point.mjs";
import { capacityFor, placeInBlocks } from "./kernels.mjs";
import { quarterPower } from "./weights.mjs";

const MOST_CODE = 32767;
const FINE_CODE = 1023;
const MOST_RANGES = 64;

/** Refuse a row's scale that could let products overflow (section 9). */
export function demandScale(scale, name) {
  const sentence = `the model's ${name} has a row's scale beyond exact arithmetic`;
  demand(scale >= 2 ** -60 && scale <= 2 ** 20, sentence);
  return scale;
}

/** Return the codes of each row of a matrix, views. */
const rowsOf = ({ rows, columns, codes }) =>
  Array.from({ length: rows }, (_, row) => codes.subarray(row * columns, (row + 1) * columns));

/** Return A, the largest input with A · Σ|w| < 2^24 in each of so many ranges of columns. */
function largestInput(rows, ranges) {
  let most = MOST_CODE;
  for (const row of rows) {
    for (let range = 1, at = 0; range <= ranges; range++) {
      let sum = 0;
      const end = Math.floor((row.length * range) / ranges);
      for (; at < end; at++) sum += Math.abs(row[at]);
      if (sum * most >= 2 ** 24) most = Math.floor((2 ** 24 - 1) / sum);
    }
  }
  return most;
}

/** A matrix, or several that stand on one another, as an operand of products for so many lanes. */
export class Linear {
  /**
   * @param matrices of the artifact (readMatrices)
   * @param carried (row) => the float32 factor that a row carries
   * @param exponents of the columns, if not the matrices' own
   */
  constructor(arena, name, lanes, matrices, carried, exponents = matrices[0].columnExponents) {
    const columns = exponents.length;
    const greatest = exponents.reduce((a, b) => Math.max(a, b));
    const scales = matrices.flatMap(({ rows, rowScale }) =>
      Array.from({ length: rows }, (_, row) => demandScale(rowScale(row, greatest), name)),
    );
    const scaleOf = (e) => (e < greatest - 240 ? 0 : quarterPower(e - greatest));
    this.rowScales = Float32Array.from(scales, (scale, row) => scale * carried(row));
    this.columnScales = Float32Array.from(exponents, scaleOf);
    const allRows = matrices.flatMap(rowsOf);
    for (let ranges = 1; ranges <= Math.min(MOST_RANGES, columns); ranges++) {
      this.largest = largestInput(allRows, ranges);
      if (this.largest >= FINE_CODE) break;
    }
    demand(this.largest >= 1, `the model's ${name} has codes beyond exact arithmetic`);
    const [rows, pairs] = [scales.length, (columns + 1) >> 1];
    const capacity = capacityFor(rows);
    Object.assign(this, { arena, rows, columns, pairs, capacity });
    this.scaled = new Float32Array(columns);
    this.tokenScales = new Float32Array(lanes);
    this.normalScales = new Float32Array(lanes);
    const codes = new Int16Array(2 * pairs * capacity);
    allRows.forEach((row, r) => {
      row.forEach((code, column) => (codes[placeInBlocks(pairs, r, column)] = code));
    });
    arena.reserve(this, "codes", Int16Array, codes.length, codes);
    arena.reserve(this, "inputs", Int16Array, 2 * pairs * lanes);
    arena.reserve(this, "sums", Int32Array, capacity * lanes);
  }

  /** 1.3: make a lane's codes from integers or float32 numbers. */
  encode(lane, values) {
    const { columns, columnScales, scaled, inputs } = this;
    scaled.set(values.subarray(0, columns));
    for (let j = 0; j < columns; j++) scaled[j] *= columnScales[j];
    const most = largestMagnitude(scaled);
    const [scale, worth] = most < 2 ** -100 ? [0, 0] : inputScale(most, this.largest);
    const at = lane * 2 * this.pairs;
    for (let j = 0; j < columns; j++) inputs[at + j] = rint(Math.fround(scaled[j] * scale));
    this.tokenScales[lane] = worth;
  }

  /** Make the codes of a row of the residual stream, and its token_scale · 1/rms(x). */
  encodeRow(lane, x) {
    this.encode(lane, x);
    this.normalScales[lane] = this.tokenScales[lane] * inverseRms(x);
  }

  /** 1.4: make the exact sums of the first lanes. */
  multiply(lanes) {
    const { arena, codes, capacity, rows, inputs, pairs, sums } = this;
    arena.kernels.dots(codes, pairs, pairs, rows, inputs, 0, lanes, sums, capacity);
  }

  /** 1.4: write (acc · r) · scale of the rows from `first` on. */
  product(lane, scale, out, first = 0) {
    const { rowScales, sums } = this;
    const at = lane * this.capacity + first;
    for (let i = 0; i < out.length; i++) {
      out[i] = Math.fround(Math.fround(sums[at + i]) * rowScales[first + i]) * scale;
    }
  }

  /** Write a product of normalized x: (acc · r) · (token_scale · 1/rms(x)). */
  normalized(lane, out) { this.product(lane, this.normalScales[lane], out); }
}
