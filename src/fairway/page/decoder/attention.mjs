// Attention (exact.md, sections 5 and 6). Each lane has a ring of `window` keys and values for every pass and
// head; which slot a position takes does not matter, as sums do not depend on their order.
import { demand } from "./binary.mjs";
import { capacityFor, placeInPairs } from "./kernels.mjs";
import { LOG2_E, makeGateTable, makeTurns, makeTurnTables } from "./integer_math.mjs";
import { POWER_FRACTIONS, floatBits, inverseRootMeanSquare, largestMagnitude, lookUp, powerOfTwo, rint } from "./fixed_point.mjs";

const MOST_QUERY = 16383; // A of section 5.1
const QUERY_STEPS = Float32Array.from({ length: 8 }, (_, t) => (MOST_QUERY * 8) / (9 + t));

export class Attention {
  constructor(arena, recipe, passes, lanes) {
    const { headWidth, window, num_kv_heads, num_heads } = recipe;
    Object.assign(this, { headWidth, window, heads: num_heads, kvHeads: num_kv_heads });
    this.pairs = headWidth / 2;
    this.capacity = capacityFor(window);
    this.width = (headWidth + 7) & ~7; // of values
    this.group = num_heads / num_kv_heads;
    this.fractionBits = Math.floor((23 - Math.ceil(Math.log2(headWidth))) / 2);
    this.mostValue = Math.floor((2 ** 24 - 1) / (2 ** 16 + Math.floor(window / 2)));
    [this.cosines, this.sines] = makeTurnTables();
    const turns = makeTurns(recipe.rope_base, recipe.rotary_dims || headWidth);
    const mask = 2n ** 32n - 1n;
    this.turnHigh = Uint32Array.from(turns, (turn) => Number(turn >> 32n));
    this.turnLow = Uint32Array.from(turns, (turn) => Number(turn & mask));
    this.gateTable = recipe.gate_channels ? makeGateTable() : null;
    this.slotsPerLane = passes * num_kv_heads * this.capacity;
    arena.reserve(this, "keys", Int16Array, lanes * this.slotsPerLane * headWidth);
    arena.reserve(this, "values", Int16Array, lanes * this.slotsPerLane * this.width);
    arena.reserve(this, "queries", Int16Array, num_heads * headWidth);
    arena.reserve(this, "scores", Int32Array, this.group * this.capacity);
    arena.reserve(this, "mixed", Int32Array, this.group * this.width);
    this.key = new Int16Array(headWidth);
    this.exponents = new Int16Array(lanes * this.slotsPerLane);
    this.head = new Float32Array(headWidth);
    this.turned = new Int32Array(headWidth);
    this.angles = new Int32Array(this.pairs);
    this.y = new Float32Array(recipe.dim);
  }

  /** Return the factors of section 5.3 for the gains of a layer's heads. */
  scoreFactors(gains) {
    const common = (LOG2_E / Math.sqrt(this.headWidth)) * 2 ** (12 - 2 * this.fractionBits);
    const factors = Float32Array.from(gains, (gain) => gain * common);
    demand(largestMagnitude(factors, 0, factors.length) <= 32, "the model's q_gain is beyond exact arithmetic");
    return factors;
  }

  /** Look up where the pairs of a position stand, as indices of the tables. */
  turnTo(position) {
    for (let j = 0; j < this.turnHigh.length; j++) {
      // the highest 14 bits of position · Θ_j modulo 2^64, rounded
      const low = position * this.turnLow[j];
      const high = (Math.imul(position, this.turnHigh[j]) + Math.floor(low / 2 ** 32)) >>> 0;
      this.angles[j] = ((high >>> 17) + 1) >>> 1 & 16383;
    }
  }

  /** 5.1: normalize and turn one head of the product, sums[at] ... with the rows' scales; int16 to out[outAt] ... */
  turnHead(sums, at, rowScales, row, out, outAt) {
    const { head, turned, headWidth, pairs, cosines, sines, angles } = this;
    for (let i = 0; i < headWidth; i++) head[i] = Math.fround(sums[at + i]) * rowScales[row + i];
    const most = largestMagnitude(head, 0, headWidth);
    if (most < 2 ** -100) {
      out.fill(0, outAt, outAt + headWidth);
      return;
    }
    const bits = floatBits(most);
    const scale = QUERY_STEPS[(bits >> 20) & 7] * powerOfTwo(127 - (bits >> 23));
    for (let i = 0; i < headWidth; i++) turned[i] = rint(Math.fround(head[i] * scale));
    const norm = inverseRootMeanSquare(turned, 0, headWidth) * 2 ** 12;
    const shift = 26 - this.fractionBits;
    const half = 2 ** (shift - 1);
    for (let j = 0; j < pairs; j++) {
      const a = rint(Math.fround(turned[j] * norm));
      const b = rint(Math.fround(turned[j + pairs] * norm));
      const c = cosines[angles[j]];
      const s = sines[angles[j]];
      out[outAt + j] = (a * c + b * s + half) >> shift;
      out[outAt + j + pairs] = (b * c - a * s + half) >> shift;
    }
  }

  /** 5.2: make codes of a token's values for one head, and their exponent. */
  storeValues(sums, at, rowScales, row, scale, slot) {
    const { head, headWidth, width, values, mostValue } = this;
    for (let i = 0; i < headWidth; i++) head[i] = Math.fround(Math.fround(sums[at + i]) * rowScales[row + i]) * scale;
    const most = largestMagnitude(head, 0, headWidth);
    let exponent = (floatBits(most) >> 23) - 127 - 7; // most · 2^-exponent is from 128 on and below 256
    if (most * powerOfTwo(-exponent) > mostValue) exponent += 1;
    if (most < 2 ** -100) exponent = -100;
    const factor = most < 2 ** -100 ? 0 : powerOfTwo(-exponent);
    this.exponents[slot] = exponent;
    for (let i = 0; i < headWidth; i++) values[slot * width + i] = rint(head[i] * factor);
  }

  /**
   * Attend from one lane's token.
   * @param product the Linear of q, k and v, whose sums are made
   * @param scale token_scale · 1/rms(x)
   * @param seen how many keys there are, this token's included, at most `window`
   * @returns y, Float32Array [dim], overwritten by the next call
   */
  attend(kernels, lane, pass, product, scale, position, seen, factors, exclusive) {
    const { headWidth, pairs, capacity, width, heads, kvHeads, group, keys, values, queries, scores, mixed, y } = this;
    const { sums, rowScales } = product;
    const at = lane * product.capacity;
    this.turnTo(position);
    for (let head = 0; head < heads; head++) {
      this.turnHead(sums, at + head * headWidth, rowScales, head * headWidth, queries, head * headWidth);
    }
    const own = position % this.window;
    for (let kv = 0; kv < kvHeads; kv++) {
      const first = lane * this.slotsPerLane + (pass * kvHeads + kv) * capacity;
      const keyRow = (heads + kv) * headWidth;
      const valueRow = keyRow + kvHeads * headWidth;
      this.turnHead(sums, at + keyRow, rowScales, keyRow, this.key, 0);
      for (let i = 0; i < headWidth; i++) keys[first * headWidth + placeInPairs(capacity, own, i)] = this.key[i];
      this.storeValues(sums, at + valueRow, rowScales, valueRow, scale, first + own);
      let largestExponent = -1000;
      for (let i = first; i < first + seen; i++) {
        if (this.exponents[i] > largestExponent) largestExponent = this.exponents[i];
      }
      const query = kv * group * headWidth;
      kernels.dots(keys, first * headWidth, capacity, seen, queries, query, group, pairs, scores, 0, capacity);
      for (let g = 0; g < group; g++) this.weigh(g * capacity, seen, factors[kv * group + g], first, largestExponent);
      kernels.mix(scores, 0, capacity, group, values, first * width, seen, width, mixed, 0);
      const factor = powerOfTwo(largestExponent - 16);
      for (let g = 0; g < group; g++) {
        const out = (kv * group + g) * headWidth;
        if (exclusive) this.exclude(g * width, (first + own) * width, factor, out);
        else for (let i = 0; i < headWidth; i++) y[out + i] = mixed[g * width + i] * factor;
      }
    }
    return y;
  }

  /** 5.3: turn products q·k at scores[at] ... into weights. */
  weigh(at, seen, factor, firstSlot, largestExponent) {
    const { scores, exponents } = this;
    let largest = -(2 ** 31);
    for (let i = at; i < at + seen; i++) {
      scores[i] = rint(Math.fround(scores[i] * factor));
      if (scores[i] > largest) largest = scores[i];
    }
    let total = 0;
    for (let i = at; i < at + seen; i++) {
      const d = largest - scores[i];
      scores[i] = POWER_FRACTIONS[d & 4095] >> Math.min(d >> 12, 31);
      total += scores[i];
    }
    const share = Math.fround(Math.floor(2 ** 46 / total)) * 2 ** -30;
    for (let i = 0; i < seen; i++) {
      const weight = Math.fround(scores[at + i] * share);
      scores[at + i] = rint(weight * powerOfTwo(Math.max(exponents[firstSlot + i] - largestExponent, -100)));
    }
  }

  /** 5.4: remove from the mixed values what lies along the token's own value. */
  exclude(at, own, factor, out) {
    const { mixed, values, headWidth, y } = this;
    let along = 0;
    let square = 0;
    for (let i = 0; i < headWidth; i++) {
      along += mixed[at + i] * values[own + i];
      square += values[own + i] * values[own + i];
    }
    // c = ⌊along · 2^16 / square⌋ in two steps, as the product may exceed 2^53
    const whole = square ? Math.floor(along / square) : 0;
    const c = square ? whole * 65536 + Math.floor(((along - whole * square) * 65536) / square) : 0;
    for (let i = 0; i < headWidth; i++) {
      y[out + i] = Math.fround(mixed[at + i] - Math.floor((c * values[own + i] + 2 ** 15) / 65536)) * factor;
    }
  }

  /** 5.5: multiply a lane's heads with their gates, from the gate's product. */
  gateHeads(lane, product, scale) {
    const { y, headWidth, heads, gateTable } = this;
    for (let head = 0; head < heads; head++) {
      const t = Math.fround(Math.fround(product.sums[lane * product.capacity + head]) * product.rowScales[head]) * scale;
      const gate = (2 ** 15 + lookUp(gateTable, Math.fround(t))) * 2 ** -16;
      for (let i = head * headWidth; i < (head + 1) * headWidth; i++) y[i] = y[i] * gate;
    }
  }
}
