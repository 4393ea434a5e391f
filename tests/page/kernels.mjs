// Compare the kernels in WebAssembly with the plain loops, on extreme and random integers.
//
//     node kernels.mjs FOLDER     prints how many results were compared

import { pathToFileURL } from "node:url";

const { Arena, NO_KEY, capacityFor, placeInBlocks, plainKernels } = await import(new URL("kernels.mjs", pathToFileURL(process.argv[2] + "/")));

let state = 1;
function random(limit) {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * limit);
}

/** An integer of magnitude up to `largest`, often 0 or extreme. */
function integer(largest) {
  const kind = random(8);
  if (kind < 2) return kind === 0 ? largest : -largest;
  return kind === 2 ? 0 : random(2 * largest + 1) - largest;
}

/** Run one kernel on arrays of equal contents in two memories; return how many results were compared. */
function compare(name, requests, fill, call) {
  const [fast, plain] = [{}, {}];
  const makers = [fast, plain].map((owner) => {
    const arena = new Arena();
    for (const [key, Type, length] of requests) arena.reserve(owner, key, Type, length);
    arena.allocate();
    return arena.kernels;
  });
  if (makers[0] === plainKernels) throw new Error("there is no WebAssembly here");
  fill(fast);
  for (const [key] of requests) plain[key].set(fast[key]);
  call(makers[0][name], fast);
  call(plainKernels[name], plain);
  for (const [i, value] of plain.out.entries()) {
    if (fast.out[i] !== value) throw new Error(`${name}: result ${i} is ${fast.out[i]}, not ${value}`);
  }
  return plain.out.length;
}

let compared = 0;
for (const count of [1, 2, 3, 4, 5, 7, 8]) {
  for (const [rows, pairs] of [[1, 1], [15, 2], [16, 3], [17, 8], [48, 31], [100, 1], [150, 9]]) {
    const capacity = capacityFor(rows);
    const [at, stride] = [2 * random(4), pairs + random(3)];
    // Sums stay below 2^31, as the decoder's do.
    const largest = Math.min(Math.floor(Math.sqrt((2 ** 31 - 1) / (2 * pairs))), 32767);
    const requests = [
      ["matrix", Int16Array, 2 * capacity * stride],
      ["vectors", Int16Array, at + 2 * count * stride],
      ["out", Int32Array, count * capacity],
    ];
    const fill = ({ matrix, vectors }) => {
      for (let i = 0; i < 2 * stride * rows; i++) {
        matrix[placeInBlocks(stride, i % rows, Math.floor(i / rows))] = integer(largest);
      }
      for (let i = 0; i < vectors.length; i++) vectors[i] = integer(largest);
    };
    compared += compare("dots", requests, fill, (kernel, { matrix, vectors, out }) => {
      kernel(matrix, stride, pairs, rows, vectors, at, count, out, capacity);
    });
  }
}
// Products of 24 bits; factors that spread the scores little, much, and the other way; places without keys.
for (const count of [4, 8, 60, 256]) {
  for (const factor of [0, 0.001, 0.37, -0.5, 32].map(Math.fround)) {
    const at = 4 * random(5);
    const requests = [["out", Int32Array, at + count], ["exponents", Int32Array, count]];
    const fill = ({ out, exponents }) => {
      for (let i = 0; i < count; i++) out[at + i] = factor > 1 ? integer(1000) : integer(2 ** 24 - 1);
      for (let i = 0; i < count; i++) exponents[i] = i % 5 === 3 ? NO_KEY : integer([2, 30, 130][random(3)]);
    };
    compared += compare("weigh", requests, fill, (kernel, { out, exponents }) => {
      kernel(out, at, count, factor, exponents, exponents.reduce((a, b) => Math.max(a, b)));
    });
  }
}
console.log(compared);
