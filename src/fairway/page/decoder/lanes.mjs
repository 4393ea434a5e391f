// Coded tokens (formats.md): lanes that advance together, one token each per step, with one range coder.
import { demand } from "./binary.mjs";

const TOKEN_LIMIT = 2 ** 26;
const LANE_TOKENS = 2048;

/** Read the layout of coded tokens: {tokens, lanes: [{first, count, inside}] in the order of coding, stream}. */
export function readCodedTokens(reader) {
  const tokens = reader.varint(TOKEN_LIMIT, "the number of tokens");
  demand(tokens >= 1, `${reader.name} has no tokens`);
  const laneCount = reader.varint(Math.max(1, Math.floor(tokens / LANE_TOKENS)), "the number of lanes");
  demand(laneCount >= 1, `${reader.name} has no lanes`);
  const starts = [{ start: 0, inside: 0 }];
  for (let i = 1; i < laneCount; i++) {
    const field = reader.varint(2 * tokens + 1, "the start of a lane");
    starts.push({ start: starts[i - 1].start + Math.floor(field / 2), inside: field % 2 });
    demand(starts[i].start > starts[i - 1].start && starts[i].start < tokens, `${reader.name} has lanes that do not fit`);
  }
  const lanes = starts.map(({ start, inside }, i) => {
    const stop = i + 1 < laneCount ? starts[i + 1].start : tokens;
    const first = inside ? start : start + 1;
    return { first, count: stop - first, inside: inside === 1 };
  });
  lanes.sort((a, b) => b.count - a.count); // stable: equal ones stay as they stand in the text
  const stream = reader.take(reader.varint(4 * tokens + 8, "the length of its stream"));
  return { tokens, lanes, stream };
}
