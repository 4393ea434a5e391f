// Bytes of a text as pieces that are safe to show. Whatever could be interpreted or could hide (control characters,
// marks of direction, what is not UTF-8) becomes a label; nothing else is changed.

import { element } from "./elements.mjs";

const LONGEST_PIECE = 24; // UTF-16 units, so that a row of a phone holds any piece
const HIDDEN =
  /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cn}\p{Cs}\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0]/u; // newline and tab aside

// Return how many bytes the UTF-8 character at `at` has, 0 where none begins there.
export function utf8Length(bytes, at) {
  const first = bytes[at];
  if (first < 0x80) return 1;
  const length = first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
  if (!length || at + length > bytes.length) return 0;
  for (let i = 1; i < length; i++) if ((bytes[at + i] & 0xc0) !== 0x80) return 0;
  const second = bytes[at + 1];
  if ((first === 0xe0 && second < 0xa0) || (first === 0xed && second > 0x9f)) return 0; // too long; a surrogate
  if ((first === 0xf0 && second < 0x90) || (first === 0xf4 && second > 0x8f)) return 0; // too long; above U+10FFFF
  return length;
}

function codePoint(bytes, at, length) {
  let value = length === 1 ? bytes[at] : bytes[at] & (0x7f >> length);
  for (let i = 1; i < length; i++) value = (value << 6) | (bytes[at + i] & 0x3f);
  return value;
}

const hexDigits = (value, digits) => value.toString(16).toUpperCase().padStart(digits, "0");
const hexBytes = (bytes, from, to) => Array.from(bytes.subarray(from, to), (byte) => hexDigits(byte, 2)).join(" ");

// Return bytes [from, to) as pieces. A piece is one of
//   {text}        to be shown as it is; at most one newline, at its end; a tab stands alone
//   {label, hex}  bytes that are shown as a label
//   {part: true}  bytes of a character that ends in a later token, which shows it whole
// The characters around [from, to) are looked at, so that one that spans tokens is found.
export function piecesOfBytes(bytes, from, to) {
  const pieces = [];
  let text = "";
  const flush = () => {
    if (text) pieces.push({ text });
    text = "";
  };
  let at = from;
  for (let back = 1; back <= 3 && back <= from; back++) if (utf8Length(bytes, from - back) > back) at = from - back;
  while (at < to) {
    const length = utf8Length(bytes, at);
    const code = length && codePoint(bytes, at, length);
    if (!length) {
      flush();
      pieces.push({ label: `\\x${hexDigits(bytes[at], 2)}`, hex: hexDigits(bytes[at], 2) });
      at += 1;
      continue;
    }
    if (at + length > to) {
      flush();
      pieces.push({ part: true });
      break;
    }
    const character = String.fromCodePoint(code);
    if (code === 10) {
      text += character;
      flush();
    } else if (code === 9) {
      flush();
      pieces.push({ text: character });
    } else if (HIDDEN.test(character)) {
      flush();
      pieces.push({ label: code < 0x80 ? `\\x${hexDigits(code, 2)}` : `U+${hexDigits(code, 4)}`, hex: hexBytes(bytes, at, at + length) });
    } else {
      if (text.length + character.length > LONGEST_PIECE) flush();
      text += character;
    }
    at += length;
  }
  flush();
  return pieces;
}

// Return pieces of a token that stands alone as nodes, with marks for blanks and newlines.
export function nodesOfPieces(pieces) {
  return pieces.map((piece) => {
    if (piece.text === undefined) return element("b", { class: "byte", "data-label": piece.label ?? "·" });
    const visible = piece.text.replace(/ /g, "␣").replace(/\n/g, "↵").replace(/\t/g, "⇥");
    return element("span", { class: piece.text.trim() ? "" : "blank" }, visible);
  });
}
