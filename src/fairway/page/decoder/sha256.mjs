// SHA-256 (FIPS 180-4). WebCrypto's is used where it is at hand; a page under file:// may lack it.
import { hexOf } from "./binary.mjs";
import { integerRoot } from "./integer_math.mjs";

const PRIMES = [];
for (let n = 2; PRIMES.length < 64; n++) if (PRIMES.every((p) => n % p)) PRIMES.push(n);

// The first 32 bits of the fractions of square roots (8 primes) and cube roots (64 primes).
const SHA_START = Int32Array.from(PRIMES.slice(0, 8), (p) => Number(BigInt.asIntN(32, integerRoot(BigInt(p) << 64n, 2n))));
const SHA_ROUNDS = Int32Array.from(PRIMES, (p) => Number(BigInt.asIntN(32, integerRoot(BigInt(p) << 96n, 3n))));

/** Return the SHA-256 of `bytes` as hexadecimal digits, computed in plain JavaScript. */
export function plainSha256(bytes) {
  const state = SHA_START.slice();
  const schedule = new Int32Array(64);
  const whole = bytes.length & ~63;
  // The last one or two blocks: the rest, the bit 1, zeros, and the length in bits.
  const tail = new Uint8Array(bytes.length - whole < 56 ? 64 : 128);
  tail.set(bytes.subarray(whole));
  tail[bytes.length - whole] = 128;
  const view = new DataView(tail.buffer);
  view.setUint32(tail.length - 8, Math.floor(bytes.length / 2 ** 29));
  view.setUint32(tail.length - 4, (bytes.length * 8) >>> 0);
  for (let at = 0; at < whole; at += 64) shaBlock(state, schedule, bytes, at);
  for (let at = 0; at < tail.length; at += 64) shaBlock(state, schedule, tail, at);
  const digest = new DataView(new ArrayBuffer(32));
  state.forEach((word, i) => digest.setInt32(4 * i, word));
  return hexOf(new Uint8Array(digest.buffer));
}

function shaBlock(state, w, bytes, at) {
  for (let i = 0; i < 16; i++, at += 4) {
    w[i] = (bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3];
  }
  for (let i = 16; i < 64; i++) {
    const x = w[i - 15];
    const y = w[i - 2];
    const s0 = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3);
    const s1 = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10);
    w[i] = w[i - 16] + s0 + w[i - 7] + s1;
  }
  let [a, b, c, d, e, f, g, h] = state;
  for (let i = 0; i < 64; i++) {
    const s1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
    const s0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
    const t1 = (h + s1 + ((e & f) ^ (~e & g)) + SHA_ROUNDS[i] + w[i]) | 0;
    const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    [h, g, f, e, d, c, b, a] = [g, f, e, (d + t1) | 0, c, b, a, (t1 + t2) | 0];
  }
  [a, b, c, d, e, f, g, h].forEach((word, i) => (state[i] += word));
}

/** Return the SHA-256 of `bytes` as hexadecimal digits. */
export async function sha256Of(bytes) {
  const subtle = globalThis.crypto?.subtle;
  return subtle ? hexOf(new Uint8Array(await subtle.digest("SHA-256", bytes))) : plainSha256(bytes);
}
