// Mixed bytes (formats.md): a text whose bits are predicted by seven contexts.
import { RangeDecoder } from "./range_coder.mjs";
import { SHARE, SQUASH, STRETCH } from "./integer_math.mjs";

const CONTEXTS_OF_BYTES = 7;
const SLOTS_OF_BYTES = 2 ** 18;

/** Slots: learned chances of bits, out of 2^22, and counts of what each has seen, up to a limit. */
export class Slots {
  constructor(chances, counts, limit) { Object.assign(this, { chances, counts, limit }); }

  /** Let a slot learn a bit: q moves towards it, the less the more it has seen. */
  learn(slot, bit) {
    const [q, count] = [this.chances[slot], this.counts[slot]];
    this.chances[slot] = q + Math.floor(((bit ? 2 ** 22 - q : -q) * SHARE[count + 2]) / 65536);
    if (count < this.limit) this.counts[slot] = count + 1;
  }
}

/** Decode a bit with the mixture weights[set] ... of stretched chances; the weights and the slots learn it. */
export function mixedBit(decoder, weights, set, rate, stretched, slots, learners) {
  let sum = 0;
  for (let i = 0; i < stretched.length; i++) sum += weights[set + i] * stretched[i];
  const p = SQUASH[2048 + Math.min(Math.max(Math.floor(sum / 65536), -2047), 2047)], bit = decoder.bit(p);
  const error = 65536 * bit - p;
  for (let i = 0; i < stretched.length; i++) {
    weights[set + i] += (stretched[i] * error + (1 << (rate - 1))) >> rate; slots.learn(learners[i], bit);
  }
  return bit;
}

/** Read mixed bytes from a Reader, all that is left of it; a text of at most `limit` bytes. */
export function readMixedBytes(reader, limit) {
  const text = new Uint8Array(reader.varint(limit, "the length of its text"));
  const decoder = new RangeDecoder(reader.rest(), reader.name);
  const [chances, counts] = [Int32Array, Uint8Array].map((Type) => new Type(CONTEXTS_OF_BYTES * SLOTS_OF_BYTES));
  const slots = new Slots(chances.fill(2 ** 21), counts, 255);
  const weights = new Float64Array(8 * CONTEXTS_OF_BYTES).fill(24000);
  const [contexts, learners, stretched] = [1, 2, 3].map(() => new Int32Array(CONTEXTS_OF_BYTES));
  let [lastFour, hash, length] = [-1, 0, 0]; // c_1 + 256 · c_2 + ...: 255 four times; of the piece so far
  for (let at = 0; at < text.length; at++) {
    const known = [0, lastFour & 0xff, lastFour & 0xffff, lastFour & 0xffffff, lastFour, hash, length];
    known.forEach((h, i) => (contexts[i] = Math.imul(h + i, 0x9e3779b1)));
    let bitsSoFar = 1;
    while (bitsSoFar < 256) {
      const mixed = Math.imul(bitsSoFar, 0x85ebca6b);
      let seen = 0;
      for (let i = 0; i < CONTEXTS_OF_BYTES; i++) {
        const slot = (learners[i] = i * SLOTS_OF_BYTES + (Math.imul(contexts[i] ^ mixed, 0xc2b2ae35) >>> 14));
        stretched[i] = counts[slot] ? STRETCH[chances[slot] >> 10] : 0; seen += counts[slot] ? 1 : 0;
      }
      bitsSoFar = 2 * bitsSoFar + mixedBit(decoder, weights, seen * CONTEXTS_OF_BYTES, 14, stretched, slots, learners);
    }
    const byte = (text[at] = bitsSoFar - 256);
    lastFour = (lastFour << 8) | byte; hash = byte === 255 ? 0 : Math.imul(hash ^ (byte + 1), 0x01000193);
    length = byte === 255 ? 0 : length + 1;
  }
  decoder.end();
  return text;
}
