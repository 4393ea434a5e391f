// Attention (exact.md, sections 5 and 6). Each lane has a ring of keys and values for every pass and key head; which
// slot a position takes does not matter, as sums do not depend on their order.
import { demand } from "./binary.mjs";
import { exponentAbove, inputScale, inverseRms, largestMagnitude, lookUp } from "./fixed_point.mjs";
import { powerOfTwo, rint } from "./fixed_point.mjs";
import { LOG2_E, makeGateTable, makeTurns, makeTurnTables } from "./integer_math.mjs";
import { NO_KEY, capacityFor, placeInBlocks } from "./kernels.mjs";

const MOST_QUERY = 16383; // A of section 5.1
const LEAST_VALUE = 2 ** -100;

export class Attention {
  constructor(arena, recipe, passes, lanes) {
    const { headWidth, window, num_kv_heads, num_heads } = recipe;
    Object.assign(this, { headWidth, window, heads: num_heads, kvHeads: num_kv_heads, pairs: headWidth / 2 });
    this.group = num_heads / num_kv_heads; this.capacity = capacityFor(window);
    this.width = (headWidth + 7) & ~7; // of values
    this.fractionBits = Math.floor((23 - (32 - Math.clz32(headWidth - 1))) / 2); // F
    this.mostValue = Math.floor((2 ** 24 - 1) / (2 ** 16 + Math.floor(window / 2))); // A_v
    [this.cosines, this.sines] = makeTurnTables();
    const turns = makeTurns(recipe.rope_base, recipe.rotary_dims || headWidth);
    this.turnHigh = Uint32Array.from(turns, (turn) => Number(turn >> 32n));
    this.turnLow = Uint32Array.from(turns, (turn) => Number(turn & (2n ** 32n - 1n)));
    this.gateTable = makeGateTable();
    const makeRing = () => {
      const ring = {};
      arena.reserve(ring, "exponents", Int32Array, this.capacity);
      arena.reserve(ring, "keys", Int16Array, this.capacity * headWidth);
      arena.reserve(ring, "values", Int16Array, window * this.width);
      return ring;
    };
    const make = (count, item) => Array.from({ length: count }, item);
    this.rings = make(lanes, () => make(passes, () => make(num_kv_heads, makeRing)));
    arena.reserve(this, "queries", Int16Array, recipe.dim);
    arena.reserve(this, "scores", Int32Array, this.group * this.capacity);
    arena.reserve(this, "mixed", Int32Array, this.group * this.width);
    [this.key, this.turned, this.head] = [Int16Array, Int32Array, Float32Array].map((Type) => new Type(headWidth));
    this.angles = new Int32Array(this.pairs);
  }

  /** Return the factors of section 5.3 for the gains of a layer's heads. */
  scoreFactors(gains) {
    const common = (LOG2_E / Math.sqrt(this.headWidth)) * 2 ** (12 - 2 * this.fractionBits);
    const factors = Float32Array.from(gains, (gain) => gain * common);
    demand(largestMagnitude(factors) <= 32, "the model's q_gain is beyond exact arithmetic");
    return factors;
  }

  /** 5.1: look up the angles of a position: the highest 14 bits of position · Θ_j modulo 2^64, rounded. */
  turnTo(position) {
    for (let j = 0; j < this.turnHigh.length; j++) {
      const carried = Math.floor((position * this.turnLow[j]) / 2 ** 32);
      const high = (Math.imul(position, this.turnHigh[j]) + carried) >>> 0;
      this.angles[j] = (((high >>> 17) + 1) >>> 1) & 16383;
    }
  }

  /** 5.1: normalize and turn a head, which product() wrote to this.head; writes to out[at] ... */
  turnHead(out, at) {
    const { head, turned, headWidth, pairs, cosines, sines, angles } = this;
    const most = largestMagnitude(head), scale = most < LEAST_VALUE ? 0 : inputScale(most, MOST_QUERY)[0];
    for (let i = 0; i < headWidth; i++) turned[i] = rint(Math.fround(head[i] * scale));
    const norm = inverseRms(turned) * 2 ** 12, shift = 26 - this.fractionBits, half = 2 ** (shift - 1);
    for (let j = 0; j < pairs; j++) {
      const a = rint(Math.fround(turned[j] * norm)), b = rint(Math.fround(turned[j + pairs] * norm));
      const [c, s] = [cosines[angles[j]], sines[angles[j]]];
      out[at + j] = (a * c + b * s + half) >> shift; out[at + j + pairs] = (b * c - a * s + half) >> shift;
    }
  }

  /** 5.2: make codes of a head's values, in this.head, and their exponent. */
  storeValues({ values, exponents }, slot) {
    const { head, headWidth, width, mostValue } = this;
    const most = largestMagnitude(head);
    let e = most < LEAST_VALUE ? -100 : exponentAbove(most) - 8; // most · 2^-e is below 256
    if (most >= LEAST_VALUE && most * powerOfTwo(-e) > mostValue) e += 1;
    const factor = most < LEAST_VALUE ? 0 : powerOfTwo(-e);
    for (let i = 0; i < headWidth; i++) values[slot * width + i] = rint(head[i] * factor);
    exponents[slot] = e;
  }

  /**
   * Attend from one lane's token; `product` is the Linear of q, k and v, scale is token_scale · 1/rms(x). Writes y,
   * Float32Array [dim].
   */
  attend(kernels, lane, pass, product, scale, position, { factors, exclusive }, y) {
    const { headWidth, pairs, capacity, width, heads, kvHeads, group, head, queries, scores, mixed } = this;
    this.turnTo(position);
    for (let i = 0; i < heads; i++) {
      product.product(lane, 1, head, i * headWidth); this.turnHead(queries, i * headWidth);
    }
    const own = position % this.window;
    const seen = Math.min(position + 1, this.window); // how many keys there are, this token's included
    for (let kv = 0; kv < kvHeads; kv++) {
      const ring = this.rings[lane][pass][kv];
      if (position === 0) ring.exponents.fill(NO_KEY);
      product.product(lane, 1, head, (heads + kv) * headWidth); this.turnHead(this.key, 0);
      for (let i = 0; i < headWidth; i++) ring.keys[placeInBlocks(pairs, own, i)] = this.key[i];
      product.product(lane, scale, head, (heads + kvHeads + kv) * headWidth); this.storeValues(ring, own);
      let largestE = -1000;
      for (let i = 0; i < seen; i++) if (ring.exponents[i] > largestE) largestE = ring.exponents[i];
      const first = kv * group;
      kernels.dots(ring.keys, capacity, seen, queries, first * headWidth, group, pairs, scores);
      for (let g = 0; g < group; g++) {
        kernels.weigh(scores, g * capacity, (seen + 3) & ~3, factors[first + g], ring.exponents, largestE);
      }
      kernels.mix(scores, capacity, group, ring.values, seen, width, mixed);
      const power = powerOfTwo(largestE - 16);
      for (let g = 0; g < group; g++) {
        if (exclusive) this.exclude(g * width, ring.values, own * width);
        const out = (first + g) * headWidth;
        for (let i = 0; i < headWidth; i++) y[out + i] = Math.fround(mixed[g * width + i]) * power;
      }
    }
  }

  /** 5.4: remove from the mixed values what lies along the token's own value. */
  exclude(at, values, own) {
    const { mixed, headWidth } = this;
    let [along, square] = [0, 0];
    for (let i = 0; i < headWidth; i++) {
      along += mixed[at + i] * values[own + i]; square += values[own + i] * values[own + i];
    }
    if (square === 0) return;
    // c = ⌊along · 2^16 / square⌋ in two steps, as the product may exceed 2^53
    const whole = Math.floor(along / square);
    const c = whole * 65536 + Math.floor(((along - whole * square) * 65536) / square);
    for (let i = 0; i < headWidth; i++) mixed[at + i] -= Math.floor((c * values[own + i] + 2 ** 15) / 65536);
  }

  /** 5.5: multiply the heads in y with their gates; t holds the gates' products. */
  gateHeads(t, y) {
    const { headWidth } = this;
    t.forEach((product, head) => {
      const gate = (2 ** 15 + lookUp(this.gateTable, product)) * 2 ** -16;
      for (let i = head * headWidth; i < (head + 1) * headWidth; i++) y[i] = y[i] * gate;
    });
  }
}
