// A small assembler for WebAssembly: expressions are arrays of bytes, made by functions named after
// instructions.

/** LEB128, of signed integers; `unsigned` of others. */
const signed = (value) =>
  value >= -64 && value < 64 ? [value & 127] : [(value & 127) | 128, ...signed(value >> 7)];
const unsigned = (value) =>
  value < 128 ? [value] : [(value & 127) | 128, ...unsigned(value >>> 7)];

const operation = (...code) => (...operands) => [...operands.flat(), ...code];
const vector = (code) => operation(0xfd, ...unsigned(code));

export const get = (local) => [0x20, local];
export const set = (local, value) => [...value, 0x21, local];
export const int = (value) => [0x41, ...signed(value)];
export const twoTo46 = [0x42, ...new Array(6).fill(0x80), 0x10]; // i64.const
export const add = operation(0x6a);
export const multiply = operation(0x6c);
export const divideLong = operation(0x80); // i64.div_u
export const longOf = operation(0xad); // i64.extend_i32_u
export const floatOfLong = operation(0xb5); // f32.convert_i64_u
export const splat = vector(0x11); // i32x4.splat
export const splatFloat = vector(0x13);
export const lane = (value, index) => [...value, 0xfd, 0x1b, index]; // i32x4.extract_lane
export const load = (address, offset = 0) => [...vector(0)(address), 4, ...unsigned(offset)];
export const load32Splat = (address) => [...vector(9)(address), 2, 0];
export const store = (address, value, offset = 0) => [
  ...vector(11)(address, value),
  ...[4, ...unsigned(offset)],
];
export const addInts = vector(0xae);
export const subtractInts = vector(0xb1);
export const multiplyInts = vector(0xb5);
export const leastInts = vector(0xb6);
export const greatestInts = vector(0xb8);
export const greaterInts = vector(0x3b); // a mask
export const shiftLeft = vector(0xab);
export const shiftRight = vector(0xac);
export const choose = vector(0x52); // v128.bitselect: the first where the mask, the third, is set
export const and = vector(0x4e);
export const dotPairs = vector(0xba); // i32x4.dot_i16x8_s
export const lowInts = vector(0xa7); // i32x4.extend_low_i16x8_s
export const highInts = vector(0xa8); // i32x4.extend_high_i16x8_s
export const floats = vector(0xfa); // f32x4.convert_i32x4_s
export const multiplyFloats = vector(0xe6);
export const truncated = vector(0xf8); // i32x4.trunc_sat_f32x4_s
export const rounded = (value) => truncated(vector(0x6a)(value)); // f32x4.nearest

/**
 * Repeat the body while the local, which moves on by `step` after each round from 0, is below
 * `end`; at least once.
 */
export function loop(local, step, end, ...body) {
  const next = set(local, add(get(local), step));
  const round = [...body.flat(), ...next, ...get(local), ...end, 0x49, 0x0d, 0];
  return [...set(local, int(0)), 0x03, 0x40, ...round, 0x0b];
}

/**
 * Assemble functions {name, parameters: how many i32, ints and vectors: how many locals, body} over
 * one memory.
 */
export function assemble(functions) {
  const sized = (bytes) => [...unsigned(bytes.length), ...bytes];
  const section = (id, items) => [id, ...sized([...unsigned(items.length), ...items.flat()])];
  const text = (name) => sized(Array.from(name, (character) => character.charCodeAt(0)));
  const locals = ({ ints, vectors }) => [2, ...unsigned(ints), 0x7f, ...unsigned(vectors), 0x7b];
  const typeOf = ({ parameters }) => [0x60, ...sized(new Array(parameters).fill(0x7f)), 0];
  return Uint8Array.from([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, functions.map(typeOf)),
    ...section(2, [[...text("m"), ...text("memory"), 2, 0, 0]]),
    ...section(3, functions.map((_, i) => unsigned(i))),
    ...section(7, functions.map(({ name }, i) => [...text(name), 0, ...unsigned(i)])),
    ...section(10, functions.map((made) => sized([...locals(made), ...made.body.flat(), 0x0b]))),
  ]);
}
