// Tokenizers (formats.md, "Tokenizer"): what tokens write. A decoder needs no encoding.
import { demand, joinBytes, Reader } from "./binary.mjs";
import { readMixedBytes } from "./mixed_bytes.mjs";

const TEXT_LIMIT = 2_097_152;
const MOST_TOKENS = 65_535; // exact arithmetic's limit (exact.md, section 9)
const MARK = 256; // in what a piece writes, kind 3: U+E001, the next letter is a capital; + 1 for U+E002, the next word
const CUT_OUT = /[\u2581\ue00a\ue009]/;
const [NORMAL, UNKNOWN, CONTROL, BYTE] = [1, 2, 3, 6]; // types of pieces, kind 2

/** Read a tokenizer's part of an artifact. */
export function readTokenizer(bytes) {
  const reader = new Reader(bytes, "the model's tokenizer"), kind = reader.byte();
  demand(kind >= 1 && kind <= 3, `the model's tokenizer has the unknown kind ${kind}`);
  return openTokenizer(kind, readMixedBytes(reader, TEXT_LIMIT));
}

/**
 * Open a tokenizer: {kind, text, vocabulary, bos, written, spaced}. written[token] are the bytes (and marks, kind 3)
 * that it writes, null for BOS and others that write nothing; spaced[token] says if they begin with U+2581 (kind 2).
 */
export function openTokenizer(kind, text) {
  const opened = { kind, text, bos: 0, spaced: [], ...(kind === 2 ? challengePieces(text) : ownPieces(text, kind === 3)) };
  opened.vocabulary = opened.written.length;
  demand(opened.vocabulary <= MOST_TOKENS, "the model's tokenizer has too many tokens");
  return opened;
}

/** Split a text at each byte 255: of each piece, its bytes; the empty text has none. */
function splitPieces(text) {
  const pieces = [];
  for (let start = 0, stop = 0; text.length && start <= text.length; start = stop + 1) {
    stop = text.indexOf(255, start) < 0 ? text.length : text.indexOf(255, start);
    pieces.push(text.subarray(start, stop));
    demand(pieces.length <= MOST_TOKENS, "the model's tokenizer has too many pieces");
  }
  return pieces;
}

function utf8Text(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch { return demand(false, "a piece of the model's tokenizer is no UTF-8"); }
}

/** Kinds 1 and 3: BOS, the 256 bytes, then pieces in merge order. */
function ownPieces(text, cased) {
  const bytes = Array.from({ length: 256 }, (_, byte) => [byte]);
  const pieces = splitPieces(text), names = pieces.map(utf8Text);
  demand(pieces.every((piece) => piece.length >= 2), "a piece of the model's tokenizer has less than two bytes");
  demand(new Set(names).size === names.length, "two pieces of the model's tokenizer are the same");
  demand(!names.some((name) => CUT_OUT.test(name)), "a piece of the model's tokenizer holds a reserved character");
  demand(!cased || (names.includes("\ue001") && names.includes("\ue002")), "the model's tokenizer lacks its marks");
  return { written: [null, ...bytes, ...pieces.map((piece, i) => (cased ? withMarks(names[i]) : Array.from(piece)))] };
}

/** Return the bytes of characters, with marks for U+E001 and U+E002. */
function withMarks(characters) {
  const markOf = (character) => ["\ue001", "\ue002"].indexOf(character);
  return Array.from(characters).flatMap((character) =>
    markOf(character) < 0 ? Array.from(new TextEncoder().encode(character)) : MARK + markOf(character),
  );
}

/** Kind 2, a SentencePiece model of the challenge, and the reasons to refuse one. */
function challengePieces(text) {
  const reader = new Reader(text, "the model's tokenizer");
  const [type, unknown, bos, , , ranks] = Array.from({ length: 6 }, () => reader.varint(2 ** 32, "a field"));
  const count = ranks ? 0 : reader.varint(MOST_TOKENS, "the number of pieces");
  const scores = Array.from({ length: count }, () => reader.float32());
  const byteNames = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
  const pieces = splitPieces(reader.rest()).flatMap((piece) => {
    if (piece.length === 1 && piece[0] === 254) return byteNames.map((name) => [BYTE, name]);
    const other = [UNKNOWN, CONTROL, BYTE].includes(piece[0] - 248);
    return [other ? [piece[0] - 248, utf8Text(piece.subarray(1))] : [NORMAL, utf8Text(piece)]];
  });
  const names = pieces.map(([, name]) => name);
  const ofType = (...types) => pieces.filter(([pieceType]) => types.includes(pieceType)).map(([, name]) => name);
  const rules = [
    [(type === 1 || type === 2) && ranks <= 1, "has an unknown type"],
    [ranks || (scores.length === names.length && scores.every(Number.isFinite)), "has scores that do not fit"],
    [new Set(names).size === names.length, "has two pieces that are the same"],
    [names.every((name) => name !== "" && !name.includes("\0")), "has a piece that is empty or holds NUL"],
    [ofType(BYTE).sort().join() === byteNames.join(), "has not one piece for each byte"],
    [ofType(UNKNOWN).length === 1 && pieces[unknown]?.[0] === UNKNOWN, "has not one unknown piece"],
    [pieces[bos]?.[0] === CONTROL, "has no control piece for BOS"],
    [ofType(UNKNOWN, CONTROL).every((name) => [...name].length > 1), "has a control piece of one character"],
    [ofType(NORMAL).includes("\u2581"), "has no piece for a space"],
  ];
  for (const [holds, reason] of rules) demand(holds, `the model's tokenizer ${reason}`);
  const written = pieces.map(([pieceType, name]) => {
    if (pieceType === NORMAL) return Array.from(new TextEncoder().encode(name.replaceAll("\u2581", " ")));
    return pieceType === BYTE ? [byteNames.indexOf(name)] : null;
  });
  return { bos, written, spaced: pieces.map(([pieceType, name]) => pieceType === NORMAL && name[0] === "\u2581") };
}

/** Return the bytes of a token's piece, marks included; null if it writes nothing. */
export function pieceBytes({ written }, token) {
  const bytesOf = (item) => (item < MARK ? item : [0xee, 0x80, 0x81 + item - MARK]);
  return written[token] && Uint8Array.from(written[token].flatMap(bytesOf));
}

/** Write the tokens of documents, one after another; a BOS begins a document. */
export class TextWriter {
  constructor(tokenizer) { Object.assign(this, { tokenizer, bytes: new Uint8Array(1024), length: 0 }); this.begin(); }

  /** Begin a document: a first space is left out (kind 2); no mark is in effect, with letters and spaces behind (3). */
  begin() { Object.assign(this, { first: true, mark: 0, letters: 0, spaces: 0 }); }

  /** Write a token; returns the bytes that it wrote, a view. */
  write(token) {
    const { written, bos, spaced } = this.tokenizer;
    const start = this.length;
    if (token === bos) this.begin();
    const items = written[token] ?? [];
    for (let i = this.first && spaced[token] ? 1 : 0; i < items.length; i++) this.writeItem(items[i]);
    this.first = written[token] === null;
    return this.bytes.subarray(start, this.length);
  }

  /** Write a byte, or let a mark take effect: behind it stand one space or none, and letters that become capitals. */
  writeItem(item) {
    if (item >= MARK) return void Object.assign(this, { mark: item, letters: 0, spaces: 0 });
    const isLetter = item >= 97 && item <= 122;
    const capital = this.mark && isLetter && (this.mark > MARK || this.letters === 0);
    if (isLetter) this.letters++;
    else if (item !== 32 || this.letters || this.spaces++) this.mark = 0;
    if (this.length === this.bytes.length) this.bytes = joinBytes([this.bytes, this.bytes]); // room for as many again
    this.bytes[this.length++] = capital ? item - 32 : item;
  }
}
