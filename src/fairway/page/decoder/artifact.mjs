// The artifact, model.fairway (formats.md): a recipe, a tokenizer and the tensors of a network.
import { NoVerdict, crc32, demand, Reader } from "./binary.mjs";
import { listTensors, readRecipe } from "./recipe.mjs";
import { readTokenizer } from "./tokenizer.mjs";
import { readMatrices, readVectors } from "./weights.mjs";

const PARTS = ["recipe", "tokenizer", "embedding", "attention", "mlp", "bigram", "small"];
const STREAM_WEIGHTS = 2 ** 22;

/** Split an artifact into its parts, an object of bytes by their names; all checksums are checked. */
export function splitArtifact(bytes) {
  const reader = new Reader(bytes, "the model");
  demand(reader.text(4) === "FWAY", "the model is no model file of Fairway's (model.fairway)", NoVerdict);
  const version = reader.byte();
  demand(version === 1, `the model has the format version ${version}; this program reads version 1`, NoVerdict);
  const sizes = PARTS.map((name) => ({ name, length: reader.uint32(), checksum: reader.uint32() }));
  demand(crc32(bytes.subarray(0, 61)) === reader.uint32(), "the header of the model is damaged");
  const parts = {};
  for (const { name, length, checksum } of sizes) {
    parts[name] = reader.take(length);
    demand(crc32(parts[name]) === checksum, `the model's part "${name}" is damaged`);
  }
  reader.end();
  return parts;
}

/** Read an artifact: {recipe, tokenizer, tensors: Map from a name to a matrix (see readMatrices) or Float32Array}. */
export function readArtifact(bytes) {
  const parts = splitArtifact(bytes), recipe = readRecipe(parts.recipe);
  const tokenizer = readTokenizer(parts.tokenizer), list = listTensors(recipe, tokenizer.vocabulary);
  const weights = list.reduce((sum, { rows, columns }) => sum + rows * columns, 0);
  demand(weights <= 1_000_000 + 32 * bytes.length, "the model's recipe asks for more weights than its size allows");
  const tensors = new Map();
  for (const part of PARTS.slice(2)) {
    const members = list.filter((tensor) => tensor.part === part);
    const read = part === "small" ? readVectors : readMatrixPart;
    read(parts[part], `the model's part "${part}"`, members).forEach((tensor, i) => tensors.set(members[i].name, tensor));
  }
  return { recipe, tokenizer, tensors };
}

/** Read a part: the grid of its steps, and its streams, each with as many tensors as fit into 2^22 weights. */
function readMatrixPart(bytes, name, members) {
  const reader = new Reader(bytes, name), grid = reader.byte();
  demand(grid <= 1, `${name} has an unknown grid of steps`);
  const streams = [[]];
  let weights = 0;
  for (const tensor of members) {
    weights += tensor.rows * tensor.columns;
    if (streams.at(-1).length && weights > STREAM_WEIGHTS) { streams.push([]); weights = tensor.rows * tensor.columns; }
    streams.at(-1).push(tensor);
  }
  const bytesOf = (i) => (i < streams.length - 1 ? reader.take(reader.uint32()) : reader.rest());
  return streams.flatMap((shapes, i) => readMatrices(bytesOf(i), name, shapes, grid));
}
