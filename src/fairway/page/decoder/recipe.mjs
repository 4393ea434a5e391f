// The recipe in an artifact (formats.md): the shape of the network, and its list of tensors.
import { demand, utf8Text } from "./binary.mjs";

const ACTIVATIONS = ["relu2", "leaky2"];
// Of each key: the default; and of a number, the least and the greatest (exact.md, section 9, too).
const RECIPE_KEYS = {
  num_layers: [4, 1, 128],
  dim: [128, 8, 8192],
  num_heads: [4, 1, 128],
  num_kv_heads: [2, 1, 128],
  mlp_mult: [3.0, Number.MIN_VALUE, 16],
  window: [256, 8, 32768],
  rope_base: [10000.0, 1 + Number.EPSILON, Number.MAX_VALUE],
  softcap: [30.0, 2 ** -10, 40],
  bigram_rows: [2048, 0, 2 ** 24],
  bigram_dim: [64, 1, 8192],
  smear: [true],
  document_aware: [true],
  activation: ["relu2"],
  rotary_dims: [0, 0, 8192],
  layer_scale: [false],
  exclusive_layers: [0, 0, Infinity],
  gate_channels: [0, 0, 8192],
  parallel_layers: [0, 0, Infinity],
  repeat_first: [0, -Infinity, Infinity],
  repeat_last: [0, -Infinity, Infinity],
  repeat_times: [0, 0, 16],
  ngram: [0, 0, 4],
  neural_cache: [0, 0, 4096],
};
const FRACTIONS = ["mlp_mult", "rope_base", "softcap"]; // numbers that need not be integers

/** Return whether a value may stand in a recipe. */
function isRight(key, value) {
  const [usual, least, most] = RECIPE_KEYS[key];
  if (typeof value !== typeof usual) return false;
  if (key === "activation") return ACTIVATIONS.includes(value);
  if (typeof value === "boolean") return true;
  return value >= least && value <= most && (FRACTIONS.includes(key) || Number.isInteger(value));
}

function parseJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/** Return all keys of a recipe, and headWidth and hidden, which follow from them. */
export function readRecipe(bytes) {
  demand(bytes.length <= 4096, "the model's recipe is over 4,096 bytes");
  const given = parseJson(utf8Text(bytes));
  const isObject = typeof given === "object" && given !== null && !Array.isArray(given);
  demand(isObject, "the model's recipe is no JSON object");
  const recipe = {};
  for (const [key, [usual]] of Object.entries(RECIPE_KEYS)) recipe[key] = usual;
  for (const [key, value] of Object.entries(given)) {
    const known = JSON.stringify(key);
    demand(Object.hasOwn(RECIPE_KEYS, key), `the model's recipe has the unknown key ${known}`);
    demand(isRight(key, value), `the model's recipe has a wrong ${key}`);
    recipe[key] = value;
  }
  const { dim, num_heads, repeat_first, repeat_last } = recipe;
  const headWidth = dim / num_heads;
  const hidden = Math.floor(recipe.mlp_mult * dim);
  const repeats = repeat_first >= 0 && repeat_first <= repeat_last;
  const rules = {
    num_heads: headWidth % 2 === 0 && headWidth <= 256,
    num_kv_heads: num_heads % recipe.num_kv_heads === 0,
    mlp_mult: hidden >= 1,
    rotary_dims: recipe.rotary_dims <= headWidth && recipe.rotary_dims % 2 === 0,
    gate_channels: recipe.gate_channels <= dim,
    repeat_times: recipe.repeat_times === 0 || (repeats && repeat_last < recipe.num_layers),
  };
  for (const key in rules) demand(rules[key], `the model's recipe has a ${key} that does not fit`);
  return { ...recipe, headWidth, hidden };
}

/** Return the layers in the order in which they are passed (exact.md, section 4). */
export function layerPasses({ num_layers, repeat_first, repeat_last, repeat_times }) {
  const layers = Array.from({ length: num_layers }, (_, layer) => layer);
  const repeated = new Array(repeat_times).fill(layers.slice(repeat_first, repeat_last + 1));
  layers.splice(repeat_last + 1, 0, ...repeated.flat());
  return layers;
}

// The kinds of matrices by the last words of their names, and the parts in which they stand.
const KINDS = ["q", "k", "v", "o", "up", "down", "tokens", "bigram_table", "bigram_proj", "gate"];
const KIND_PARTS = { 4: "mlp", 5: "mlp", 6: "embedding", 7: "bigram", 8: "bigram" };

/** Return all tensors in their order: {name, part, kind (of a matrix), rows, columns}. */
export function listTensors(recipe, vocabulary) {
  const { dim, headWidth, num_heads, num_kv_heads, hidden, bigram_rows, bigram_dim } = recipe;
  const tensors = [];
  const tensor = (name, rows, columns) => {
    const kind = KINDS.indexOf(name.split(".").at(-1));
    const part = kind < 0 ? "small" : (KIND_PARTS[kind] ?? "attention");
    tensors.push({ name, part, kind, rows, columns });
  };
  tensor("skips", Math.floor(layerPasses(recipe).length / 2), dim);
  tensor("embed.tokens", vocabulary, dim);
  if (bigram_rows) {
    tensor("embed.bigram_table", bigram_rows, bigram_dim);
    tensor("embed.bigram_proj", dim, bigram_dim);
    tensor("embed.bigram_scale", 1, 1);
  }
  if (recipe.smear) tensor("embed.smear_gate", 1, dim);
  for (let layer = 0; layer < recipe.num_layers; layer++) {
    const block = `blocks.${layer}`;
    tensor(`${block}.attn_scale`, 1, dim);
    tensor(`${block}.mlp_scale`, 1, dim);
    tensor(`${block}.mix`, 2, dim);
    tensor(`${block}.attn.q`, dim, dim);
    tensor(`${block}.attn.k`, num_kv_heads * headWidth, dim);
    tensor(`${block}.attn.v`, num_kv_heads * headWidth, dim);
    tensor(`${block}.attn.o`, dim, dim);
    tensor(`${block}.attn.q_gain`, 1, num_heads);
    if (recipe.gate_channels) tensor(`${block}.attn.gate`, num_heads, recipe.gate_channels);
    tensor(`${block}.mlp.up`, hidden, dim);
    tensor(`${block}.mlp.down`, dim, hidden);
  }
  return tensors;
}
