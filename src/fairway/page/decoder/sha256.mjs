// SHA-256 (FIPS 180-4). WebCrypto's is used where it is at hand; a page under file:// may lack it.
import { hexOf } from "./binary.mjs";

/** Return the first 32 bits of the fraction of a prime's root. */
function rootFraction(prime, degree) {
  const power = BigInt(prime) << (32n * degree);
  let root = 0n;
  for (let bit = 1n << 40n; bit; bit >>= 1n) if ((root | bit) ** degree <= power) root |= bit;
  return Number(BigInt.asIntN(32, root));
}

const PRIMES = [];
for (let n = 2; PRIMES.length < 64; n++) if (PRIMES.every((p) => n % p)) PRIMES.push(n);
const SHA_START = PRIMES.slice(0, 8).map((prime) => rootFraction(prime, 2n));
const SHA_ROUNDS = Int32Array.from(PRIMES, (prime) => rootFraction(prime, 3n));

const turnRight = (x, bits) => (x >>> bits) | (x << (32 - bits));

/** Return the SHA-256 of `bytes` as hexadecimal digits, computed in plain JavaScript. */
export function plainSha256(bytes) {
  // the bytes, the bit 1, zeros, and the length in bits: blocks of 64
  const padded = new Uint8Array((bytes.length + 72) & ~63), view = new DataView(padded.buffer);
  padded.set(bytes); padded[bytes.length] = 128;
  view.setUint32(padded.length - 8, Math.floor(bytes.length / 2 ** 29));
  view.setUint32(padded.length - 4, bytes.length * 8);
  const state = Int32Array.from(SHA_START), w = new Int32Array(64);
  for (let at = 0; at < padded.length; at += 64) {
    for (let i = 0; i < 16; i++) w[i] = view.getInt32(at + 4 * i);
    for (let i = 16; i < 64; i++) {
      const s0 = turnRight(w[i - 15], 7) ^ turnRight(w[i - 15], 18) ^ (w[i - 15] >>> 3);
      const s1 = turnRight(w[i - 2], 17) ^ turnRight(w[i - 2], 19) ^ (w[i - 2] >>> 10);
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 64; i++) {
      const s1 = turnRight(e, 6) ^ turnRight(e, 11) ^ turnRight(e, 25);
      const s0 = turnRight(a, 2) ^ turnRight(a, 13) ^ turnRight(a, 22);
      const t1 = (h + s1 + ((e & f) ^ (~e & g)) + SHA_ROUNDS[i] + w[i]) | 0;
      const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + t1) | 0, c, b, a, (t1 + t2) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((word, i) => (state[i] += word));
  }
  return Array.from(state, (word) => (word >>> 0).toString(16).padStart(8, "0")).join("");
}

/** Return the SHA-256 of `bytes` as hexadecimal digits. */
export async function sha256Of(bytes) {
  const subtle = globalThis.crypto?.subtle;
  return subtle ? hexOf(new Uint8Array(await subtle.digest("SHA-256", bytes))) : plainSha256(bytes);
}
