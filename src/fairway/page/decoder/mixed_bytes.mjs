// Mixed bytes (formats.md): a text whose bits are predicted by seven contexts.
import { RangeDecoder } from "./range_coder.mjs";
import { SHARE, SQUASH, STRETCH } from "./integer_math.mjs";

const BYTE_CONTEXTS = 7;
const BYTE_SLOTS = 2 ** 18;

/** Let the slot at `index` learn a bit: q moves towards it, the less the more it has seen. */
export function learnBit(chances, counts, index, bit, limit) {
  const count = counts[index];
  chances[index] += Math.floor(((bit ? 2 ** 22 - chances[index] : -chances[index]) * SHARE[count + 2]) / 65536);
  if (count < limit) counts[index] = count + 1;
}

/** Read a text of mixed bytes of at most `limit` bytes from a Reader, all that is left of it. */
export function readMixedBytes(reader, limit) {
  const text = new Uint8Array(reader.varint(limit, "the length of its text"));
  const decoder = new RangeDecoder(reader.rest(), reader.name);
  const chances = new Int32Array(BYTE_CONTEXTS * BYTE_SLOTS).fill(2 ** 21);
  const counts = new Uint8Array(BYTE_CONTEXTS * BYTE_SLOTS);
  const weights = new Float64Array(8 * BYTE_CONTEXTS).fill(24000);
  const contexts = new Int32Array(BYTE_CONTEXTS);
  const slots = new Int32Array(BYTE_CONTEXTS);
  const stretched = new Int32Array(BYTE_CONTEXTS);
  let lastFour = -1; // c_1 + 256 · c_2 + ...: 255 four times
  let hash = 0;
  let length = 0;
  for (let at = 0; at < text.length; at++) {
    const known = [0, lastFour & 0xff, lastFour & 0xffff, lastFour & 0xffffff, lastFour, hash, length];
    for (let i = 0; i < BYTE_CONTEXTS; i++) contexts[i] = Math.imul(known[i] + i, 0x9e3779b1);
    let bitsSoFar = 1;
    while (bitsSoFar < 256) {
      let seen = 0;
      for (let i = 0; i < BYTE_CONTEXTS; i++) {
        const mixed = Math.imul(contexts[i] ^ Math.imul(bitsSoFar, 0x85ebca6b), 0xc2b2ae35) >>> 14;
        slots[i] = i * BYTE_SLOTS + mixed;
        stretched[i] = counts[slots[i]] ? STRETCH[chances[slots[i]] >> 10] : 0;
        if (counts[slots[i]]) seen++;
      }
      let sum = 0;
      for (let i = 0; i < BYTE_CONTEXTS; i++) sum += weights[seen * BYTE_CONTEXTS + i] * stretched[i];
      const p = SQUASH[2048 + Math.min(Math.max(Math.floor(sum / 65536), -2047), 2047)];
      const bit = decoder.bit(p);
      for (let i = 0; i < BYTE_CONTEXTS; i++) {
        weights[seen * BYTE_CONTEXTS + i] += (stretched[i] * (65536 * bit - p) + 2 ** 13) >> 14;
        learnBit(chances, counts, slots[i], bit, 255);
      }
      bitsSoFar = 2 * bitsSoFar + bit;
    }
    const byte = bitsSoFar - 256;
    text[at] = byte;
    lastFour = (lastFour << 8) | byte;
    hash = byte === 255 ? 0 : Math.imul(hash ^ (byte + 1), 0x01000193);
    length = byte === 255 ? 0 : length + 1;
  }
  decoder.end();
  return text;
}
