// Tokenizers (formats.md, "Tokenizer"): what tokens write. A decoder needs no encoding.
import { demand, Reader } from "./binary.mjs";
import { readMixedBytes } from "./mixed_bytes.mjs";

const TEXT_LIMIT = 2_097_152;
const VOCABULARY_LIMIT = 65_536;
const SPACE = 32;
// In what a piece writes: U+E001 (the next letter is a capital) and U+E002 (the next word is in capitals).
const MARK_LETTER = 256;
const MARK_WORD = 257;
const CUT_OUT = ["\u2581", "\ue00a", "\ue009"];

/** Read a tokenizer's part of an artifact: its kind and its text. */
export function readTokenizer(bytes) {
  const reader = new Reader(bytes, "the model's tokenizer");
  const kind = reader.byte();
  demand(kind >= 1 && kind <= 3, `the model's tokenizer has the unknown kind ${kind}`);
  return openTokenizer(kind, readMixedBytes(reader, TEXT_LIMIT));
}

/**
 * Open a tokenizer: {kind, text, vocabulary, bos, written}; written[id] is what a token writes: an array of bytes
 * (and marks, kind 3), null for BOS and other tokens that write nothing.
 */
export function openTokenizer(kind, text) {
  const { bos, written, controls } = kind === 2 ? challengePieces(text) : ownPieces(text, kind === 3);
  demand(written.length <= VOCABULARY_LIMIT - 1, "the model's tokenizer has too many tokens");
  return { kind, text, vocabulary: written.length, bos, written, controls };
}

/** Decode UTF-8, or refuse it. */
function utf8Text(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    demand(false, "a piece of the model's tokenizer is no UTF-8");
  }
}

/** Split a text at each byte 255; the empty text has no pieces. */
function splitPieces(text) {
  const pieces = [];
  for (let start = 0; text.length && start <= text.length; ) {
    const stop = text.indexOf(255, start);
    pieces.push(text.subarray(start, stop < 0 ? text.length : stop));
    start = stop < 0 ? text.length + 1 : stop + 1;
  }
  demand(pieces.length < VOCABULARY_LIMIT, "the model's tokenizer has too many pieces");
  return pieces;
}

/** Kinds 1 and 3: BOS, the 256 bytes, then pieces in merge order. */
function ownPieces(text, cased) {
  const written = [null];
  for (let byte = 0; byte < 256; byte++) written.push([byte]);
  const seen = new Set();
  for (const piece of splitPieces(text)) {
    const characters = utf8Text(piece);
    demand(piece.length >= 2 && !seen.has(characters), "a piece of the model's tokenizer is too short or doubled");
    demand(!CUT_OUT.some((mark) => characters.includes(mark)), "a piece of the model's tokenizer holds a reserved character");
    seen.add(characters);
    written.push(cased ? withMarks(piece) : Array.from(piece));
  }
  demand(!cased || (seen.has("\ue001") && seen.has("\ue002")), "the model's tokenizer lacks its marks of capitals");
  return { bos: 0, written, controls: null };
}

/** Replace U+E001 and U+E002 (EE 80 81, EE 80 82) by marks. */
function withMarks(piece) {
  const items = [];
  for (let i = 0; i < piece.length; i++) {
    const mark = piece[i] === 0xee && piece[i + 1] === 0x80 ? piece[i + 2] - 0x81 : -1;
    items.push(mark === 0 || mark === 1 ? MARK_LETTER + mark : piece[i]);
    if (mark === 0 || mark === 1) i += 2;
  }
  return items;
}

/** Kind 2, a SentencePiece model of the challenge, and the reasons to refuse one. */
function challengePieces(text) {
  const reader = new Reader(text, "the model's tokenizer");
  const type = reader.varint(2, "its type");
  const unknown = reader.varint(VOCABULARY_LIMIT, "unk_id");
  const bos = reader.varint(VOCABULARY_LIMIT, "bos_id");
  reader.varint(VOCABULARY_LIMIT, "eos_id");
  reader.varint(VOCABULARY_LIMIT, "pad_id");
  const ranks = reader.varint(1, "its kind of scores");
  demand(type >= 1, "the model's tokenizer has an unknown type");
  const scores = ranks ? 0 : reader.varint(VOCABULARY_LIMIT, "the number of its pieces");
  for (let i = 0; i < scores; i++) {
    demand(Number.isFinite(reader.float32()), "a score of the model's tokenizer is not finite");
  }
  const types = [];
  const names = [];
  for (const piece of splitPieces(reader.rest())) {
    if (piece.length === 1 && piece[0] === 254) {
      for (let byte = 0; byte < 256; byte++) {
        types.push(6);
        names.push(byteName(byte));
      }
    } else {
      const other = piece.length > 0 && [250, 251, 254].includes(piece[0]);
      types.push(other ? piece[0] - 248 : 1);
      names.push(utf8Text(other ? piece.subarray(1) : piece));
    }
  }
  demand(ranks || scores === names.length, "the model's tokenizer has other scores than pieces");
  demand(new Set(names).size === names.length, "two pieces of the model's tokenizer are the same");
  demand(names.every((name) => name !== "" && !name.includes("\0")), "a piece of the model's tokenizer is empty or holds NUL");
  const bytes = new Map(Array.from({ length: 256 }, (_, byte) => [byteName(byte), byte]));
  const ofType = (wanted) => names.filter((_, i) => types[i] === wanted);
  demand(ofType(6).length === 256 && ofType(6).every((name) => bytes.has(name)), "the model's tokenizer lacks pieces of bytes");
  demand(ofType(2).length === 1 && types[unknown] === 2, "the model's tokenizer has not one unknown piece");
  demand(types[bos] === 3, "the model's tokenizer has no control piece for BOS");
  demand([...ofType(2), ...ofType(3)].every((name) => [...name].length > 1), "a control piece of the model's tokenizer is too short");
  demand(ofType(1).includes("\u2581"), "the model's tokenizer has no piece for a space");
  const encoder = new TextEncoder();
  const written = names.map((name, i) => {
    if (types[i] === 1) return Array.from(encoder.encode(name.replaceAll("\u2581", " ")));
    return types[i] === 6 ? [bytes.get(name)] : null;
  });
  return { bos, written, controls: types.map((pieceType, i) => pieceType === 1 && names[i][0] === "\u2581") };
}

function byteName(byte) {
  return `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`;
}

/** Return the bytes of a token's piece, marks included; null if it writes nothing. */
export function pieceBytes({ written }, token) {
  const mark = (item) => [0xee, 0x80, 0x81 + item - MARK_LETTER];
  return written[token] && Uint8Array.from(written[token].flatMap((item) => (item < MARK_LETTER ? item : mark(item))));
}

/** Write the tokens of documents, one after another. */
export class TextWriter {
  constructor(tokenizer) {
    this.tokenizer = tokenizer;
    this.bytes = new Uint8Array(1024);
    this.length = 0;
    this.begin();
  }

  /** Begin a document. */
  begin() {
    this.first = true; // whether a space at a piece's beginning is left out (kind 2)
    this.mark = 0; // the mark that waits for letters (kind 3),
    this.open = false; // and whether letters have followed it, or a space
    this.spaced = false;
  }

  /** Write a token; returns the bytes that it wrote, a view. */
  write(token) {
    const { kind, written, bos, controls } = this.tokenizer;
    const start = this.length;
    const items = written[token];
    if (token === bos) this.begin();
    if (items) {
      for (let i = kind === 2 && this.first && controls[token] ? 1 : 0; i < items.length; i++) {
        if (kind === 3) this.writeCased(items[i]);
        else this.push(items[i]);
      }
    }
    this.first = items === null;
    return this.bytes.subarray(start, this.length);
  }

  push(byte) {
    if (this.length === this.bytes.length) {
      const larger = new Uint8Array(2 * this.length);
      larger.set(this.bytes);
      this.bytes = larger;
    }
    this.bytes[this.length++] = byte;
  }

  /** Kind 3: behind a mark stand one space or none and small letters, which become capitals. */
  writeCased(item) {
    if (item >= MARK_LETTER) {
      Object.assign(this, { mark: item, open: false, spaced: false });
      return;
    }
    if (this.mark && item >= 97 && item <= 122) {
      if (this.mark === MARK_LETTER) this.mark = 0;
      this.open = true;
      this.push(item - 32);
      return;
    }
    if (this.mark && item === SPACE && !this.spaced && !this.open) this.spaced = true;
    else this.mark = 0;
    this.push(item);
  }
}
