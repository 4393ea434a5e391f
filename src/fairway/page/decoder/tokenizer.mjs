// Tokenizers (formats.md, "Tokenizer"): what tokens write. A decoder needs no encoding.
import { Reader, demand, joinBytes, utf8Text } from "./binary.mjs";
import { readMixedBytes } from "./mixed_bytes.mjs";

const TEXT_LIMIT = 2_097_152;
const MOST_TOKENS = 65_535; // exact arithmetic's limit (exact.md, section 9)
const MARKS = ["\ue001", "\ue002"]; // kind 3: the next letter, the next word is written in capitals
const MARK = 256; // in what a piece writes: the first of them; + 1 for the second
const [NORMAL, UNKNOWN, CONTROL, BYTE] = [1, 2, 3, 6]; // types of pieces, kind 2
const utf8Bytes = (text) => Array.from(new TextEncoder().encode(text));
const demandOfTokenizer = (condition, what) => demand(condition, `the model's tokenizer ${what}`);

/** Read a tokenizer's part of an artifact. */
export function readTokenizer(bytes) {
  const reader = new Reader(bytes, "the model's tokenizer");
  const kind = reader.byte();
  demandOfTokenizer(kind >= 1 && kind <= 3, `has the unknown kind ${kind}`);
  return openTokenizer(kind, readMixedBytes(reader, TEXT_LIMIT));
}

/**
 * Open a tokenizer: {kind, text, vocabulary, bos, written, spaced}. written[token] are the bytes
 * (and marks, kind 3) that it writes, null for BOS and others that write nothing; spaced[token]
 * says if they begin with U+2581 (kind 2).
 */
export function openTokenizer(kind, text) {
  const pieces = kind === 2 ? challengePieces(text) : ownPieces(text, kind === 3);
  const vocabulary = pieces.written.length;
  demandOfTokenizer(vocabulary <= MOST_TOKENS, "has too many tokens");
  return { kind, text, vocabulary, ...pieces };
}

/** Split a text at each byte 255: of each piece, its bytes; the empty text has none. */
function splitPieces(text) {
  const pieces = [];
  for (let start = 0; text.length && start <= text.length; ) {
    const found = text.indexOf(255, start);
    const stop = found < 0 ? text.length : found;
    pieces.push(text.subarray(start, stop));
    demandOfTokenizer(pieces.length <= MOST_TOKENS, "has too many pieces");
    start = stop + 1;
  }
  return pieces;
}

/** Kinds 1 and 3: BOS, the 256 bytes, then pieces in merge order. */
function ownPieces(text, cased) {
  const pieces = splitPieces(text);
  const names = pieces.map(utf8Text);
  demandOfTokenizer(!names.includes(null), "has a piece that is no UTF-8");
  const areLong = pieces.every(({ length }) => length >= 2);
  demandOfTokenizer(areLong, "has a piece of less than two bytes");
  demandOfTokenizer(new Set(names).size === names.length, "has two pieces that are the same");
  const reserved = names.some((name) => /[\u2581\ue00a\ue009]/.test(name));
  demandOfTokenizer(!reserved, "has a piece with a reserved character");
  demandOfTokenizer(!cased || MARKS.every((mark) => names.includes(mark)), "lacks its marks");
  const itemsOf = (character) =>
    cased && MARKS.includes(character) ? MARK + MARKS.indexOf(character) : utf8Bytes(character);
  const bytes = Array.from({ length: 256 }, (_, byte) => [byte]);
  const written = names.map((name) => Array.from(name).flatMap(itemsOf));
  return { bos: 0, written: [null, ...bytes, ...written], spaced: [] };
}

const hexByte = (byte) => byte.toString(16).toUpperCase().padStart(2, "0");

/** Kind 2, a SentencePiece model of the challenge, and the reasons to refuse one. */
function challengePieces(text) {
  const reader = new Reader(text, "the model's tokenizer");
  const fields = Array.from({ length: 6 }, () => reader.varint(2 ** 32, "a field"));
  const [type, unknown, bos, , , ranks] = fields;
  const count = ranks ? 0 : reader.varint(MOST_TOKENS, "the number of pieces");
  const scores = Array.from({ length: count }, () => reader.float32());
  const byteNames = Array.from({ length: 256 }, (_, byte) => `<0x${hexByte(byte)}>`);
  const pieces = splitPieces(reader.rest()).flatMap((piece) => {
    if (piece.length === 1 && piece[0] === 254) return byteNames.map((name) => [BYTE, name]);
    const other = piece[0] - 248;
    const isOther = [UNKNOWN, CONTROL, BYTE].includes(other);
    return [isOther ? [other, utf8Text(piece.subarray(1))] : [NORMAL, utf8Text(piece)]];
  });
  const names = pieces.map(([, name]) => name);
  demandOfTokenizer(!names.includes(null), "has a piece that is no UTF-8");
  const ofType = (...types) => names.filter((_, i) => types.includes(pieces[i][0]));
  const fits = scores.length === names.length && scores.every(Number.isFinite);
  const isUnknown = ofType(UNKNOWN).length === 1 && pieces[unknown]?.[0] === UNKNOWN;
  const rules = {
    "has an unknown type": (type === 1 || type === 2) && ranks <= 1,
    "has scores that do not fit": ranks || fits,
    "has two pieces that are the same": new Set(names).size === names.length,
    "has a piece that is empty or holds NUL": names.every((name) => name && !name.includes("\0")),
    "has not one piece for each byte": ofType(BYTE).sort().join() === byteNames.join(),
    "has not one unknown piece": isUnknown,
    "has no control piece for BOS": pieces[bos]?.[0] === CONTROL,
    "has a control piece of one character":
      ofType(UNKNOWN, CONTROL).every((name) => [...name].length > 1),
    "has no piece for a space": ofType(NORMAL).includes("\u2581"),
  };
  for (const reason in rules) demandOfTokenizer(rules[reason], reason);
  const written = pieces.map(([pieceType, name]) => {
    if (pieceType === NORMAL) return utf8Bytes(name.replaceAll("\u2581", " "));
    return pieceType === BYTE ? [byteNames.indexOf(name)] : null;
  });
  const spaced = pieces.map(([pieceType, name]) => pieceType === NORMAL && name[0] === "\u2581");
  return { bos, written, spaced };
}

/** Return the bytes of a token's piece, marks included; null if it writes nothing. */
export function pieceBytes({ written }, token) {
  const bytesOf = (item) => (item < MARK ? item : utf8Bytes(MARKS[item - MARK]));
  return written[token] && Uint8Array.from(written[token].flatMap(bytesOf));
}

/** Write the tokens of documents, one after another; a BOS begins a document. */
export class TextWriter {
  constructor(tokenizer) {
    Object.assign(this, { tokenizer, bytes: new Uint8Array(1024), length: 0 });
    this.begin();
  }

  /**
   * Begin a document: a first space is left out (kind 2); no mark is in effect, with letters and
   * spaces behind it (kind 3).
   */
  begin() { Object.assign(this, { first: true, mark: 0, letters: 0, spaces: 0 }); }

  /** Write a token; returns the bytes that it wrote, a view. */
  write(token) {
    const { written, bos, spaced } = this.tokenizer;
    const start = this.length;
    if (token === bos) this.begin();
    const items = (written[token] ?? []).slice(this.first && spaced[token] ? 1 : 0);
    items.forEach((item) => this.writeItem(item));
    this.first = written[token] === null;
    return this.bytes.subarray(start, this.length);
  }

  /**
   * Write a byte, or let a mark take effect: behind it stand one space or none, and letters that
   * become capitals.
   */
  writeItem(item) {
    if (item >= MARK) {
      Object.assign(this, { mark: item, letters: 0, spaces: 0 });
      return;
    }
    const isLetter = item >= 97 && item <= 122;
    const isCapital = this.mark && isLetter && (this.mark > MARK || this.letters === 0);
    if (isLetter) this.letters++;
    else if (item !== 32 || this.letters || this.spaces++) this.mark = 0;
    if (this.length === this.bytes.length) this.bytes = joinBytes([this.bytes, this.bytes]);
    this.bytes[this.length++] = isCapital ? item - 32 : item;
  }
}
