// Inner loops: sums of products of integers, below 2^31, so that every order and every engine gives the same.
// A matrix stands in pairs: columns 2j and 2j + 1 of all rows together, int16 [columns / 2, capacity, 2].
import { demand } from "./binary.mjs";
import { add, addInts, assemble, dotPairs, get, highInts, int, load, load32Splat, loop, lowInts } from "./wasm.mjs";
import { multiply, multiplyInts, set, store, zeros } from "./wasm.mjs";

const ROWS_AT_A_TIME = 16;
const PAGE_BYTES = 65536;
const ARENA_LIMIT = 2 ** 31;
const BATCHES = [4, 2, 1]; // how many vectors or heads a function does at a time

/** Return how many rows a matrix in pairs has room for. */
export const capacityFor = (rows) => Math.ceil(rows / ROWS_AT_A_TIME) * ROWS_AT_A_TIME;
/** Return where a matrix in pairs has a row's column. */
export const placeInPairs = (capacity, row, column) => ((column >> 1) * capacity + row) * 2 + (column & 1);

/** The plain loops: the reference, and what runs where WebAssembly is missing. */
export const plainKernels = {
  /** out[v · capacity + r] = Σ_j matrix[r, j] · vectors[at + v · 2 pairs + j] for the first rows (and some more). */
  dots(matrix, capacity, rows, vectors, at, count, pairs, out) {
    out.fill(0, 0, count * capacity);
    for (let i = 0; i < count * pairs; i++) {
      const to = Math.floor(i / pairs) * capacity, from = (i % pairs) * 2 * capacity;
      const [x, y] = [vectors[at + 2 * i], vectors[at + 2 * i + 1]];
      for (let r = 0; r < rows; r++) out[to + r] += matrix[from + 2 * r] * x + matrix[from + 2 * r + 1] * y;
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
};

const each = (count, make) => Array.from({ length: count }, (_, i) => make(i)).flat();

/** `dots` of so many vectors at a time, with so many times four rows at a time. */
function dotsFunction(vectors) {
  const quads = vectors > 2 ? 2 : 4;
  const [matrix, pairBytes, rowBytes, inputs, vectorBytes, out, row, pair, from] = each(9, (i) => i);
  const input = (v) => 9 + v;
  const x = 9 + vectors;
  const cell = (q) => x + 1 + q;
  const sum = (v, q) => x + 1 + quads + v * quads + q;
  const result = (v) => add(add(get(out), multiply(get(pairBytes), int(v))), get(row));
  const grow = (v, q) => set(sum(v, q), addInts(get(sum(v, q)), dotPairs(get(cell(q)), get(x))));
  const inner = [
    each(quads, (q) => set(cell(q), load(get(from), 16 * q))),
    each(vectors, (v) => [...set(x, load32Splat(add(get(input(v)), get(pair)))), ...each(quads, (q) => grow(v, q))]),
    set(from, add(get(from), get(pairBytes))),
  ];
  const outer = [
    each(vectors * quads, (i) => set(sum(0, i), zeros)),
    set(from, add(get(matrix), get(row))),
    loop(pair, int(4), get(vectorBytes), ...inner),
    each(vectors, (v) => each(quads, (q) => store(result(v), get(sum(v, q)), 16 * q))),
  ];
  const begin = each(vectors, (v) => set(input(v), add(get(inputs), multiply(get(vectorBytes), int(v)))));
  const body = [begin, loop(row, int(16 * quads), get(rowBytes), ...outer)];
  return { name: `dots${vectors}`, parameters: 6, ints: 3 + vectors, vectors: 1 + quads + vectors * quads, body };
}

/** `mix` with the weights of so many heads at a time, eight columns at a time. */
function mixFunction(heads) {
  const [weights, strideBytes, values, widthBytes, valueBytes, out, column, at, weight] = each(9, (i) => i);
  const [cell, low, high, splat] = each(4, (i) => 9 + i);
  const sum = (h, half) => 13 + 2 * h + half;
  const grow = (h, half, part) => set(sum(h, half), addInts(get(sum(h, half)), multiplyInts(get(part), get(splat))));
  const result = (h) => add(get(out), multiply(add(get(column), multiply(get(widthBytes), int(h))), int(2)));
  const weightOf = (h) => load32Splat(add(get(weight), multiply(get(strideBytes), int(h))));
  const inner = [
    set(cell, load(add(add(get(values), get(column)), get(at)))),
    set(low, lowInts(get(cell))),
    set(high, highInts(get(cell))),
    each(heads, (h) => [...set(splat, weightOf(h)), ...grow(h, 0, low), ...grow(h, 1, high)]),
    set(weight, add(get(weight), int(4))),
  ];
  const outer = [
    each(2 * heads, (i) => set(sum(0, i), zeros)),
    set(weight, get(weights)),
    loop(at, get(widthBytes), get(valueBytes), ...inner),
    each(heads, (h) => [...store(result(h), get(sum(h, 0))), ...store(result(h), get(sum(h, 1)), 16)]),
  ];
  const body = [loop(column, int(16), get(widthBytes), ...outer)];
  return { name: `mix${heads}`, parameters: 6, ints: 3, vectors: 4 + 2 * heads, body };
}

/** Return the kernels for arrays in this memory; the plain ones where WebAssembly or its vectors are missing. */
function makeKernels(memory) {
  let calls;
  try {
    const module = new WebAssembly.Module(assemble([...BATCHES.map(dotsFunction), ...BATCHES.map(mixFunction)]));
    calls = new WebAssembly.Instance(module, { m: { memory } }).exports;
  } catch { return plainKernels; }
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
      const run = (call, v) => call(matrix.byteOffset, 4 * capacity, 4 * rows, place(v), 4 * pairs, to(v));
      inBatches("dots", count, run);
    },
    mix(weights, stride, count, values, rows, width, out) {
      const [from, bytes] = [values.byteOffset, 2 * width * rows];
      const [place, to] = [(h) => weights.byteOffset + 4 * h * stride, (h) => out.byteOffset + 4 * h * width];
      const run = (call, h) => call(place(h), 4 * stride, from, 2 * width, bytes, to(h));
      inBatches("mix", count, run);
    },
  };
}

/** Collect arrays that kernels work on; then lay them into one memory. */
export class Arena {
  constructor() { Object.assign(this, { requests: [], size: 0 }); }

  /** Let owner[key] become an array of this type and length. */
  reserve(owner, key, Type, length) {
    this.requests.push({ owner, key, Type, length, offset: this.size });
    this.size = Math.ceil((this.size + length * Type.BYTES_PER_ELEMENT) / 16) * 16;
    demand(this.size < ARENA_LIMIT, "the files ask for more memory than there is");
  }

  /** Make all arrays, filled with zeros; returns the kernels that work on them. */
  allocate() {
    const memory = globalThis.WebAssembly && new WebAssembly.Memory({ initial: Math.ceil(this.size / PAGE_BYTES) });
    const buffer = memory ? memory.buffer : new ArrayBuffer(this.size);
    for (const { owner, key, Type, length, offset } of this.requests) owner[key] = new Type(buffer, offset, length);
    return memory ? makeKernels(memory) : plainKernels;
  }
}
