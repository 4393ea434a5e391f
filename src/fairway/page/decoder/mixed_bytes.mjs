// Mixed bits and bytes (formats.md, "The range coder" and "Mixed bytes").
import { SHARE, SQUASH, STRETCH } from "./integer_math.mjs";
import { RangeDecoder } from "./range_coder.mjs";

/**
 * A decoder of bits with learned chances. Slots are chances of bits, out of 2^22, and counts of
 * what each has seen, up to a limit; `mixed` are the weights of mixtures, which learn at a rate.
 */
export class MixingDecoder extends RangeDecoder {
  constructor(bytes, name, model) {
    super(bytes, name);
    Object.assign(this, model); // {chances, counts, limit, mixed, rate}
  }

  /** Let a slot learn a bit: q moves towards it, the less the more it has seen. */
  learn(slot, bit) {
    const { chances, counts, limit } = this;
    const distance = 2 ** 22 * bit - chances[slot];
    chances[slot] += Math.floor((distance * SHARE[counts[slot] + 2]) / 65536);
    if (counts[slot] < limit) counts[slot] += 1;
  }

  /** Decode a bit with the mixture mixed[set] ... of stretched chances; all of them learn it. */
  mixedBit(set, slots, stretched) {
    const { mixed, rate } = this;
    let sum = 0;
    for (let i = 0; i < slots.length; i++) sum += mixed[set + i] * stretched[i];
    const p = SQUASH[2048 + Math.min(Math.max(Math.floor(sum / 65536), -2047), 2047)];
    const bit = this.bit(p);
    const error = 65536 * bit - p;
    for (let i = 0; i < slots.length; i++) {
      mixed[set + i] += (stretched[i] * error + (1 << (rate - 1))) >> rate;
      this.learn(slots[i], bit);
    }
    return bit;
  }
}

const CONTEXTS_OF_BYTES = 7;
const SLOTS_OF_BYTES = 2 ** 18;

/** Read mixed bytes from a Reader, all that is left of it; a text of at most `limit` bytes. */
export function readMixedBytes(reader, limit) {
  const text = new Uint8Array(reader.varint(limit, "the length of its text"));
  const chances = new Int32Array(CONTEXTS_OF_BYTES * SLOTS_OF_BYTES).fill(2 ** 21);
  const counts = new Uint8Array(chances.length);
  const mixed = new Float64Array(8 * CONTEXTS_OF_BYTES).fill(24000);
  const model = { chances, counts, limit: 255, mixed, rate: 14 };
  const decoder = new MixingDecoder(reader.rest(), reader.name, model);
  const slots = new Int32Array(CONTEXTS_OF_BYTES);
  const stretched = new Int32Array(CONTEXTS_OF_BYTES);
  let last = -1; // c_1 + 256 · c_2 + ...: four bytes, 255 at first
  let [hash, length] = [0, 0]; // of the piece so far
  for (let at = 0; at < text.length; at++) {
    const known = [0, last & 0xff, last & 0xffff, last & 0xffffff, last, hash, length];
    const contexts = known.map((h, i) => Math.imul(h + i, 0x9e3779b1));
    let bitsSoFar = 1;
    while (bitsSoFar < 256) {
      const mixedBits = Math.imul(bitsSoFar, 0x85ebca6b);
      let seen = 0;
      for (let i = 0; i < CONTEXTS_OF_BYTES; i++) {
        const place = Math.imul(contexts[i] ^ mixedBits, 0xc2b2ae35) >>> 14;
        slots[i] = i * SLOTS_OF_BYTES + place;
        const known = counts[slots[i]] > 0;
        stretched[i] = known ? STRETCH[chances[slots[i]] >> 10] : 0;
        seen += known;
      }
      bitsSoFar = 2 * bitsSoFar + decoder.mixedBit(seen * CONTEXTS_OF_BYTES, slots, stretched);
    }
    const byte = (text[at] = bitsSoFar - 256);
    last = (last << 8) | byte;
    hash = byte === 255 ? 0 : Math.imul(hash ^ (byte + 1), 0x01000193);
    length = byte === 255 ? 0 : length + 1;
  }
  decoder.end();
  return text;
}
