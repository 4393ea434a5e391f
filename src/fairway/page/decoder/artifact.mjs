// The artifact, model.fairway (formats.md): a recipe, a tokenizer and the tensors of a network.
import { Reader, crc32, demand } from "./binary.mjs";
import { listTensors, readRecipe } from "./recipe.mjs";
import { readTokenizer } from "./tokenizer.mjs";
import { readMatrices, readVectors } from "./weights.mjs";

const PARTS = ["recipe", "tokenizer", "embedding", "attention", "mlp", "bigram", "small"];
const STREAM_WEIGHTS = 2 ** 22;

/** Split an artifact into its parts, bytes by their names; all checksums are checked. */
export function splitArtifact(bytes) {
  const reader = new Reader(bytes, "the model");
  reader.beginning("FWAY", "model");
  const sizes = PARTS.map(() => [reader.uint32(), reader.uint32()]);
  demand(crc32(bytes.subarray(0, 61)) === reader.uint32(), "the header of the model is damaged");
  const parts = sizes.map(([length, checksum], i) => {
    const part = reader.take(length);
    demand(crc32(part) === checksum, `the model's part "${PARTS[i]}" is damaged`);
    return [PARTS[i], part];
  });
  reader.end();
  return Object.fromEntries(parts);
}

/** Read an artifact; `tensors` are a Float32Array or a matrix (readMatrices) by name. */
export function readArtifact(bytes) {
  const parts = splitArtifact(bytes);
  const recipe = readRecipe(parts.recipe);
  const tokenizer = readTokenizer(parts.tokenizer);
  const shapes = listTensors(recipe, tokenizer.vocabulary);
  const weights = shapes.reduce((sum, { rows, columns }) => sum + rows * columns, 0);
  const plausible = weights <= 1_000_000 + 32 * bytes.length;
  demand(plausible, "the model's recipe asks for more weights than its size allows");
  const tensors = new Map();
  for (const part of PARTS.slice(2)) {
    const members = shapes.filter((shape) => shape.part === part);
    const read = part === "small" ? readVectors : readMatrixPart;
    const made = read(parts[part], `the model's part "${part}"`, members);
    made.forEach((tensor, i) => tensors.set(members[i].name, tensor));
  }
  return { recipe, tokenizer, tensors };
}

/** Read a part: the grid of its steps, and its streams, each with as many tensors as fit in it. */
function readMatrixPart(bytes, name, members) {
  const reader = new Reader(bytes, name);
  const grid = reader.byte();
  demand(grid <= 1, `${name} has an unknown grid of steps`);
  const streams = [[]];
  let room = STREAM_WEIGHTS;
  for (const shape of members) {
    const weights = shape.rows * shape.columns;
    const fits = weights <= room || streams.at(-1).length === 0;
    if (!fits) streams.push([]);
    streams.at(-1).push(shape);
    room = (fits ? room : STREAM_WEIGHTS) - weights;
  }
  return streams.flatMap((shapes, i) => {
    const isLast = i === streams.length - 1;
    return readMatrices(isLast ? reader.rest() : reader.take(reader.uint32()), name, shapes, grid);
  });
}
