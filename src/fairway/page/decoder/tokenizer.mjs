// Tokenizers (formats.md, "Tokenizer"): what tokens write. A decoder needs no encoding.
import { demand, joinBytes, Reader } from "./binary.mjs";
import { readMixedBytes } from "./mixed_bytes.mjs";

const TEXT_LIMIT = 2_097_152;

/** Read a tokenizer: {vocabulary, bos, pieces: (Uint8Array | null)[] (what a token writes), decode(tokens)}. */
export function readTokenizer(bytes) {
  const reader = new Reader(bytes, "the tokenizer");
  const kind = reader.byte();
  demand(kind >= 1 && kind <= 3, `the tokenizer has the unknown kind ${kind}`);
  const text = readMixedBytes(reader, TEXT_LIMIT);
  return kind === 2 ? challengeTokenizer(text) : ownTokenizer(text, kind === 3);
}

/** Split a text at each byte 255; an empty text has no parts. */
function splitPieces(text) {
  const parts = [];
  for (let start = 0; start < text.length; ) {
    let stop = text.indexOf(255, start);
    if (stop < 0) stop = text.length;
    parts.push(text.subarray(start, stop));
    start = stop + 1;
  }
  return parts;
}

/** Kinds 1 and 3: BOS, the 256 bytes, then pieces in merge order. */
function ownTokenizer(text, cased) {
  const written = [null];
  for (let byte = 0; byte < 256; byte++) written.push(Uint8Array.of(byte));
  for (const piece of splitPieces(text)) written.push(piece);
  return { vocabulary: written.length, bos: 0, written };
}
