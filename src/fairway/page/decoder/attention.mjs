// Attention (exact.md, sections 5 and 6). Each lane has a ring of keys and values for every pass
// and key head; which place a position takes does not matter, as sums do not depend on their order.
import { demand } from "./binary.mjs";
import { exponentAbove, inputScale, inverseRms, largestMagnitude } from "./fixed_point.mjs";
import { lookUp, powerOfTwo, rint } from "./fixed_point.mjs";
import { LOG2_E, makeGateTable, makeTurns, makeTurnTables, quotient } from "./integer_math.mjs";
import { NO_KEY, capacityFor, placeInBlocks } from "./kernels.mjs";

const MOST_QUERY = 16383; // A of section 5.1
const LEAST_INPUT = 2 ** -100;

export class Attention {
  constructor(arena, recipe, passes, lanes) {
    const { dim, headWidth, window, num_kv_heads, num_heads } = recipe;
    const [group, capacity] = [num_heads / num_kv_heads, capacityFor(window)];
    const width = capacityFor(headWidth); // of values
    Object.assign(this, { arena, headWidth, window, passes, group, capacity, width });
    Object.assign(this, { heads: num_heads, kvHeads: num_kv_heads, pairs: headWidth / 2 });
    this.gateTable = makeGateTable();
    this.fractionBits = Math.floor((23 - (32 - Math.clz32(headWidth - 1))) / 2); // F
    this.mostValue = Math.floor((2 ** 24 - 1) / (2 ** 16 + Math.floor(window / 2))); // A_v
    [this.cosines, this.sines] = makeTurnTables();
    const turns = makeTurns(recipe.rope_base, recipe.rotary_dims || headWidth);
    this.turnHigh = Uint32Array.from(turns, (turn) => Number(turn >> 32n));
    this.turnLow = Uint32Array.from(turns, (turn) => Number(turn & (2n ** 32n - 1n)));
    this.rings = Array.from({ length: lanes * passes * num_kv_heads }, () => {
      const ring = {};
      arena.reserve(ring, "exponents", Int32Array, capacity);
      arena.reserve(ring, "keys", Int16Array, capacity * headWidth);
      arena.reserve(ring, "values", Int16Array, capacity * width * 2);
      return ring;
    });
    arena.reserve(this, "queries", Int16Array, dim);
    arena.reserve(this, "scores", Int32Array, group * capacity);
    arena.reserve(this, "mixed", Int32Array, group * width);
    this.head = new Float32Array(headWidth);
    this.turned = new Int32Array(headWidth);
    this.angles = new Int32Array(this.pairs);
  }

  /** Return the factors of section 5.3 for the gains of a layer's heads. */
  scoreFactors(gains) {
    const common = (LOG2_E / Math.sqrt(this.headWidth)) * 2 ** (12 - 2 * this.fractionBits);
    const factors = Float32Array.from(gains, (gain) => gain * common);
    demand(largestMagnitude(factors) <= 32, "the model's q_gain is beyond exact arithmetic");
    return factors;
  }

  /** 5.1: find the angles of a position: the highest 14 bits of p · Θ_j modulo 2^64, rounded. */
  turnTo(position) {
    for (let j = 0; j < this.turnHigh.length; j++) {
      const carried = Math.floor((position * this.turnLow[j]) / 2 ** 32);
      const high = (Math.imul(position, this.turnHigh[j]) + carried) >>> 0;
      this.angles[j] = (((high >>> 17) + 1) >>> 1) & 16383;
    }
  }

  /** 5.1: normalize and turn this.head; writes to this.turned. */
  turnHead() {
    const { head, turned, headWidth, pairs, cosines, sines, angles } = this;
    const most = largestMagnitude(head);
    const scale = most < LEAST_INPUT ? 0 : inputScale(most, MOST_QUERY)[0];
    for (let i = 0; i < headWidth; i++) turned[i] = rint(Math.fround(head[i] * scale));
    const norm = inverseRms(turned) * 2 ** 12;
    const shift = 26 - this.fractionBits;
    const half = 2 ** (shift - 1);
    for (let j = 0; j < pairs; j++) {
      const a = rint(Math.fround(turned[j] * norm));
      const b = rint(Math.fround(turned[j + pairs] * norm));
      const [c, s] = [cosines[angles[j]], sines[angles[j]]];
      turned[j] = (a * c + b * s + half) >> shift;
      turned[j + pairs] = (b * c - a * s + half) >> shift;
    }
  }

  /**
   * 5.2: make codes of a head's values, in this.head, and their exponent. A code stands beside 128
   * times itself, for the halves of its weight (kernels.mjs); it is also left in this.turned.
   */
  storeValues({ values, exponents }, place) {
    const { head, turned, headWidth, capacity } = this;
    const most = largestMagnitude(head);
    const isZero = most < LEAST_INPUT;
    let e = isZero ? -100 : exponentAbove(most) - 8; // most · 2^-e is below 256
    if (!isZero && most * powerOfTwo(-e) > this.mostValue) e += 1;
    const factor = isZero ? 0 : powerOfTwo(-e);
    for (let i = 0; i < headWidth; i++) {
      turned[i] = rint(head[i] * factor);
      const at = placeInBlocks(capacity, i, 2 * place);
      values[at] = turned[i];
      values[at + 1] = 128 * turned[i];
    }
    exponents[place] = e;
  }

  /** Attend from one lane's token, whose q, k and v were multiplied; writes y, of all heads. */
  attend(lane, pass, position, { qkv, factors, exclusive }, y) {
    const { arena, headWidth, pairs, capacity, width, heads, kvHeads, group } = this;
    const { head, turned, queries, scores, mixed } = this;
    const { kernels } = arena;
    this.weights ??= new Int16Array(scores.buffer, scores.byteOffset, 2 * scores.length);
    this.turnTo(position);
    for (let i = 0; i < heads; i++) {
      qkv.product(lane, 1, head, i * headWidth);
      this.turnHead();
      queries.set(turned, i * headWidth);
    }
    const own = position % this.window;
    const seen = Math.min(position + 1, this.window); // how many keys there are, its own included
    for (let kv = 0; kv < kvHeads; kv++) {
      const ring = this.rings[(lane * this.passes + pass) * kvHeads + kv];
      const { keys, values, exponents } = ring;
      if (position === 0) exponents.fill(NO_KEY);
      qkv.product(lane, 1, head, (heads + kv) * headWidth);
      this.turnHead();
      for (let i = 0; i < headWidth; i++) keys[placeInBlocks(pairs, own, i)] = turned[i];
      qkv.product(lane, qkv.normalScales[lane], head, (heads + kvHeads + kv) * headWidth);
      this.storeValues(ring, own);
      let largest = NO_KEY;
      for (let i = 0; i < seen; i++) if (exponents[i] > largest) largest = exponents[i];
      const first = kv * group;
      kernels.dots(keys, pairs, pairs, seen, queries, first * headWidth, group, scores, capacity);
      for (let g = 0; g < group; g++) {
        kernels.weigh(scores, g * capacity, seen, factors[first + g], exponents, largest);
      }
      kernels.dots(values, capacity, seen, headWidth, this.weights, 0, group, mixed, width);
      for (let g = 0; g < group; g++) {
        if (exclusive) this.exclude(g * width);
        const at = (first + g) * headWidth;
        for (let i = 0; i < headWidth; i++) {
          y[at + i] = Math.fround(mixed[g * width + i]) * powerOfTwo(largest - 16);
        }
      }
    }
  }

  /** 5.4: remove from the mixed values what lies along the token's own value. */
  exclude(at) {
    const { mixed, turned, headWidth } = this;
    let [along, square] = [0, 0];
    for (let i = 0; i < headWidth; i++) {
      along += mixed[at + i] * turned[i];
      square += turned[i] * turned[i];
    }
    if (square === 0) return;
    const c = quotient(along, 65536, square);
    for (let i = 0; i < headWidth; i++) {
      mixed[at + i] -= Math.floor((c * turned[i] + 2 ** 15) / 65536);
    }
  }

  /** 5.5: multiply the heads in y with their gates; t holds the gates' products. */
  gateHeads(t, y) {
    for (let i = 0; i < y.length; i++) {
      const gate = 2 ** 15 + lookUp(this.gateTable, t[Math.floor(i / this.headWidth)]);
      y[i] *= gate * 2 ** -16;
    }
  }
}
