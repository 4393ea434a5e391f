// Inner loops: sums of products of integers, below 2^31, so that every order and every engine gives
// the same. A matrix stands in blocks of 16 rows: int16 [blocks, pairs of columns, 16 rows, 2].
import { demand } from "./binary.mjs";
import { POWER_FRACTIONS, floatBits, powerOfTwo, rint } from "./fixed_point.mjs";
import { add, addInts, and, assemble, choose, divideLong, dotPairs, floatOfLong } from "./wasm.mjs";
import { floats, get, greaterInts, greatestInts, highInts, int, lane, leastInts } from "./wasm.mjs";
import { load, load32Splat, longOf, loop, lowInts, multiply, multiplyFloats } from "./wasm.mjs";
import { multiplyInts, rounded, set, shiftLeft, shiftRight, splat, splatFloat } from "./wasm.mjs";
import { store, subtractInts, truncated, twoTo46 } from "./wasm.mjs";

const BLOCK_ROWS = 16;
const PAGE_BYTES = 65536;
const ARENA_LIMIT = 2 ** 31;
const BATCHES = [2, 1]; // how many vectors or heads a function does at a time
/** The exponent of a place of a ring that holds no key (weigh). */
export const NO_KEY = -1000;

/** Return for how many rows a matrix in blocks has room. */
export const capacityFor = (rows) => Math.ceil(rows / BLOCK_ROWS) * BLOCK_ROWS;

/** Return where a matrix in blocks has a row's column. */
export const placeInBlocks = (pairs, row, column) =>
  (((row >> 4) * pairs + (column >> 1)) * BLOCK_ROWS + (row & 15)) * 2 + (column & 1);

/** The plain loops: the reference, and what runs where WebAssembly is missing. */
export const plainKernels = {
  /**
   * out[v · capacity + r] = Σ_j matrix[r, j] · vectors[at + v · 2 pairs + j] for the first rows (and
   * some more).
   */
  dots(matrix, capacity, rows, vectors, at, count, pairs, out) {
    out.fill(0, 0, count * capacity);
    for (let i = 0; i < count * rows; i++) {
      const [v, r] = [Math.floor(i / rows), i % rows];
      let sum = 0;
      for (let j = 0; j < 2 * pairs; j++) {
        sum += matrix[placeInBlocks(pairs, r, j)] * vectors[at + v * 2 * pairs + j];
      }
      out[v * capacity + r] = sum;
    }
  },

  /** out[h · width + i] = Σ_r weights[h · stride + r] · values[r · width + i]; width a multiple of 8. */
  mix(weights, stride, count, values, rows, width, out) {
    out.fill(0, 0, count * width);
    for (let i = 0; i < count * rows; i++) {
      const [h, r] = [Math.floor(i / rows), i % rows];
      const weight = weights[h * stride + r];
      for (let j = 0; j < width; j++) out[h * width + j] += weight * values[r * width + j];
    }
  },

  /** Exact.md, 5.3: turn products q·k at scores[at] ... into weights; NO_KEY gets none. */
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
      own[i] = rint(Math.fround(p * share) * power);
    });
  },
};

const each = (count, make) => Array.from({ length: count }, (_, i) => make(i)).flat();

/** `dots` of so many vectors at a time, with a block of rows at a time. */
function dotsFunction(vectors) {
  const [matrix, rowBytes, inputs, vectorBytes, out, outBytes, row, pair, from] = each(9, (i) => i);
  const [x, cell, sum] = [9, (q) => 10 + q, (v, q) => 14 + 4 * v + q];
  const input = (v) => add(add(get(inputs), multiply(get(vectorBytes), int(v))), get(pair));
  const result = (v) => add(add(get(out), multiply(get(outBytes), int(v))), get(row));
  const grow = (v, q) => set(sum(v, q), addInts(get(sum(v, q)), dotPairs(get(cell(q)), get(x))));
  const inner = [
    each(4, (q) => set(cell(q), load(get(from), 16 * q))),
    each(vectors, (v) => [...set(x, load32Splat(input(v))), ...each(4, (q) => grow(v, q))]),
    set(from, add(get(from), int(64))),
  ];
  const outer = [
    each(4 * vectors, (i) => set(sum(0, i), splat(int(0)))),
    loop(pair, int(4), get(vectorBytes), ...inner),
    each(vectors, (v) => each(4, (q) => store(result(v), get(sum(v, q)), 16 * q))),
  ];
  const body = [set(from, get(matrix)), loop(row, int(64), get(rowBytes), ...outer)];
  return { name: `dots${vectors}`, parameters: 6, ints: 3, vectors: 5 + 4 * vectors, body };
}

/** `mix` with the weights of so many heads at a time, eight columns at a time. */
function mixFunction(heads) {
  const [weights, strideBytes, values, widthBytes, valueBytes, out] = each(6, (i) => i);
  const [column, at, weight, cell, low, high, factor] = each(7, (i) => 6 + i);
  const sum = (h, half) => 13 + 2 * h + half;
  const grow = (h, half, part) =>
    set(sum(h, half), addInts(get(sum(h, half)), multiplyInts(get(part), get(factor))));
  const row = (h) => add(get(column), multiply(get(widthBytes), int(h)));
  const result = (h) => add(get(out), multiply(row(h), int(2)));
  const weightOf = (h) => load32Splat(add(get(weight), multiply(get(strideBytes), int(h))));
  const inner = [
    set(cell, load(add(add(get(values), get(column)), get(at)))),
    set(low, lowInts(get(cell))),
    set(high, highInts(get(cell))),
    each(heads, (h) => [...set(factor, weightOf(h)), ...grow(h, 0, low), ...grow(h, 1, high)]),
    set(weight, add(get(weight), int(4))),
  ];
  const outer = [
    each(2 * heads, (i) => set(sum(0, i), splat(int(0)))),
    set(weight, get(weights)),
    loop(at, get(widthBytes), get(valueBytes), ...inner),
    each(heads, (h) => each(2, (half) => store(result(h), get(sum(h, half)), 16 * half))),
  ];
  const body = [loop(column, int(16), get(widthBytes), ...outer)];
  return { name: `mix${heads}`, parameters: 6, ints: 3, vectors: 4 + 2 * heads, body };
}

/** `weigh`, four places at a time; the factor is given by its bits. */
function weighFunction() {
  const [scores, bytes, factor, exponents, largestExponent, at] = each(6, (i) => i);
  const [p, d, largest, total, share] = each(5, (i) => 6 + i);
  const constant = (value) => splat(int(value));
  const place = add(get(scores), get(at));
  const exponent = load(add(get(exponents), get(at)));
  const powerOf = (biased) => shiftLeft(biased, int(23)); // 2^(biased - 127), the bits of a float
  const across = (combine, local) =>
    set(local, each(4, (i) => [splat(lane(get(local), i))]).reduce((a, b) => combine(a, b)));
  const term = (inner) => shiftRight(multiplyInts(and(get(d), constant(4095)), inner), int(12));
  const power = [15110, 45313, 65536].reduce(
    (inner, coefficient) => subtractInts(constant(coefficient), term(inner)),
    constant(2565),
  );
  const dropped = leastInts(shiftRight(get(d), int(12)), constant(31));
  const score = rounded(multiplyFloats(floats(load(place)), splat(get(factor))));
  const fourAtATime = (...body) => loop(at, int(16), get(bytes), ...body, store(place, get(p)));
  const behind = greatestInts(subtractInts(exponent, splat(get(largestExponent))), constant(-90));
  const weight = multiplyFloats(floats(load(place)), get(share));
  const body = [
    set(largest, constant(-(2 ** 30))),
    fourAtATime(
      set(p, choose(score, constant(-(2 ** 30)), greaterInts(exponent, constant(NO_KEY)))),
      set(largest, greatestInts(get(largest), get(p))),
    ),
    across(greatestInts, largest),
    set(total, constant(0)),
    fourAtATime(
      set(d, subtractInts(get(largest), load(place))),
      set(p, multiplyFloats(floats(power), powerOf(subtractInts(constant(127), dropped)))),
      set(p, truncated(get(p))),
      set(total, addInts(get(total), get(p))),
    ),
    across(addInts, total),
    set(share, splatFloat(floatOfLong(divideLong(twoTo46, longOf(lane(get(total), 0)))))),
    fourAtATime(set(p, rounded(multiplyFloats(weight, powerOf(addInts(behind, constant(97))))))),
  ];
  return { name: "weigh", parameters: 5, ints: 1, vectors: 5, body };
}

/**
 * Return the kernels for arrays in this memory; the plain ones where WebAssembly or its vectors are
 * missing.
 */
function makeKernels(memory) {
  let calls;
  try {
    const functions = [...BATCHES.map(dotsFunction), ...BATCHES.map(mixFunction), weighFunction()];
    const module = new WebAssembly.Module(assemble(functions));
    calls = new WebAssembly.Instance(module, { m: { memory } }).exports;
  } catch {
    return plainKernels;
  }
  const inBatches = (name, count, run) => {
    for (let v = 0, batch; v < count; v += batch) {
      batch = BATCHES.find((size) => v + size <= count);
      run(calls[name + batch], v);
    }
  };
  return {
    dots(matrix, capacity, rows, vectors, at, count, pairs, out) {
      const place = (v) => vectors.byteOffset + 2 * at + 4 * v * pairs;
      const to = (v) => out.byteOffset + 4 * v * capacity;
      const run = (call, v) => call(matrix.byteOffset, 4 * rows, place(v), 4 * pairs, to(v), 4 * capacity);
      inBatches("dots", count, run);
    },
    mix(weights, stride, count, values, rows, width, out) {
      const [from, bytes] = [values.byteOffset, 2 * width * rows];
      const [place, to] = [(h) => weights.byteOffset + 4 * h * stride, (h) => out.byteOffset + 4 * h * width];
      const run = (call, h) => call(place(h), 4 * stride, from, 2 * width, bytes, to(h));
      inBatches("mix", count, run);
    },
    weigh(scores, at, count, factor, exponents, largestExponent) {
      const place = scores.byteOffset + 4 * at;
      calls.weigh(place, 16 * Math.ceil(count / 4), floatBits(factor), exponents.byteOffset, largestExponent);
    },
  };
}

/** Collect arrays that kernels work on; then lay them into one memory. */
export class Arena {
  constructor() {
    Object.assign(this, { requests: [], size: 0 });
  }

  /** Let owner[key] become an array of this type and length. */
  reserve(owner, key, Type, length) {
    this.requests.push({ owner, key, Type, length, offset: this.size });
    this.size = Math.ceil((this.size + length * Type.BYTES_PER_ELEMENT) / 16) * 16;
    demand(this.size < ARENA_LIMIT, "the files ask for more memory than there is");
  }

  /** Make all arrays, filled with zeros, and the kernels that work on them. */
  allocate() {
    const pages = { initial: Math.ceil(this.size / PAGE_BYTES) };
    const memory = globalThis.WebAssembly && new WebAssembly.Memory(pages);
    const buffer = memory ? memory.buffer : new ArrayBuffer(this.size);
    for (const { owner, key, Type, length, offset } of this.requests) {
      owner[key] = new Type(buffer, offset, length);
    }
    this.kernels = memory ? makeKernels(memory) : plainKernels;
  }
}
