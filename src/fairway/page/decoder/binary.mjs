// Binary fields (formats.md, introduction): integers of fixed size, varints, CRC-32, limits.

/** A file is damaged, foreign or beyond a limit; the message is a sentence that says what is wrong. */
export class Damage extends Error {}

/** There is no verdict: another kind of file or version, another model's proof, a proof of grade "device". */
export class NoVerdict extends Damage {}

/** Throw a Damage with this sentence unless the condition holds. */
export function demand(condition, sentence) {
  if (!condition) throw new Damage(sentence);
}

/** Read the fields of a file one after another; `name` is the file's or part's name in sentences. */
export class Reader {
  constructor(bytes, name) {
    this.bytes = bytes;
    this.name = name;
    this.position = 0;
  }

  /** Return the next `count` bytes as a view. */
  take(count) {
    demand(count <= this.bytes.length - this.position, `${this.name} ends too early`);
    this.position += count;
    return this.bytes.subarray(this.position - count, this.position);
  }

  byte() {
    return this.take(1)[0];
  }

  uint32() {
    const [a, b, c, d] = this.take(4);
    return (a | (b << 8) | (c << 16) | (d << 24)) >>> 0;
  }

  float32() {
    const field = this.take(4);
    return new DataView(field.buffer, field.byteOffset, 4).getFloat32(0, true);
  }

  /** Return a LEB128 integer of at most `limit`; only its shortest form is accepted. */
  varint(limit, what) {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = this.byte();
      value += (byte & 127) * scale;
      demand(value <= limit, `${this.name}: ${what} is over the limit of ${limit}`);
      if (byte < 128) {
        demand(byte > 0 || scale === 1, `${this.name}: ${what} is not in its shortest form`);
        return value;
      }
      demand(scale < 2 ** 42, `${this.name}: ${what} is not in its shortest form`);
    }
  }

  rest() {
    return this.take(this.bytes.length - this.position);
  }

  /** Refuse bytes that are left over. */
  end() {
    demand(this.position === this.bytes.length, `${this.name} is longer than it should be`);
  }
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
  let position = 0;
  for (const array of arrays) {
    joined.set(array, position);
    position += array.length;
  }
  return joined;
}

/** Return bytes as a text of one character each. */
export function latin(bytes) {
  return String.fromCharCode(...bytes);
}

export function hexOf(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function bytesOfHex(hex) {
  return Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16));
}
