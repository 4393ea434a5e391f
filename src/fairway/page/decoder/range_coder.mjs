// The range decoder (formats.md, "The range coder"). 64-bit numbers are two halves of 32 bits.
import { demand } from "./binary.mjs";

const CODE_HIGH = 0;
const CODE_LOW = 1;
const SPAN_HIGH = 2;
const SPAN_LOW = 3;

/** Decode one stream: bits with probabilities, raw integers, symbols with frequencies out of 2^30. */
export class RangeDecoder {
  constructor(bytes, name) {
    this.bytes = bytes;
    this.name = name;
    this.position = 8;
    this.unit = 0;
    this.state = new Uint32Array(4); // code = stream - low, and span: two halves each
    for (let i = 0; i < 8; i++) this.state[i >> 2] = (this.state[i >> 2] << 8) | (bytes[i] ?? 0);
    this.state[SPAN_HIGH] = this.state[SPAN_LOW] = 0xffffffff;
    this.demandInside();
  }

  /** Return a bit that is 1 with probability p / 2^16. */
  bit(p) {
    const s = this.state;
    const low = (s[SPAN_LOW] >>> 16) * p;
    const middle = s[SPAN_HIGH] * p + (low - (low % 65536)) / 65536;
    const boundHigh = Math.floor(middle / 65536); // bound = (span >> 16) · p
    const boundLow = (((middle % 65536) << 16) | (low & 0xffff)) >>> 0;
    const one = s[CODE_HIGH] < boundHigh || (s[CODE_HIGH] === boundHigh && s[CODE_LOW] < boundLow);
    if (one) {
      s[SPAN_HIGH] = boundHigh;
      s[SPAN_LOW] = boundLow;
    } else {
      s[CODE_HIGH] -= boundHigh + (s[CODE_LOW] < boundLow ? 1 : 0);
      s[CODE_LOW] -= boundLow;
      s[SPAN_HIGH] -= boundHigh + (s[SPAN_LOW] < boundLow ? 1 : 0);
      s[SPAN_LOW] -= boundLow;
    }
    while (s[SPAN_HIGH] < 2 ** 24) this.shift();
    return one ? 1 : 0;
  }

  /** Return an integer of so many bits, all with p = 2^15. */
  raw(bits) {
    let value = 0;
    for (let i = 0; i < bits; i++) value = value * 2 + this.bit(32768);
    return value;
  }

  /** Return where in [0, 2^30) the stream points: min(code / unit, 2^30 - 1). Then comes `narrow`. */
  target() {
    const s = this.state;
    this.unit = s[SPAN_HIGH] * 4 + (s[SPAN_LOW] >>> 30);
    // A quotient of rounded numbers is at most one off; an exact product finds out.
    const quotient = Math.floor((s[CODE_HIGH] * 2 ** 32 + s[CODE_LOW]) / this.unit);
    if (this.codeIsBelow(quotient)) return Math.min(quotient - 1, 2 ** 30 - 1);
    return Math.min(this.codeIsBelow(quotient + 1) ? quotient : quotient + 1, 2 ** 30 - 1);
  }

  codeIsBelow(count) {
    const [high, low] = timesUnit(count, this.unit);
    return this.state[CODE_HIGH] < high || (this.state[CODE_HIGH] === high && this.state[CODE_LOW] < low);
  }

  /** Keep the symbol whose cumulative frequencies are [start, stop). */
  narrow(start, stop) {
    const s = this.state;
    const [high, low] = timesUnit(start, this.unit);
    s[CODE_HIGH] -= high + (s[CODE_LOW] < low ? 1 : 0);
    s[CODE_LOW] -= low;
    [s[SPAN_HIGH], s[SPAN_LOW]] = timesUnit(stop - start, this.unit);
    this.demandInside();
    while (s[SPAN_HIGH] < 2 ** 24) this.shift();
  }

  /** Shift code and span left by 8 bits; zeros follow the stream's end. */
  shift() {
    const s = this.state;
    const next = this.position < this.bytes.length ? this.bytes[this.position] : 0;
    this.position += 1;
    s[CODE_HIGH] = (s[CODE_HIGH] << 8) | (s[CODE_LOW] >>> 24);
    s[CODE_LOW] = (s[CODE_LOW] << 8) | next;
    s[SPAN_HIGH] = (s[SPAN_HIGH] << 8) | (s[SPAN_LOW] >>> 24);
    s[SPAN_LOW] = s[SPAN_LOW] << 8;
  }

  demandInside() {
    const [codeHigh, codeLow, spanHigh, spanLow] = this.state;
    const inside = codeHigh < spanHigh || (codeHigh === spanHigh && codeLow < spanLow);
    demand(inside, `${this.name}: the range coder leaves its interval`);
  }

  /** Refuse a stream that is not what an encoder writes for the decoded symbols. */
  end() {
    const { bytes, position, state, name } = this;
    demand(bytes.length <= position, `${name} is longer than its symbols`);
    demand(bytes.length === 0 || bytes[bytes.length - 1] !== 0, `${name} ends with a byte of 0`);
    let stream = 0n;
    for (let i = position - 8; i < position; i++) stream = (stream << 8n) | BigInt(bytes[i] ?? 0);
    const [codeHigh, codeLow, spanHigh, spanLow] = Array.from(state, BigInt);
    const code = (codeHigh << 32n) | codeLow;
    const span = (spanHigh << 32n) | spanLow;
    const low = BigInt.asUintN(64, stream - code);
    // The least number in [low, low + span) with as many zero bytes as possible, less low.
    let distance = 0n;
    for (let bits = 64n; bits >= 0n; bits -= 8n) {
      distance = BigInt.asUintN(Number(bits), -low);
      if (distance < span) break;
    }
    demand(code === distance, `${name} is not the shortest form of its symbols`);
  }
}

/** Return count · unit as two halves; count up to 2^31, unit below 2^34. */
function timesUnit(count, unit) {
  const low = count * (unit % 65536);
  const high = count * Math.floor(unit / 65536);
  const sum = (high % 65536) * 65536 + low;
  return [Math.floor(high / 65536) + Math.floor(sum / 2 ** 32), sum % 2 ** 32];
}
