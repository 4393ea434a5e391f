// A small assembler for WebAssembly: expressions are arrays of bytes, made by functions named after instructions.

/** LEB128, unsigned for indices and offsets, signed for constants. */
function unsigned(value) {
  return value < 128 ? [value] : [(value & 127) | 128, ...unsigned(value >>> 7)];
}

function signed(value) {
  if (value >= -64 && value < 64) return [value & 127];
  return [(value & 127) | 128, ...signed(value >> 7)];
}

export const get = (local) => [0x20, local];
export const set = (local, value) => [...value, 0x21, local];
export const int = (value) => [0x41, ...signed(value)];
export const add = (a, b) => [...a, ...b, 0x6a];
export const multiply = (a, b) => [...a, ...b, 0x6c];
/** v128 instructions by their number; `vector(0x51)` and such take operands, memory accesses an offset, too. */
export const vector = (code, ...operands) => [...operands.flat(), 0xfd, ...unsigned(code)];
export const load = (address, offset = 0) => [...address, 0xfd, 0x00, 4, ...unsigned(offset)];
export const load32Splat = (address, offset = 0) => [...address, 0xfd, 0x09, 2, ...unsigned(offset)];
export const store = (address, value, offset = 0) => [...address, ...value, 0xfd, 0x0b, 4, ...unsigned(offset)];
export const intsOf = (value) => vector(0x11, value); // i32x4.splat
export const addInts = (a, b) => vector(0xae, a, b); // i32x4.add
export const multiplyInts = (a, b) => vector(0xb5, a, b); // i32x4.mul
export const dotPairs = (a, b) => vector(0xba, a, b); // i32x4.dot_i16x8_s
export const lowInts = (a) => vector(0xa7, a); // i32x4.extend_low_i16x8_s
export const highInts = (a) => vector(0xa8, a); // i32x4.extend_high_i16x8_s

/** Repeat the body while the local, moved on by `step` after each round, is below `end`; at least once. */
export const loop = (local, step, end, ...body) => [
  ...[0x03, 0x40, ...body.flat(), ...set(local, add(get(local), step))],
  ...[...get(local), ...end, 0x49, 0x0d, 0, 0x0b],
];

/** Assemble functions {name, parameters: how many i32, ints and vectors: how many locals, body} over one memory. */
export function assemble(functions) {
  const section = (id, items) => [id, ...sized([...unsigned(items.length), ...items.flat()])];
  const sized = (bytes) => [...unsigned(bytes.length), ...bytes];
  const text = (name) => sized(Array.from(name, (character) => character.charCodeAt(0)));
  return Uint8Array.from([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, functions.map(({ parameters }) => [0x60, ...sized(new Array(parameters).fill(0x7f)), 0])),
    ...section(2, [[...text("m"), ...text("memory"), 2, 0, 0]]),
    ...section(3, functions.map((_, i) => unsigned(i))),
    ...section(7, functions.map(({ name }, i) => [...text(name), 0, ...unsigned(i)])),
    ...section(10, functions.map(({ ints, vectors, body }) => sized([2, ...unsigned(ints), 0x7f, ...unsigned(vectors), 0x7b, ...body.flat(), 0x0b]))),
  ]);
}
