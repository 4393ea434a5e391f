// The proof, .fwp (formats.md): a header, and chunks with checksums.
import { NoVerdict, crc32, demand, hexOf, Reader } from "./binary.mjs";
import { readCodedTokens } from "./lanes.mjs";

/**
 * Read a proof: {textDigest, modelDigest (hexadecimal beginnings of SHA-256), chunks}; a chunk is
 * {documents: Uint8Array[]} if it is stored, else {tokens, lanes, stream}; `name` is for sentences.
 */
export function readProof(bytes) {
  const reader = new Reader(bytes, "the proof");
  demand(reader.text(4) === "FWPF", "the proof is no proof file of Fairway's (.fwp)", NoVerdict);
  const version = reader.byte();
  demand(version === 1, `the proof has the format version ${version}; this program reads version 1`, NoVerdict);
  const arithmetic = reader.byte();
  const device =
    'the proof is of grade "device": its probabilities were computed in floating point, and only the kind of machine ' +
    `that wrote it (${arithmetic === 1 ? "a CPU" : "a CUDA device"}) can decode it, with fairway verify`;
  demand(arithmetic !== 1 && arithmetic !== 2, device, NoVerdict);
  demand(arithmetic === 0, `the proof names an unknown arithmetic, ${arithmetic}`);
  const textDigest = hexOf(reader.take(8)), modelDigest = hexOf(reader.take(4));
  const count = reader.varint(bytes.length, "the number of chunks");
  demand(count >= 1, "the proof has no chunks");
  const chunks = [];
  for (let i = 0, checksum = 0, covered = 0; i < count; i++) {
    const name = (reader.name = `chunk ${i + 1} of the proof`);
    chunks.push({ name, ...readChunk(reader) });
    checksum = crc32(bytes.subarray(covered, reader.position), checksum);
    demand(reader.uint32() === checksum, `${name} is damaged`); covered = reader.position;
  }
  reader.name = "the proof"; reader.end();
  return { textDigest, modelDigest, chunks };
}

function readChunk(reader) {
  const count = reader.varint(reader.bytes.length, "the number of stored documents");
  if (count === 0) return readCodedTokens(reader);
  const lengths = Array.from({ length: count }, () => reader.varint(reader.bytes.length, "the length of a document"));
  return { documents: lengths.map((length) => reader.take(length)) };
}
