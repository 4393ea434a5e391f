// A small assembler for WebAssembly: expressions are arrays of bytes, made by functions named after instructions.

/** LEB128: unsigned for indices, signed for constants. */
const unsigned = (value) => (value < 128 ? [value] : [(value & 127) | 128, ...unsigned(value >>> 7)]);
const signed = (value) => (value >= -64 && value < 64 ? [value & 127] : [(value & 127) | 128, ...signed(value >> 7)]);

export const get = (local) => [0x20, local];
export const set = (local, value) => [...value, 0x21, local];
export const int = (value) => [0x41, ...signed(value)];
export const add = (a, b) => [...a, ...b, 0x6a];
export const multiply = (a, b) => [...a, ...b, 0x6c];
const vector = (code, ...operands) => [...operands.flat(), 0xfd, ...unsigned(code)];
export const load = (address, offset = 0) => [...vector(0, address), 4, ...unsigned(offset)];
export const load32Splat = (address) => [...vector(9, address), 2, 0];
export const store = (address, value, offset = 0) => [...vector(11, address, value), 4, ...unsigned(offset)];
export const zeros = vector(0x11, int(0)); // i32x4.splat
export const addInts = (a, b) => vector(0xae, a, b); // i32x4.add
export const multiplyInts = (a, b) => vector(0xb5, a, b); // i32x4.mul
export const dotPairs = (a, b) => vector(0xba, a, b); // i32x4.dot_i16x8_s
export const lowInts = (a) => vector(0xa7, a); // i32x4.extend_low_i16x8_s
export const highInts = (a) => vector(0xa8, a); // i32x4.extend_high_i16x8_s

/** Repeat the body while the local, which moves on by `step` after each round from 0, is below `end`; at least once. */
export function loop(local, step, end, ...body) {
  const round = [...body.flat(), ...set(local, add(get(local), step)), ...get(local), ...end, 0x49, 0x0d, 0];
  return [...set(local, int(0)), 0x03, 0x40, ...round, 0x0b];
}

/** Assemble functions {name, parameters: how many i32, ints and vectors: how many locals, body} over one memory. */
export function assemble(functions) {
  const sized = (bytes) => [...unsigned(bytes.length), ...bytes];
  const section = (id, items) => [id, ...sized([...unsigned(items.length), ...items.flat()])];
  const text = (name) => sized(Array.from(name, (character) => character.charCodeAt(0)));
  const locals = ({ ints, vectors }) => [2, ...unsigned(ints), 0x7f, ...unsigned(vectors), 0x7b];
  return Uint8Array.from([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, functions.map(({ parameters }) => [0x60, ...sized(new Array(parameters).fill(0x7f)), 0])),
    ...section(2, [[...text("m"), ...text("memory"), 2, 0, 0]]),
    ...section(3, functions.map((_, i) => unsigned(i))),
    ...section(7, functions.map(({ name }, i) => [...text(name), 0, ...unsigned(i)])),
    ...section(10, functions.map((made) => sized([...locals(made), ...made.body.flat(), 0x0b]))),
  ]);
}
