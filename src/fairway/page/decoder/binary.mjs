// Binary fields (formats.md, introduction): integers of fixed size, varints, CRC-32, limits.

/** A file is damaged, foreign or beyond a limit; the message is a sentence that says what is wrong. */
export class Damage extends Error {}

/** There is no verdict: another kind of file or version, another model's proof, a proof of grade "device". */
export class NoVerdict extends Damage {}

/** Throw a Damage, or another kind of it, with this sentence unless the condition holds. */
export function demand(condition, sentence, Kind = Damage) { if (!condition) throw new Kind(sentence); }

/** Read the fields of a file one after another; `name` is the file's or part's name in sentences. */
export class Reader {
  constructor(bytes, name) { Object.assign(this, { bytes, name, position: 0 }); }

  /** Return the next `count` bytes, as a view. */
  take(count) {
    demand(count <= this.bytes.length - this.position, `${this.name} ends too early`); this.position += count;
    return this.bytes.subarray(this.position - count, this.position);
  }

  rest() { return this.take(this.bytes.length - this.position); }
  byte() { return this.take(1)[0]; }
  text(count) { return String.fromCharCode(...this.take(count)); }
  view(count) { const { buffer, byteOffset } = this.take(count); return new DataView(buffer, byteOffset, count); }
  uint32() { return this.view(4).getUint32(0, true); }
  float32() { return this.view(4).getFloat32(0, true); }

  /** Return a LEB128 integer of at most `limit`; only its shortest form is accepted. */
  varint(limit, what) {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = this.byte();
      value += (byte & 127) * scale;
      demand(value <= limit, `${this.name}: ${what} is over the limit of ${limit}`);
      demand(scale < 2 ** 42 && (byte > 0 || scale === 1), `${this.name}: ${what} is not in its shortest form`);
      if (byte < 128) return value;
    }
  }

  /** Refuse bytes that are left over. */
  end() { demand(this.position === this.bytes.length, `${this.name} is longer than it should be`); }
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

/** Return the CRC-32 of `bytes`, continued from the CRC-32 of what stood before them. */
export function crc32(bytes, before = 0) {
  let value = ~before;
  for (let i = 0; i < bytes.length; i++) value = CRC_TABLE[(value ^ bytes[i]) & 255] ^ (value >>> 8);
  return ~value >>> 0;
}

/** Return the concatenation of byte arrays. */
export function joinBytes(arrays) {
  const joined = new Uint8Array(arrays.reduce((length, array) => length + array.length, 0));
  let at = 0;
  for (const array of arrays) { joined.set(array, at); at += array.length; }
  return joined;
}

export const hexOf = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
export const bytesOfHex = (hex) => Uint8Array.from(hex.match(/../g), (pair) => parseInt(pair, 16));
