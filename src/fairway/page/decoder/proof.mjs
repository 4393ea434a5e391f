// The proof, .fwp (formats.md): a header, and chunks with checksums.
import { NoVerdict, crc32, demand, hexOf, latin, Reader } from "./binary.mjs";
import { readCodedTokens } from "./lanes.mjs";

/**
 * Read a proof: {textDigest, modelDigest (hexadecimal beginnings of SHA-256), chunks}; a chunk is
 * {documents: Uint8Array[]} if it is stored, else {tokens, lanes, stream}; `name` is for sentences.
 */
export function readProof(bytes) {
  const reader = new Reader(bytes, "the proof");
  if (latin(reader.take(4)) !== "FWPF") throw new NoVerdict("the proof is no proof of Fairway's (.fwp)");
  const version = reader.byte();
  if (version !== 1) throw new NoVerdict(`the proof has the format version ${version}; this program reads version 1`);
  const arithmetic = reader.byte();
  if (arithmetic === 1 || arithmetic === 2) {
    const device = arithmetic === 1 ? "a CPU" : "a CUDA device";
    throw new NoVerdict(
      `the proof is of grade "device": its probabilities were computed in floating point on ${device}, and ` +
        "only the same kind of machine can decode it (with fairway verify); this program decodes portable proofs",
    );
  }
  demand(arithmetic === 0, `the proof names an unknown arithmetic, ${arithmetic}`);
  const textDigest = hexOf(reader.take(8));
  const modelDigest = hexOf(reader.take(4));
  const count = reader.varint(bytes.length, "the number of chunks");
  demand(count >= 1, "the proof has no chunks");
  const chunks = [];
  let checksum = 0;
  let covered = 0;
  for (let i = 0; i < count; i++) {
    reader.name = `chunk ${i + 1} of the proof`;
    const chunk = readChunk(reader);
    checksum = crc32(bytes.subarray(covered, reader.position), checksum);
    demand(reader.uint32() === checksum, `${reader.name} is damaged`);
    covered = reader.position;
    chunks.push({ ...chunk, name: reader.name });
  }
  reader.name = "the proof";
  reader.end();
  return { textDigest, modelDigest, chunks };
}

function readChunk(reader) {
  const count = reader.varint(reader.bytes.length, "the number of stored documents");
  if (count === 0) return readCodedTokens(reader);
  const lengths = Array.from({ length: count }, () => reader.varint(reader.bytes.length, "the length of a document"));
  return { documents: lengths.map((length) => reader.take(length)) };
}
