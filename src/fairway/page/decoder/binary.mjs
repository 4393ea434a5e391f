// Binary fields (formats.md, introduction): integers of fixed size, varints, CRC-32, limits.

/** A file is damaged, foreign or beyond a limit; the message is a sentence that says how. */
export class Damage extends Error {}

/** There is no verdict: another kind of file or version, another model's or a device's proof. */
export class NoVerdict extends Damage {}

/** Throw a Damage, or another kind of it, with this sentence unless the condition holds. */
export function demand(condition, sentence, Kind = Damage) {
  if (!condition) throw new Kind(sentence);
}

/** Read the fields of a file one after another; `name` is what sentences call it. */
export class Reader {
  constructor(bytes, name) { Object.assign(this, { bytes, name, position: 0 }); }

  /** Return the next `count` bytes, as a view. */
  take(count) {
    demand(count <= this.bytes.length - this.position, `${this.name} ends too early`);
    this.position += count;
    return this.bytes.subarray(this.position - count, this.position);
  }

  rest() { return this.take(this.bytes.length - this.position); }
  byte() { return this.take(1)[0]; }
  fourBytes() { return new DataView(Uint8Array.from(this.take(4)).buffer); }
  uint32() { return this.fourBytes().getUint32(0, true); }
  float32() { return this.fourBytes().getFloat32(0, true); }

  /** Take the file's first four bytes and its version. */
  beginning(letters, kind) {
    const isKind = String.fromCharCode(...this.take(4)) === letters;
    demand(isKind, `${this.name} is no ${kind} file of Fairway's`, NoVerdict);
    const version = this.byte();
    const sentence = `${this.name} has the format version ${version}; this program reads version 1`;
    demand(version === 1, sentence, NoVerdict);
  }

  /** Return a LEB128 integer of at most `limit`; only its shortest form is accepted. */
  varint(limit, what) {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = this.byte();
      value += (byte & 127) * scale;
      demand(value <= limit, `${this.name}: ${what} is over the limit of ${limit}`);
      const isShortest = scale < 2 ** 42 && (byte > 0 || scale === 1);
      demand(isShortest, `${this.name}: ${what} is not in its shortest form`);
      if (byte < 128) return value;
    }
  }

  /** Refuse bytes that are left over. */
  end() { demand(this.position === this.bytes.length, `${this.name} is longer than it should be`); }
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = (value >>> 1) ^ (value & 1 ? 0xedb88320 : 0);
  return value;
});

/** Return the CRC-32 of `bytes`, continued from the CRC-32 of what stood before them. */
export function crc32(bytes, before = 0) {
  let value = ~before;
  for (const byte of bytes) value = CRC_TABLE[(value ^ byte) & 255] ^ (value >>> 8);
  return ~value >>> 0;
}

/** Return the concatenation of byte arrays. */
export function joinBytes(arrays) {
  const joined = new Uint8Array(arrays.reduce((length, array) => length + array.length, 0));
  let at = 0;
  for (const array of arrays) {
    joined.set(array, at);
    at += array.length;
  }
  return joined;
}

export const hexOf = (bytes) =>
  Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
/** Return the text of UTF-8, null for bytes that are none. */
export function utf8Text(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
}
