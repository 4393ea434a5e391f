// The recipe in an artifact (formats.md, "recipe"): the shape of the network, and its list of tensors.
import { demand } from "./binary.mjs";

const RECIPE_BYTES = 4096;
// Of each key: the default, the least and the greatest value.
const RECIPE_INTEGERS = {
  num_layers: [4, 1, 128],
  dim: [128, 8, 8192],
  num_heads: [4, 1, 128],
  num_kv_heads: [2, 1, 128],
  window: [256, 8, 32768], // exact arithmetic's limit (exact.md, section 9)
  bigram_rows: [2048, 0, 2 ** 24],
  bigram_dim: [64, 1, 8192],
  rotary_dims: [0, 0, 8192],
  exclusive_layers: [0, 0, 2 ** 31],
  gate_channels: [0, 0, 8192],
  parallel_layers: [0, 0, 2 ** 31],
  repeat_first: [0, 0, 127],
  repeat_last: [0, 0, 127],
  repeat_times: [0, 0, 16],
  ngram: [0, 0, 4],
  neural_cache: [0, 0, 4096],
};
const RECIPE_NUMBERS = {
  mlp_mult: [3, Number.MIN_VALUE, 16],
  rope_base: [10000, 1 + Number.EPSILON, Number.MAX_VALUE],
  softcap: [30, 2 ** -10, 40], // the least is exact arithmetic's
};
const RECIPE_SWITCHES = { smear: true, document_aware: true, layer_scale: false };
const ACTIVATIONS = ["relu2", "leaky2"];

/** Parse and check the recipe; returns all its keys, and headWidth and hidden, which follow from them. */
export function readRecipe(bytes) {
  demand(bytes.length <= RECIPE_BYTES, "the model's recipe is over 4,096 bytes");
  let given = null;
  try {
    given = JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes));
  } catch {
    // given stays null
  }
  demand(given !== null && typeof given === "object" && !Array.isArray(given), "the model's recipe is no JSON object");
  const ranges = { ...RECIPE_INTEGERS, ...RECIPE_NUMBERS };
  const recipe = { ...RECIPE_SWITCHES, activation: "relu2" };
  for (const [key, [usual]] of Object.entries(ranges)) recipe[key] = usual;
  for (const [key, value] of Object.entries(given)) {
    demand(Object.hasOwn(recipe, key), `the model's recipe has the unknown key ${JSON.stringify(key)}`);
    recipe[key] = value;
  }
  for (const [key, [, least, most]] of Object.entries(ranges)) {
    const value = recipe[key];
    const right = Object.hasOwn(RECIPE_NUMBERS, key) ? typeof value === "number" : Number.isInteger(value);
    demand(right && value >= least && value <= most, `the model's recipe has a ${key} that is not from ${least} to ${most}`);
  }
  for (const key of Object.keys(RECIPE_SWITCHES)) {
    demand(typeof recipe[key] === "boolean", `the model's recipe has a ${key} that is neither true nor false`);
  }
  demand(ACTIVATIONS.includes(recipe.activation), "the model's recipe names an unknown activation");
  return withShape(recipe);
}

/** Check how the numbers of a recipe fit together. */
function withShape(recipe) {
  const { dim, num_heads, num_kv_heads, repeat_first, repeat_last, repeat_times, num_layers } = recipe;
  const headWidth = dim / num_heads;
  const hidden = Math.floor(recipe.mlp_mult * dim);
  demand(headWidth % 2 === 0 && headWidth <= 256, "the model's heads are not of even width, 256 at most");
  demand(num_heads % num_kv_heads === 0, "the model's num_heads is no multiple of its num_kv_heads");
  demand(hidden >= 1, "the model's MLP has no width");
  demand(recipe.rotary_dims <= headWidth && recipe.rotary_dims % 2 === 0, "the model's rotary_dims do not fit its heads");
  demand(recipe.gate_channels <= dim, "the model's gate_channels are over its dim");
  const repeats = repeat_first <= repeat_last && repeat_last < num_layers;
  demand(repeat_times === 0 || repeats, "the model repeats layers that it does not have");
  return { ...recipe, headWidth, hidden };
}

/** Return the layers in the order in which they are passed (exact.md, section 4). */
export function layerPasses({ num_layers, repeat_first, repeat_last, repeat_times }) {
  const passes = [];
  for (let layer = 0; layer < num_layers; layer++) {
    passes.push(layer);
    if (layer !== repeat_last) continue;
    for (let i = 0; i < repeat_times; i++) {
      for (let again = repeat_first; again <= repeat_last; again++) passes.push(again);
    }
  }
  return passes;
}

/** Return all tensors in their order: {name, part, kind, rows, columns}; the kind is that of a matrix's integers. */
export function listTensors(recipe, vocabulary) {
  const { dim, headWidth, num_heads, num_kv_heads, hidden, bigram_rows, bigram_dim } = recipe;
  const tensors = [];
  const matrix = (part, kind, name, rows, columns) => tensors.push({ name, part, kind, rows, columns });
  const vectors = (name, rows, columns) => tensors.push({ name, part: "small", rows, columns });
  vectors("skips", Math.floor(layerPasses(recipe).length / 2), dim);
  matrix("embedding", 6, "embed.tokens", vocabulary, dim);
  if (bigram_rows) {
    matrix("bigram", 7, "embed.bigram_table", bigram_rows, bigram_dim);
    matrix("bigram", 8, "embed.bigram_proj", dim, bigram_dim);
    vectors("embed.bigram_scale", 1, 1);
  }
  if (recipe.smear) vectors("embed.smear_gate", 1, dim);
  for (let layer = 0; layer < recipe.num_layers; layer++) {
    const block = `blocks.${layer}`;
    vectors(`${block}.attn_scale`, 1, dim);
    vectors(`${block}.mlp_scale`, 1, dim);
    vectors(`${block}.mix`, 2, dim);
    matrix("attention", 0, `${block}.attn.q`, dim, dim);
    matrix("attention", 1, `${block}.attn.k`, num_kv_heads * headWidth, dim);
    matrix("attention", 2, `${block}.attn.v`, num_kv_heads * headWidth, dim);
    matrix("attention", 3, `${block}.attn.o`, dim, dim);
    vectors(`${block}.attn.q_gain`, 1, num_heads);
    if (recipe.gate_channels) matrix("attention", 9, `${block}.attn.gate`, num_heads, recipe.gate_channels);
    matrix("mlp", 4, `${block}.mlp.up`, hidden, dim);
    matrix("mlp", 5, `${block}.mlp.down`, dim, hidden);
  }
  return tensors;
}
