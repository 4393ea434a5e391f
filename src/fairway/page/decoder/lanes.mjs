// Coded tokens (formats.md): the layout of lanes, which advance together, one token each per step.
import { demand } from "./binary.mjs";

const TOKEN_LIMIT = 2 ** 26;
const LANE_LIMIT = 65_536;
const LANE_TOKENS = 2048;

/** Read the layout of coded tokens: {tokens, lanes: [{first, count, inside}] in the order of coding, stream}. */
export function readCodedTokens(reader) {
  const tokens = reader.varint(TOKEN_LIMIT, "the number of tokens");
  const most = Math.min(Math.max(1, Math.floor(tokens / LANE_TOKENS)), LANE_LIMIT);
  const laneCount = reader.varint(most, "the number of lanes");
  demand(tokens >= 1 && laneCount >= 1, `${reader.name} has no tokens`);
  const starts = [{ start: 0, inside: 0 }];
  for (let i = 1; i < laneCount; i++) {
    const field = reader.varint(2 * tokens + 1, "the start of a lane");
    starts.push({ start: starts[i - 1].start + Math.floor(field / 2), inside: field % 2 });
    demand(field >= 2 && starts[i].start < tokens, `${reader.name} has lanes that do not fit`);
  }
  const lanes = starts.map(({ start, inside }, i) => {
    const first = inside ? start : start + 1;
    return { first, count: (starts[i + 1]?.start ?? tokens) - first, inside: inside === 1 };
  });
  lanes.sort((a, b) => b.count - a.count); // stable: equal ones stay as they stand in the text
  return { tokens, lanes, stream: reader.take(reader.varint(4 * tokens + 8, "the length of its stream")) };
}
