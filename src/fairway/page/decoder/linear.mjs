// Matrix products (exact.md, sections 1.3 and 1.4), and the operands that an artifact's matrices become.
import { demand } from "./binary.mjs";
import { floatBits, largestMagnitude, powerOfTwo, rint } from "./fixed_point.mjs";
import { capacityFor, placeInPairs } from "./kernels.mjs";
import { quarterPower } from "./weights.mjs";

const MOST_CODE = 32767;
const FINE_CODE = 1023;
const MOST_RANGES = 64;

/** Refuse a row's scale that could let products overflow (section 9). */
export function demandScale(scale, name) {
  demand(scale >= 2 ** -60 && scale <= 2 ** 20, `the model's rows of ${name} have scales beyond exact arithmetic`);
}

/** Return the largest A <= 32767 with A · Σ|w| < 2^24 for every row, of so many ranges of columns. */
function largestInput(matrices, columns, ranges) {
  let most = MOST_CODE;
  for (const { rows, codes } of matrices) {
    for (let r = 0; r < rows; r++) {
      for (let i = 0; i < ranges; i++) {
        let sum = 0;
        const stop = Math.floor(((i + 1) * columns) / ranges);
        for (let c = Math.floor((i * columns) / ranges); c < stop; c++) sum += Math.abs(codes[r * columns + c]);
        if (sum * most >= 2 ** 24) most = Math.floor((2 ** 24 - 1) / sum);
      }
    }
  }
  return most;
}

/** A matrix, or several that stand on one another and share their columns' scales, as an operand of products. */
export class Linear {
  /**
   * @param arena where its codes and inputs will lie
   * @param name what to call it in sentences
   * @param matrices of the artifact: see readMatrices
   * @param lanes how many inputs there are at a time
   * @param rowFactor (row) => float32 factor of a row's scale, beyond its own
   * @param exponents of the columns, in quarters of an octave, if not the matrices' own
   */
  constructor(arena, name, matrices, lanes, rowFactor, exponents = matrices[0].columnExponents) {
    this.matrices = matrices;
    this.rows = matrices.reduce((sum, { rows }) => sum + rows, 0);
    this.columns = matrices[0].columns;
    this.pairs = (this.columns + 1) >> 1;
    this.capacity = capacityFor(this.rows);
    const most = exponents.reduce((a, b) => Math.max(a, b));
    this.columnScales = Float32Array.from(exponents, (e) => (e < most - 240 ? 0 : quarterPower(e - most)));
    this.rowScales = new Float32Array(this.rows);
    let row = 0;
    for (const { rows, rowScale } of matrices) {
      for (let r = 0; r < rows; r++, row++) {
        const scale = rowScale(r, most);
        demandScale(scale, name);
        this.rowScales[row] = scale * rowFactor(row);
      }
    }
    let ranges = 1;
    this.largest = largestInput(matrices, this.columns, ranges);
    while (this.largest < FINE_CODE && ranges < Math.min(MOST_RANGES, this.columns)) {
      this.largest = largestInput(matrices, this.columns, ++ranges);
    }
    demand(this.largest >= 1, `the model's codes of ${name} are beyond exact arithmetic`);
    this.steps = Float32Array.from({ length: 8 }, (_, t) => (this.largest * 8) / (9 + t));
    this.worths = Float32Array.from({ length: 8 }, (_, t) => (9 + t) / (8 * this.largest));
    this.scaled = new Float32Array(this.columns);
    this.tokenScales = new Float32Array(lanes);
    arena.reserve(this, "codes", Int16Array, 2 * this.pairs * this.capacity);
    arena.reserve(this, "inputs", Int16Array, lanes * 2 * this.pairs);
    arena.reserve(this, "sums", Int32Array, lanes * this.capacity);
  }

  /** Put the codes in their places. */
  fill() {
    let row = 0;
    for (const { rows, columns, codes } of this.matrices) {
      for (let r = 0; r < rows; r++, row++) {
        for (let c = 0; c < columns; c++) this.codes[placeInPairs(this.capacity, row, c)] = codes[r * columns + c];
      }
    }
    this.matrices = null;
  }

  /** 1.3: make a lane's codes from values[start] ..., integers or float32. */
  encode(lane, values, start) {
    const { columns, columnScales, scaled, inputs } = this;
    for (let j = 0; j < columns; j++) scaled[j] = Math.fround(values[start + j]) * columnScales[j];
    const most = largestMagnitude(scaled, 0, columns);
    const at = lane * 2 * this.pairs;
    if (most < 2 ** -100) {
      inputs.fill(0, at, at + columns);
      this.tokenScales[lane] = 0;
      return;
    }
    const bits = floatBits(most);
    const exponent = (bits >> 23) - 127;
    const eighth = (bits >> 20) & 7;
    const scale = this.steps[eighth] * powerOfTwo(-exponent);
    for (let j = 0; j < columns; j++) inputs[at + j] = rint(Math.fround(scaled[j] * scale));
    this.tokenScales[lane] = this.worths[eighth] * powerOfTwo(exponent);
  }

  /** 1.4: the products of all lanes' codes, exact sums [lane, capacity]. */
  multiply(kernels, lanes) {
    const { codes, capacity, rows, inputs, pairs, sums } = this;
    kernels.dots(codes, 0, capacity, rows, inputs, 0, lanes, pairs, sums, 0, capacity);
  }
}
