// The range decoder (formats.md, "The range coder").
import { demand } from "./binary.mjs";

const [CODE_LOW, CODE_HIGH, SPAN_LOW, SPAN_HIGH] = [0, 1, 2, 3];

/** Decode one stream: bits with probabilities, raw integers, symbols out of 2^30. */
export class RangeDecoder {
  constructor(bytes, name) {
    Object.assign(this, { bytes, name, position: 0, unit: 0n });
    this.whole = new BigUint64Array(2); // code = stream - low, and span
    this.halves = new Uint32Array(this.whole.buffer); // of the same numbers: faster for bits
    for (let i = 0; i < 8; i++) this.shift();
    this.whole[1] = 2n ** 64n - 1n;
    this.demandInside();
  }

  /** Shift code and span left by 8 bits; zeros follow the stream's end. */
  shift() {
    this.whole[0] = (this.whole[0] << 8n) | BigInt(this.bytes[this.position] ?? 0);
    this.whole[1] <<= 8n;
    this.position += 1;
  }

  /** Return a bit that is 1 with probability p / 2^16. */
  bit(p) {
    const s = this.halves;
    const low = (s[SPAN_LOW] >>> 16) * p;
    const middle = s[SPAN_HIGH] * p + Math.floor(low / 65536);
    const boundHigh = Math.floor(middle / 65536); // bound = (span >> 16) · p
    const boundLow = ((middle << 16) | (low & 0xffff)) >>> 0;
    const below = s[CODE_LOW] < boundLow ? 1 : 0;
    const one = s[CODE_HIGH] < boundHigh + below;
    if (!one) {
      s[CODE_HIGH] -= boundHigh + below;
      s[CODE_LOW] -= boundLow;
      s[SPAN_HIGH] -= boundHigh + (s[SPAN_LOW] < boundLow ? 1 : 0);
      s[SPAN_LOW] -= boundLow;
    } else [s[SPAN_HIGH], s[SPAN_LOW]] = [boundHigh, boundLow];
    while (s[SPAN_HIGH] < 2 ** 24) this.shift();
    return one ? 1 : 0;
  }

  /** Return an integer of so many bits, all with p = 2^15. */
  raw(bits) {
    let value = 0;
    for (let i = 0; i < bits; i++) value = value * 2 + this.bit(32768);
    return value;
  }

  /** Return where in [0, 2^30) the stream points. Then comes `narrow`. */
  target() {
    this.unit = this.whole[1] >> 30n;
    return Math.min(Number(this.whole[0] / this.unit), 2 ** 30 - 1);
  }

  /** Keep the symbol whose cumulative frequencies are [start, stop). */
  narrow(start, stop) {
    this.whole[0] -= this.unit * BigInt(start);
    this.whole[1] = this.unit * BigInt(stop - start);
    this.demandInside();
    while (this.halves[SPAN_HIGH] < 2 ** 24) this.shift();
  }

  demandInside() {
    demand(this.whole[0] < this.whole[1], `${this.name}: its range coder leaves the interval`);
  }

  /** Refuse a stream that is not what an encoder writes for the decoded symbols. */
  end() {
    const { bytes, position, name } = this;
    const [code, span] = this.whole;
    demand(bytes.length <= position, `${name} is longer than its symbols`);
    demand(bytes.at(-1) !== 0, `${name} ends with a byte of 0`);
    let digits = 0n;
    for (let i = position - 8; i < position; i++) digits = (digits << 8n) | BigInt(bytes[i] ?? 0);
    const low = BigInt.asUintN(64, digits - code);
    // from low to the least multiple of 2^64, or, if that is not in the interval, of 2^56
    const far = BigInt.asUintN(64, -low);
    const right = far < span ? far : BigInt.asUintN(56, -low);
    demand(code === right, `${name} is not the shortest form of its symbols`);
  }
}
