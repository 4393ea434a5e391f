// The kernels in WebAssembly, and a small assembler for them: expressions are arrays of bytes.

const CODES = new Map(
  `i32.add 6a                     i64.div_u 80                i64.extend_i32_u ad
   f32.convert_i64_u b5           v128.load fd00              v128.load32_splat fd09
   v128.store fd0b                i32x4.splat fd11            f32x4.splat fd13
   i32x4.gt_s fd3b                v128.and fd4e               v128.bitselect fd52
   f32x4.nearest fd6a             i32x4.shl fdab01            i32x4.shr_s fdac01
   i32x4.add fdae01               i32x4.sub fdb101            i32x4.mul fdb501
   i32x4.min_s fdb601             i32x4.max_s fdb801          i32x4.dot_i16x8_s fdba01
   f32x4.mul fde601               f32x4.convert_i32x4_s fdfa01
   i32x4.trunc_sat_f32x4_s fdf801 i32x4.extract_lane fd1b     i32.const 41`
    .match(/\S+ \w+/g)
    .map((entry) => entry.split(" "))
    .map(([name, code]) => [name, code.match(/../g).map((pair) => parseInt(pair, 16))]),
);

/** LEB128, of signed integers; `unsigned` of others. */
const signed = (value) =>
  value >= -64 && value < 64 ? [value & 127] : [(value & 127) | 128, ...signed(value >> 7)];
const unsigned = (value) =>
  value < 128 ? [value] : [(value & 127) | 128, ...unsigned(value >>> 7)];

/** Return an instruction behind its operands. */
const op = (name, ...operands) => [...operands.flat(), ...CODES.get(name)];
const get = (local) => [0x20, local];
const set = (local, value) => [...value, 0x21, local];
const int = (value) => [...CODES.get("i32.const"), ...signed(value)];
const add = (a, b) => op("i32.add", a, b);
const load = (address, offset = 0) => [...op("v128.load", address), 4, ...unsigned(offset)];
const store = (address, value, offset = 0) =>
  op("v128.store", address, value).concat(4, unsigned(offset));

/**
 * Repeat the body while the local, which moves on by `step` after each round from 0, is below
 * `end`; at least once.
 */
function loop(local, step, end, ...body) {
  const next = set(local, add(get(local), int(step)));
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

const each = (count, make) => Array.from({ length: count }, (_, i) => make(i)).flat();

/** `dots` of two vectors, with a block of 16 rows at a time. */
export function dotsFunction() {
  const [block, blockBytes, pairBytes, rowBytes, vector, vectorBytes] = each(6, (i) => i);
  const [out, outBytes, row, pair, from, x] = each(6, (i) => 6 + i);
  const cell = (quad) => 12 + quad;
  const sum = (v, quad) => 16 + 4 * v + quad;
  const input = [get(vector), add(get(vector), get(vectorBytes))];
  const result = [get(out), add(get(out), get(outBytes))];
  const inputOf = (v) => [...op("v128.load32_splat", add(input[v], get(pair))), 2, 0];
  const product = (quad) => op("i32x4.dot_i16x8_s", get(cell(quad)), get(x));
  const grow = (local, term) => set(local, op("i32x4.add", get(local), term));
  const addPair = [
    each(4, (quad) => set(cell(quad), load(get(from), 16 * quad))),
    each(2, (v) => [
      ...set(x, inputOf(v)),
      ...each(4, (quad) => grow(sum(v, quad), product(quad))),
    ]),
    set(from, add(get(from), int(64))),
  ];
  const storeSums = (v) =>
    each(4, (quad) => store(add(result[v], get(row)), get(sum(v, quad)), 16 * quad));
  const sumBlock = [
    each(8, (i) => set(sum(0, i), op("i32x4.splat", int(0)))),
    set(from, get(block)),
    loop(pair, 4, get(pairBytes), ...addPair),
    each(2, storeSums),
    set(block, add(get(block), get(blockBytes))),
  ];
  const body = [loop(row, 64, get(rowBytes), ...sumBlock)];
  return { name: "dots", parameters: 8, ints: 3, vectors: 13, body };
}

/** `weigh`, four places at a time; the factor is given by its bits. */
export function weighFunction(noKey) {
  const [scores, bytes, factor, exponents, largestExponent, at] = each(6, (i) => i);
  const [p, d, largest, total, share] = each(5, (i) => 6 + i);
  const constant = (value) => op("i32x4.splat", int(value));
  const [place, exponent] = [scores, exponents].map((local) => add(get(local), get(at)));
  const floats = (ints) => op("f32x4.convert_i32x4_s", ints);
  const rounded = (value) => op("i32x4.trunc_sat_f32x4_s", op("f32x4.nearest", value));
  const powerOf = (biased) => op("i32x4.shl", biased, int(23)); // 2^(biased - 127), a float's bits
  const lane = (local, i) => [...op("i32x4.extract_lane", get(local)), i];
  const lanes = (local) => each(4, (i) => [op("i32x4.splat", lane(local, i))]);
  const across = (name, local) => set(local, lanes(local).reduce((a, b) => op(name, a, b)));
  const shifted = (value, bits) => op("i32x4.shr_s", value, int(bits));
  const fraction = op("v128.and", get(d), constant(4095));
  const power = [15110, 45313, 65536].reduce(
    (inner, c) => op("i32x4.sub", constant(c), shifted(op("i32x4.mul", fraction, inner), 12)),
    constant(2565),
  );
  const dropped = op("i32x4.min_s", shifted(get(d), 12), constant(31));
  const score = rounded(op("f32x4.mul", floats(load(place)), op("i32x4.splat", get(factor))));
  const hasKey = op("i32x4.gt_s", load(exponent), constant(noKey));
  const behind = op("i32x4.sub", load(exponent), op("i32x4.splat", get(largestExponent)));
  const weight = op("f32x4.mul", floats(load(place)), get(share));
  const twoTo46 = [0x42, ...new Array(6).fill(0x80), 0x10]; // i64.const
  const quotient = op("i64.div_u", twoTo46, op("i64.extend_i32_u", lane(total, 0)));
  const fourAtATime = (...steps) => loop(at, 16, get(bytes), ...steps, store(place, get(p)));
  const body = [
    set(largest, constant(-(2 ** 30))),
    fourAtATime(
      set(p, op("v128.bitselect", score, constant(-(2 ** 30)), hasKey)),
      set(largest, op("i32x4.max_s", get(largest), get(p))),
    ),
    across("i32x4.max_s", largest),
    set(total, constant(0)),
    fourAtATime(
      set(d, op("i32x4.sub", get(largest), load(place))),
      set(p, op("f32x4.mul", floats(power), powerOf(op("i32x4.sub", constant(127), dropped)))),
      set(p, op("i32x4.trunc_sat_f32x4_s", get(p))),
      set(total, op("i32x4.add", get(total), get(p))),
    ),
    across("i32x4.add", total),
    set(share, op("f32x4.splat", op("f32.convert_i64_u", quotient))),
    fourAtATime(
      set(d, op("i32x4.add", op("i32x4.max_s", behind, constant(-90)), constant(97))),
      set(p, rounded(op("f32x4.mul", weight, powerOf(get(d))))),
      set(p, op("i32x4.add", get(p), op("i32x4.mul", shifted(get(p), 7), constant(65536 - 128)))),
    ),
  ];
  return { name: "weigh", parameters: 5, ints: 1, vectors: 5, body };
}
