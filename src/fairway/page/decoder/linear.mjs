// Matrix products (exact.md, sections 1.3 and 1.4), and the operands that an artifact's matrices become.
import { demand } from "./binary.mjs";
import { inputScale, largestMagnitude, rint } from "./fixed_point.mjs";
import { capacityFor, placeInBlocks } from "./kernels.mjs";
import { quarterPower } from "./weights.mjs";

const MOST_CODE = 32767;
const FINE_CODE = 1023;
const MOST_RANGES = 64;

/** Refuse a row's scale that could let products overflow (section 9). */
export function demandScale(scale, name) {
  demand(scale >= 2 ** -60 && scale <= 2 ** 20, `the model's ${name} has a row's scale beyond exact arithmetic`);
  return scale;
}

/** Return A, the largest input with A · Σ|w| < 2^24 in every row of every one of so many ranges of columns. */
function largestInput(matrices, columns, ranges) {
  let most = MOST_CODE;
  const ends = Array.from({ length: ranges }, (_, i) => Math.floor((columns * (i + 1)) / ranges));
  for (const { rows, codes } of matrices) {
    for (let at = 0, row = 0; row < rows; row++) {
      for (const end of ends) {
        let sum = 0;
        for (; at < row * columns + end; at++) sum += Math.abs(codes[at]);
        if (sum * most >= 2 ** 24) most = Math.floor((2 ** 24 - 1) / sum);
      }
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
    const greatest = exponents.reduce((a, b) => Math.max(a, b));
    const scalesOf = ({ rows, rowScale }) => Array.from({ length: rows }, (_, row) => rowScale(row, greatest));
    const scales = matrices.flatMap(scalesOf);
    this.rowScales = Float32Array.from(scales, (scale, row) => demandScale(scale, name) * carried(row));
    this.columnScales = Float32Array.from(exponents, (e) => (e < greatest - 240 ? 0 : quarterPower(e - greatest)));
    const [rows, columns] = [scales.length, exponents.length];
    for (let ranges = 1; ranges <= Math.min(MOST_RANGES, columns); ranges++) {
      this.largest = largestInput(matrices, columns, ranges);
      if (this.largest >= FINE_CODE) break;
    }
    demand(this.largest >= 1, `the model's ${name} has codes beyond exact arithmetic`);
    Object.assign(this, { matrices, lanes, rows, columns, pairs: (columns + 1) >> 1, capacity: capacityFor(rows) });
    this.scaled = new Float32Array(columns); this.tokenScales = new Float32Array(lanes);
    arena.reserve(this, "codes", Int16Array, 2 * this.pairs * this.capacity);
    arena.reserve(this, "inputs", Int16Array, 2 * this.pairs * lanes);
    arena.reserve(this, "results", Int32Array, this.capacity * lanes);
  }

  /** Put the codes in their places, when the arena is allocated. */
  fill() {
    const { columns, capacity, pairs, results } = this;
    let first = 0;
    for (const { rows, codes } of this.matrices) {
      codes.forEach((code, i) => (this.codes[placeInBlocks(pairs, first + Math.floor(i / columns), i % columns)] = code));
      first += rows;
    }
    this.matrices = null;
    const sumsOf = (_, lane) => results.subarray(lane * capacity, (lane + 1) * capacity);
    this.sums = Array.from({ length: this.lanes }, sumsOf);
  }

  /** 1.3: make a lane's codes from integers or float32 numbers. */
  encode(lane, values) {
    const { columns, columnScales, scaled, inputs } = this;
    scaled.set(values.length > columns ? values.subarray(0, columns) : values);
    for (let j = 0; j < columns; j++) scaled[j] *= columnScales[j];
    const most = largestMagnitude(scaled);
    const [scale, worth] = most < 2 ** -100 ? [0, 0] : inputScale(most, this.largest);
    const at = lane * 2 * this.pairs;
    for (let j = 0; j < columns; j++) inputs[at + j] = rint(Math.fround(scaled[j] * scale));
    this.tokenScales[lane] = worth;
  }

  /** 1.4: the exact sums of the first lanes. */
  multiply(kernels, lanes) {
    const { codes, capacity, rows, inputs, pairs, results } = this;
    kernels.dots(codes, capacity, rows, inputs, 0, lanes, pairs, results);
  }

  /** 1.4: write (acc · r) · scale of the rows from `first` on. */
  product(lane, scale, out, first = 0) {
    const { rowScales } = this;
    const sums = this.sums[lane], count = out.length;
    for (let i = 0; i < count; i++) out[i] = Math.fround(Math.fround(sums[first + i]) * rowScales[first + i]) * scale;
  }
}
