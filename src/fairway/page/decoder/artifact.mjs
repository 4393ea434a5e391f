// The artifact, model.fairway (formats.md): a recipe, a tokenizer and the tensors of a network.
import { NoVerdict, crc32, demand, latin, Reader } from "./binary.mjs";
import { listTensors, readRecipe } from "./recipe.mjs";
import { readTokenizer } from "./tokenizer.mjs";
import { readMatrices, readVectors } from "./weights.mjs";

const PARTS = ["recipe", "tokenizer", "embedding", "attention", "mlp", "bigram", "small"];
const MATRIX_PARTS = ["embedding", "attention", "mlp", "bigram"];
const STREAM_WEIGHTS = 2 ** 22;

/** Split an artifact into its parts, a Map from name to bytes; all checksums are checked. */
export function splitArtifact(bytes) {
  const reader = new Reader(bytes, "the model");
  if (latin(reader.take(4)) !== "FWAY") throw new NoVerdict("the model is no model file of Fairway's (model.fairway)");
  const version = reader.byte();
  if (version !== 1) throw new NoVerdict(`the model has the format version ${version}; this program reads version 1`);
  const sizes = PARTS.map((name) => ({ name, length: reader.uint32(), checksum: reader.uint32() }));
  demand(crc32(bytes.subarray(0, 61)) === reader.uint32(), "the header of the model is damaged");
  const parts = new Map();
  for (const { name, length, checksum } of sizes) {
    const part = reader.take(length);
    demand(crc32(part) === checksum, `the model's part "${name}" is damaged`);
    parts.set(name, part);
  }
  reader.end();
  return parts;
}

/** Read an artifact: {recipe, tokenizer, tensors: Map from a name to a matrix (see readMatrices) or Float32Array}. */
export function readArtifact(bytes) {
  const parts = splitArtifact(bytes);
  const recipe = readRecipe(parts.get("recipe"));
  const tokenizer = readTokenizer(parts.get("tokenizer"));
  const list = listTensors(recipe, tokenizer.vocabulary);
  const weights = list.reduce((sum, { rows, columns }) => sum + rows * columns, 0);
  demand(weights <= 1_000_000 + 32 * bytes.length, "the model's recipe asks for more weights than its size allows");
  const tensors = new Map();
  for (const part of MATRIX_PARTS) {
    const members = list.filter((tensor) => tensor.part === part);
    const matrices = readMatrixPart(parts.get(part), `the model's part "${part}"`, members);
    members.forEach(({ name }, i) => tensors.set(name, matrices[i]));
  }
  const members = list.filter((tensor) => tensor.part === "small");
  const vectors = readVectors(parts.get("small"), 'the model\'s part "small"', members);
  members.forEach(({ name }, i) => tensors.set(name, vectors[i]));
  return { recipe, tokenizer, tensors };
}

/** Read a part: the grid of its steps, and its streams, each with as many tensors as fit into 2^22 weights. */
function readMatrixPart(bytes, name, members) {
  const reader = new Reader(bytes, name);
  const grid = reader.byte();
  demand(grid <= 1, `${name} has an unknown grid of steps`);
  const matrices = [];
  for (let first = 0; first < members.length || first === 0; ) {
    let stop = first;
    let weights = 0;
    while (stop < members.length) {
      weights += members[stop].rows * members[stop].columns;
      if (stop > first && weights > STREAM_WEIGHTS) break;
      stop++;
    }
    const stream = stop < members.length ? reader.take(reader.uint32()) : reader.rest();
    matrices.push(...readMatrices(stream, name, members.slice(first, stop), grid));
    first = Math.max(stop, 1);
  }
  return matrices;
}
