// The recipe in an artifact (formats.md, "recipe"): the shape of the network, and its list of tensors.
import { demand } from "./binary.mjs";

const RECIPE_BYTES = 4096;
const isNumber = (value) => typeof value === "number";
const isSwitch = (value) => typeof value === "boolean";
// Of each key: the default, the least and the greatest value, and what it is if it is no integer.
const RECIPE_KEYS = {
  num_layers: [4, 1, 128],
  dim: [128, 8, 8192],
  num_heads: [4, 1, 128],
  num_kv_heads: [2, 1, 128],
  mlp_mult: [3, Number.MIN_VALUE, 16, isNumber],
  window: [256, 8, 32768], // the greatest of exact arithmetic (exact.md, section 9)
  rope_base: [10000, 1 + Number.EPSILON, Number.MAX_VALUE, isNumber],
  softcap: [30, 2 ** -10, 40, isNumber], // the least of exact arithmetic
  bigram_rows: [2048, 0, 2 ** 24],
  bigram_dim: [64, 1, 8192],
  smear: [true, 0, 1, isSwitch],
  document_aware: [true, 0, 1, isSwitch],
  activation: ["relu2", "", "~", (value) => value === "relu2" || value === "leaky2"],
  rotary_dims: [0, 0, 8192],
  layer_scale: [false, 0, 1, isSwitch],
  ...{ exclusive_layers: [0, 0, Infinity], gate_channels: [0, 0, 8192], parallel_layers: [0, 0, Infinity] },
  ...{ repeat_first: [0, -Infinity, Infinity], repeat_last: [0, -Infinity, Infinity], repeat_times: [0, 0, 16] },
  ngram: [0, 0, 4],
  neural_cache: [0, 0, 4096],
};

function parseJson(bytes) {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes));
  } catch { return null; }
}

/** Parse and check the recipe; returns all its keys, and headWidth and hidden, which follow from them. */
export function readRecipe(bytes) {
  demand(bytes.length <= RECIPE_BYTES, "the model's recipe is over 4,096 bytes");
  const given = parseJson(bytes);
  demand(given !== null && typeof given === "object" && !Array.isArray(given), "the model's recipe is no JSON object");
  const stranger = Object.keys(given).find((key) => !Object.hasOwn(RECIPE_KEYS, key));
  demand(stranger === undefined, `the model's recipe has the unknown key ${JSON.stringify(stranger)}`);
  const recipe = {};
  for (const [key, [usual, least, most, isRight = Number.isInteger]] of Object.entries(RECIPE_KEYS)) {
    const value = (recipe[key] = Object.hasOwn(given, key) ? given[key] : usual);
    demand(isRight(value) && value >= least && value <= most, `the model's recipe has a wrong ${key}`);
  }
  const { dim, num_heads, num_kv_heads, repeat_first, repeat_last, repeat_times, num_layers } = recipe;
  recipe.headWidth = dim / num_heads; recipe.hidden = Math.floor(recipe.mlp_mult * dim);
  demand(recipe.headWidth % 2 === 0 && recipe.headWidth <= 256, "the model's heads are not of even width, 256 at most");
  demand(num_heads % num_kv_heads === 0, "the model's num_heads is no multiple of its num_kv_heads");
  demand(recipe.hidden >= 1, "the model's MLP has no width");
  const isRotary = recipe.rotary_dims <= recipe.headWidth && recipe.rotary_dims % 2 === 0;
  demand(isRotary, "the model's recipe has a wrong rotary_dims");
  demand(recipe.gate_channels <= dim, "the model's recipe has a wrong gate_channels");
  const repeats = repeat_first >= 0 && repeat_first <= repeat_last && repeat_last < num_layers;
  demand(repeat_times === 0 || repeats, "the model repeats layers that it does not have");
  return recipe;
}

/** Return the layers in the order in which they are passed (exact.md, section 4). */
export function layerPasses({ num_layers, repeat_first, repeat_last, repeat_times }) {
  const layers = Array.from({ length: num_layers }, (_, layer) => layer);
  const repeated = new Array(repeat_times).fill(layers.slice(repeat_first, repeat_last + 1)).flat();
  return [...layers.slice(0, repeat_last + 1), ...repeated, ...layers.slice(repeat_last + 1)];
}

/** Return all tensors in their order: {name, part, kind (of a matrix's integers), rows, columns}. */
export function listTensors(recipe, vocabulary) {
  const { dim, headWidth, num_heads, num_kv_heads, hidden, bigram_rows, bigram_dim } = recipe;
  const tensors = [];
  const matrix = (part, kind, name, rows, columns) => tensors.push({ name, part, kind, rows, columns });
  const vectors = (name, rows, columns) => tensors.push({ name, part: "small", rows, columns });
  vectors("skips", Math.floor(layerPasses(recipe).length / 2), dim);
  matrix("embedding", 6, "embed.tokens", vocabulary, dim);
  if (bigram_rows) matrix("bigram", 7, "embed.bigram_table", bigram_rows, bigram_dim);
  if (bigram_rows) matrix("bigram", 8, "embed.bigram_proj", dim, bigram_dim);
  if (bigram_rows) vectors("embed.bigram_scale", 1, 1);
  if (recipe.smear) vectors("embed.smear_gate", 1, dim);
  for (let layer = 0; layer < recipe.num_layers; layer++) {
    const block = `blocks.${layer}`;
    vectors(`${block}.attn_scale`, 1, dim); vectors(`${block}.mlp_scale`, 1, dim);
    vectors(`${block}.mix`, 2, dim); matrix("attention", 0, `${block}.attn.q`, dim, dim);
    matrix("attention", 1, `${block}.attn.k`, num_kv_heads * headWidth, dim);
    matrix("attention", 2, `${block}.attn.v`, num_kv_heads * headWidth, dim);
    matrix("attention", 3, `${block}.attn.o`, dim, dim); vectors(`${block}.attn.q_gain`, 1, num_heads);
    if (recipe.gate_channels) matrix("attention", 9, `${block}.attn.gate`, num_heads, recipe.gate_channels);
    matrix("mlp", 4, `${block}.mlp.up`, hidden, dim); matrix("mlp", 5, `${block}.mlp.down`, dim, hidden);
  }
  return tensors;
}
