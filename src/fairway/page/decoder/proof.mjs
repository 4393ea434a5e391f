// The proof, .fwp (formats.md): a header, and chunks with checksums.
import { NoVerdict, Reader, crc32, demand, hexOf } from "./binary.mjs";

const DEVICES = { 1: "a CPU", 2: "a CUDA device" };
const MOST_TOKENS_OF_CHUNK = 2 ** 26;
const MOST_LANES = 65_536;
const LEAST_LANE_TOKENS = 2048;

/**
 * Read a proof: {textDigest, modelDigest (hexadecimal beginnings of SHA-256), chunks}; a chunk is
 * {stored, lanes, begun, tokens, stream, name}: `stored` are the documents, Uint8Array[], or null;
 * of coded tokens there are `lanes`, and `begun` are the positions of BOS that are not coded.
 */
export function readProof(bytes) {
  const reader = new Reader(bytes, "the proof");
  reader.beginning("FWPF", "proof");
  const arithmetic = reader.byte();
  const sentence =
    `the proof is of grade "device": its probabilities were computed in floating point, and only ` +
    `the kind of machine that wrote it (${DEVICES[arithmetic]}) can decode it, with fairway verify`;
  demand(!DEVICES[arithmetic], sentence, NoVerdict);
  demand(arithmetic === 0, `the proof names an unknown arithmetic, ${arithmetic}`);
  const [textDigest, modelDigest] = [hexOf(reader.take(8)), hexOf(reader.take(4))];
  const count = reader.varint(bytes.length, "the number of chunks");
  demand(count >= 1, "the proof has no chunks");
  const chunks = [];
  for (let i = 0, checksum = 0, covered = 0; i < count; i++) {
    const name = (reader.name = `chunk ${i + 1} of the proof`);
    chunks.push({ name, ...readChunk(reader) });
    checksum = crc32(bytes.subarray(covered, reader.position), checksum);
    demand(reader.uint32() === checksum, `${name} is damaged`);
    covered = reader.position;
  }
  reader.name = "the proof";
  reader.end();
  return { textDigest, modelDigest, chunks };
}

function readChunk(reader) {
  const most = reader.bytes.length;
  const count = reader.varint(most, "the number of stored documents");
  if (count === 0) return readCodedTokens(reader);
  const lengthOf = () => reader.varint(most, "the length of a document");
  const lengths = Array.from({ length: count }, lengthOf);
  const stored = lengths.map((length) => reader.take(length));
  return { stored, lanes: [], begun: [], tokens: 0 };
}

/** Read coded tokens; lanes, [{first, count}], are in the order of coding. */
function readCodedTokens(reader) {
  const tokens = reader.varint(MOST_TOKENS_OF_CHUNK, "the number of tokens");
  const most = Math.min(Math.max(1, Math.floor(tokens / LEAST_LANE_TOKENS)), MOST_LANES);
  const count = reader.varint(most, "the number of lanes");
  demand(tokens >= 1 && count >= 1, `${reader.name} has no tokens`);
  const starts = [0];
  const inside = [false];
  while (starts.length < count) {
    const field = reader.varint(2 * tokens + 1, "the start of a lane");
    starts.push(starts.at(-1) + Math.floor(field / 2));
    inside.push(field % 2 === 1);
    demand(field >= 2 && starts.at(-1) < tokens, `${reader.name} has lanes that do not fit`);
  }
  const lanes = starts.map((start, i) => {
    const first = inside[i] ? start : start + 1;
    return { first, count: (starts[i + 1] ?? tokens) - first };
  });
  lanes.sort((a, b) => b.count - a.count); // stable: equal ones stay as they stand in the text
  const begun = starts.filter((_, i) => !inside[i]);
  const stream = reader.take(reader.varint(4 * tokens + 8, "the length of its stream"));
  return { stored: null, lanes, begun, tokens, stream };
}
