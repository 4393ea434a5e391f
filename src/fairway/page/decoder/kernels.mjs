// Inner loops: sums of products of integers, below 2^31, so that every order and every engine gives the same.
// A matrix stands in pairs: columns 2j and 2j + 1 of all rows together, int16 [columns / 2, capacity, 2].
import { demand } from "./binary.mjs";
import { add, addInts, assemble, dotPairs, get, highInts, int, load, load32Splat, loop, lowInts } from "./wasm.mjs";
import { multiply, multiplyInts, set, intsOf, store } from "./wasm.mjs";

const ROWS_AT_A_TIME = 16;

/** Return how many rows a matrix in pairs has room for. */
export function capacityFor(rows) {
  return Math.ceil(rows / ROWS_AT_A_TIME) * ROWS_AT_A_TIME;
}

/** Return where a matrix in pairs has a row's column. */
export function placeInPairs(capacity, row, column) {
  return ((column >> 1) * capacity + row) * 2 + (column & 1);
}

/** The plain loops: the reference, and what runs where WebAssembly is missing. */
export const plainKernels = {
  /**
   * out[v · outStride + r] = Σ_j matrix[r, j] · vectors[v · 2 pairs + j] for the first `rows` rows (and some more).
   */
  dots(matrix, matrixAt, capacity, rows, vectors, vectorsAt, count, pairs, out, outAt, outStride) {
    for (let v = 0; v < count; v++) {
      const to = outAt + v * outStride;
      out.fill(0, to, to + rows);
      for (let j = 0; j < pairs; j++) {
        const x = vectors[vectorsAt + 2 * (v * pairs + j)];
        const y = vectors[vectorsAt + 2 * (v * pairs + j) + 1];
        const from = matrixAt + 2 * j * capacity;
        for (let r = 0; r < rows; r++) out[to + r] += matrix[from + 2 * r] * x + matrix[from + 2 * r + 1] * y;
      }
    }
  },

  /** out[h · width + i] = Σ_r weights[h · weightStride + r] · values[r · width + i]; width a multiple of 8. */
  mix(weights, weightsAt, weightStride, count, values, valuesAt, rows, width, out, outAt) {
    out.fill(0, outAt, outAt + count * width);
    for (let h = 0; h < count; h++) {
      for (let r = 0; r < rows; r++) {
        const weight = weights[weightsAt + h * weightStride + r];
        for (let i = 0; i < width; i++) out[outAt + h * width + i] += weight * values[valuesAt + r * width + i];
      }
    }
  },
};

const each = (count, make) => Array.from({ length: count }, (_, i) => make(i)).flat();

/** `dots` of so many vectors at a time, with so many times four rows at a time. */
function dotsFunction(vectors, quads) {
  const [matrix, pairBytes, rowsEnd, inputs, inputBytes, pairsEnd, out, outBytes, row, pair, from] = each(11, (i) => i);
  const input = (v) => 11 + v;
  const x = 11 + vectors;
  const cell = (q) => x + 1 + q;
  const sum = (v, q) => x + 1 + quads + v * quads + q;
  const result = (v) => add(add(get(out), multiply(get(outBytes), int(v))), get(row));
  const body = [
    each(vectors, (v) => set(input(v), add(get(inputs), multiply(get(inputBytes), int(v))))),
    loop(
      row,
      int(16 * quads),
      get(rowsEnd),
      each(vectors * quads, (i) => set(sum(0, i), intsOf(int(0)))),
      set(from, add(get(matrix), get(row))),
      set(pair, int(0)),
      loop(
        pair,
        int(4),
        get(pairsEnd),
        each(quads, (q) => set(cell(q), load(get(from), 16 * q))),
        each(vectors, (v) => [
          ...set(x, load32Splat(add(get(input(v)), get(pair)))),
          ...each(quads, (q) => set(sum(v, q), addInts(get(sum(v, q)), dotPairs(get(cell(q)), get(x))))),
        ]),
        set(from, add(get(from), get(pairBytes))),
      ),
      each(vectors, (v) => each(quads, (q) => store(result(v), get(sum(v, q)), 16 * q))),
    ),
  ];
  return { name: `dots${vectors}`, parameters: 8, ints: 3 + vectors, vectors: 1 + quads + vectors * quads, body };
}

/** `mix` with the weights of so many heads at a time, eight columns at a time. */
function mixFunction(heads) {
  const [weights, weightBytes, values, widthBytes, valueBytes, out, column, at, weight] = each(9, (i) => i);
  const [cell, low, high, splat] = each(4, (i) => 9 + i);
  const sum = (h, half) => 13 + 2 * h + half;
  const grow = (h, half, part) => set(sum(h, half), addInts(get(sum(h, half)), multiplyInts(get(part), get(splat))));
  const result = (h) => add(get(out), multiply(add(get(column), multiply(get(widthBytes), int(h))), int(2)));
  const body = loop(
    column,
    int(16),
    get(widthBytes),
    each(2 * heads, (i) => set(sum(0, i), intsOf(int(0)))),
    set(weight, get(weights)),
    set(at, int(0)),
    loop(
      at,
      get(widthBytes),
      get(valueBytes),
      set(cell, load(add(add(get(values), get(column)), get(at)))),
      set(low, lowInts(get(cell))),
      set(high, highInts(get(cell))),
      each(heads, (h) => [
        ...set(splat, load32Splat(add(get(weight), multiply(get(weightBytes), int(h))))),
        ...grow(h, 0, low),
        ...grow(h, 1, high),
      ]),
      set(weight, add(get(weight), int(4))),
    ),
    each(heads, (h) => [...store(result(h), get(sum(h, 0))), ...store(result(h), get(sum(h, 1)), 16)]),
  );
  return { name: `mix${heads}`, parameters: 6, ints: 3, vectors: 4 + 2 * heads, body: [body] };
}

const BATCHES = [4, 2, 1];
const MODULE = assemble([...BATCHES.map((v) => dotsFunction(v, v > 2 ? 2 : 4)), ...BATCHES.map(mixFunction)]);

/** Return the kernels for arrays in this memory; the plain ones where WebAssembly or its vectors are missing. */
export function makeKernels(memory) {
  let calls;
  try {
    calls = new WebAssembly.Instance(new WebAssembly.Module(MODULE), { m: { memory } }).exports;
  } catch {
    return plainKernels;
  }
  const place = (array, index) => array.byteOffset + index * array.BYTES_PER_ELEMENT;
  /** Do `count` vectors in batches of 4, 2 or 1. */
  const inBatches = (name, count, run) => {
    for (let v = 0; v < count; ) {
      const batch = BATCHES.find((size) => v + size <= count);
      run(calls[name + batch], v);
      v += batch;
    }
  };
  return {
    dots(matrix, matrixAt, capacity, rows, vectors, vectorsAt, count, pairs, out, outAt, outStride) {
      const from = place(matrix, matrixAt);
      inBatches("dots", count, (call, v) => {
        const input = place(vectors, vectorsAt + 2 * v * pairs);
        call(from, 4 * capacity, 4 * rows, input, 4 * pairs, 4 * pairs, place(out, outAt + v * outStride), 4 * outStride);
      });
    },
    mix(weights, weightsAt, weightStride, count, values, valuesAt, rows, width, out, outAt) {
      const from = place(values, valuesAt);
      inBatches("mix", count, (call, h) => {
        const weight = place(weights, weightsAt + h * weightStride);
        call(weight, 4 * weightStride, from, 2 * width, 2 * width * rows, place(out, outAt + h * width));
      });
    },
  };
}

/** Collect arrays that kernels work on; then lay them into one memory. */
export class Arena {
  constructor() {
    this.requests = [];
    this.size = 0;
  }

  /** Let owner[key] become an array of this type and length. */
  reserve(owner, key, Type, length) {
    this.requests.push({ owner, key, Type, length, offset: this.size });
    this.size = (this.size + length * Type.BYTES_PER_ELEMENT + 15) & ~15;
    demand(this.size >= 0 && this.size < 2 ** 31, "the files ask for more memory than there is");
  }

  /** Make all arrays, filled with zeros; returns the kernels that work on them. */
  allocate() {
    const pages = Math.ceil(this.size / 65536);
    const memory = globalThis.WebAssembly ? new WebAssembly.Memory({ initial: pages }) : null;
    const buffer = memory ? memory.buffer : new ArrayBuffer(this.size);
    for (const { owner, key, Type, length, offset } of this.requests) owner[key] = new Type(buffer, offset, length);
    return memory ? makeKernels(memory) : plainKernels;
  }
}
