// Inner loops: sums of products of integers, below 2^31, so that every order and every engine gives
// the same. A matrix stands in blocks of 16 rows: int16 [blocks, pairs of columns, 16 rows, 2].
import { demand } from "./binary.mjs";
import { POWER_FRACTIONS, floatBits, powerOfTwo, rint } from "./fixed_point.mjs";
import { assemble, dotsFunction, weighFunction } from "./wasm.mjs";

const BLOCK_ROWS = 16;
const PAGE_BYTES = 65536;
const ARENA_LIMIT = 2 ** 31;
/** The exponent of a place of a ring that holds no key (weigh). */
export const NO_KEY = -1000;

/** Return for how many rows a matrix in blocks has room. */
export const capacityFor = (rows) => Math.ceil(rows / BLOCK_ROWS) * BLOCK_ROWS;

/** Return where a matrix in blocks, with room for so many pairs of columns, has a row's column. */
export const placeInBlocks = (stride, row, column) =>
  (((row >> 4) * stride + (column >> 1)) * BLOCK_ROWS + (row & 15)) * 2 + (column & 1);

/** Return a weight w of 17 bits as two halves of an int32, w mod 128 and ⌊w / 128⌋. */
export const halvesOf = (weight) => weight + (weight >> 7) * (65536 - 128);

/** The plain loops: the reference, and what runs where WebAssembly is missing. */
export const plainKernels = {
  /**
   * out[v · outStride + r] = Σ_j matrix[r, j] · vectors[at + v · 2 stride + j] for the first rows
   * (and some more) and the columns j of the first pairs.
   */
  dots(matrix, stride, pairs, rows, vectors, at, count, out, outStride) {
    for (let i = 0; i < count * rows; i++) {
      const [v, r] = [Math.floor(i / rows), i % rows];
      let sum = 0;
      for (let j = 0; j < 2 * pairs; j++) {
        sum += matrix[placeInBlocks(stride, r, j)] * vectors[at + 2 * v * stride + j];
      }
      out[v * outStride + r] = sum;
    }
  },

  /** Exact.md, 5.3: turn products q·k at scores[at] ... into weights, halvesOf; NO_KEY gets 0. */
  weigh(scores, at, count, factor, exponents, largestExponent) {
    const own = scores.subarray(at, at + count);
    own.forEach((product, i) => {
      own[i] = exponents[i] > NO_KEY ? rint(Math.fround(product * factor)) : -(2 ** 30);
    });
    const largest = own.reduce((a, b) => Math.max(a, b));
    own.forEach((score, i) => {
      const d = largest - score;
      own[i] = POWER_FRACTIONS[d & 4095] >> Math.min(d >> 12, 31);
    });
    const total = own.reduce((a, b) => a + b);
    const share = Math.fround(Math.floor(2 ** 46 / total)) * 2 ** -30;
    own.forEach((p, i) => {
      const power = powerOfTwo(Math.max(exponents[i] - largestExponent, -90));
      own[i] = halvesOf(rint(Math.fround(p * share) * power));
    });
  },
};

/** Return the kernels for arrays in this memory; the plain ones where there is no WebAssembly. */
function makeKernels(memory) {
  let calls;
  try {
    const module = new WebAssembly.Module(assemble([dotsFunction(), weighFunction(NO_KEY)]));
    calls = new WebAssembly.Instance(module, { m: { memory } }).exports;
  } catch {
    return plainKernels;
  }
  return {
    dots(matrix, stride, pairs, rows, vectors, at, count, out, outStride) {
      const first = matrix.byteOffset;
      for (let v = 0; v < count; v += 2) {
        const from = vectors.byteOffset + 2 * at + 4 * v * stride;
        const to = out.byteOffset + 4 * v * outStride;
        const [apart, outApart] = v + 1 < count ? [4 * stride, 4 * outStride] : [0, 0]; // one twice
        calls.dots(first, 64 * stride, 4 * pairs, 4 * rows, from, apart, to, outApart);
      }
    },
    weigh(scores, at, count, factor, exponents, largestExponent) {
      const [from, bytes] = [scores.byteOffset + 4 * at, 16 * Math.ceil(count / 4)];
      calls.weigh(from, bytes, floatBits(factor), exponents.byteOffset, largestExponent);
    },
  };
}

/** Collect arrays that kernels work on; then lay them into one memory. */
export class Arena {
  constructor() { Object.assign(this, { requests: [], size: 0 }); }

  /** Let owner[key] become an array of this type and length, which begins with these values. */
  reserve(owner, key, Type, length, values = []) {
    this.requests.push({ owner, key, Type, length, values, offset: this.size });
    this.size = Math.ceil((this.size + length * Type.BYTES_PER_ELEMENT) / 16) * 16;
    demand(this.size < ARENA_LIMIT, "the files ask for more memory than there is");
  }

  /** Make all arrays, and the kernels that work on them. */
  allocate() {
    const pages = { initial: Math.ceil(this.size / PAGE_BYTES) };
    const memory = globalThis.WebAssembly && new WebAssembly.Memory(pages);
    const buffer = memory ? memory.buffer : new ArrayBuffer(this.size);
    for (const { owner, key, Type, length, values, offset } of this.requests) {
      owner[key] = new Type(buffer, offset, length);
      owner[key].set(values);
    }
    this.requests = [];
    this.kernels = memory ? makeKernels(memory) : plainKernels;
  }
}
