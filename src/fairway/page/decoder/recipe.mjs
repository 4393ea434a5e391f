// The recipe in an artifact (formats.md, "recipe"): the shape of the network, and its list of tensors.
import { demand } from "./binary.mjs";

// Of each key: its default where it may be absent (null: it must be there), the least and the greatest value.
const RECIPE_INTEGERS = {
  dim: [null, 1, 8192],
  num_layers: [null, 1, 256],
  num_heads: [null, 1, 256],
  num_kv_heads: [null, 1, 256],
  window: [null, 1, 32768],
  bigram_rows: [null, 0, 2 ** 20],
  bigram_dim: [null, 1, 8192],
  rotary_dims: [0, 0, 256],
  exclusive_layers: [0, 0, 256],
  gate_channels: [0, 0, 8192],
  parallel_layers: [0, 0, 256],
  repeat_first: [0, 0, 255],
  repeat_last: [0, 0, 255],
  repeat_times: [0, 0, 16],
  ngram: [0, 0, 4],
  neural_cache: [0, 0, 4096],
};
const RECIPE_NUMBERS = { mlp_mult: [null, 0, 64], rope_base: [null, 1, 1e9], softcap: [null, 0.01, 1e4] };
const RECIPE_SWITCHES = { document_aware: null, smear: null, layer_scale: false };
const ACTIVATIONS = ["relu2", "leaky2"];

/** Parse and check the recipe; returns all its fields, and those that follow from them. */
export function readRecipe(bytes) {
  demand(bytes.length <= 4096, "the recipe in the model is over 4,096 bytes");
  let given;
  try {
    given = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    given = null;
  }
  demand(given !== null && typeof given === "object" && !Array.isArray(given), "the recipe in the model is no JSON object");
  const recipe = { activation: "relu2" };
  for (const [key, [fallback]] of Object.entries({ ...RECIPE_INTEGERS, ...RECIPE_NUMBERS })) recipe[key] = fallback;
  Object.assign(recipe, RECIPE_SWITCHES);
  for (const [key, value] of Object.entries(given)) {
    demand(Object.hasOwn(recipe, key), `the recipe in the model has the unknown key ${JSON.stringify(key)}`);
    recipe[key] = value;
  }
  for (const [key, [, least, most]] of Object.entries({ ...RECIPE_INTEGERS, ...RECIPE_NUMBERS })) {
    const right = typeof recipe[key] === "number" && recipe[key] >= least && recipe[key] <= most;
    const whole = Object.hasOwn(RECIPE_NUMBERS, key) || Number.isInteger(recipe[key]);
    demand(right && whole, `in the recipe of the model, ${key} is not from ${least} to ${most}`);
  }
  for (const key of Object.keys(RECIPE_SWITCHES)) {
    demand(typeof recipe[key] === "boolean", `in the recipe of the model, ${key} is neither true nor false`);
  }
  demand(ACTIVATIONS.includes(recipe.activation), "the recipe in the model names an unknown activation");
  demand(recipe.dim % recipe.num_heads === 0, "in the recipe of the model, num_heads does not divide dim");
  demand(recipe.num_heads % recipe.num_kv_heads === 0, "in the recipe of the model, num_kv_heads does not divide num_heads");
  recipe.headWidth = recipe.dim / recipe.num_heads;
  recipe.hidden = Math.floor(recipe.mlp_mult * recipe.dim);
  demand(recipe.headWidth <= 256 && recipe.headWidth % 2 === 0, "the heads of the model are odd or wider than 256");
  demand(recipe.gate_channels <= recipe.dim, "in the recipe of the model, gate_channels is over dim");
  demand(recipe.rotary_dims <= recipe.headWidth && recipe.rotary_dims % 2 === 0, "in the recipe of the model, rotary_dims is wrong");
  const { repeat_first, repeat_last, num_layers } = recipe;
  demand(repeat_last < num_layers && repeat_first <= repeat_last, "the recipe of the model repeats layers that it does not have");
  return recipe;
}

/** Return the layers in the order in which they are passed; repeated ones occur again (exact.md, section 4). */
export function layerPasses(recipe) {
  const passes = [];
  for (let layer = 0; layer < recipe.num_layers; layer++) {
    passes.push(layer);
    if (layer !== recipe.repeat_last) continue;
    for (let i = 0; i < recipe.repeat_times; i++) {
      for (let again = recipe.repeat_first; again <= recipe.repeat_last; again++) passes.push(again);
    }
  }
  return passes;
}

/** Return the list of tensors: {name, part, kind (of a matrix; 14 for vectors), rows, columns} in the file's order. */
export function listTensors(recipe, vocabulary) {
  const { dim, headWidth, num_heads, num_kv_heads, hidden } = recipe;
  const tensors = [];
  const matrix = (part, kind, name, rows, columns) => tensors.push({ name, part, kind, rows, columns });
  const vector = (name, rows, columns) => matrix("small", 14, name, rows, columns);
  const decoders = Math.floor(layerPasses(recipe).length / 2);
  vector("skips", decoders, dim);
  matrix("embedding", 6, "tokens", vocabulary, dim);
  if (recipe.bigram_rows) {
    matrix("bigram", 7, "bigram_table", recipe.bigram_rows, recipe.bigram_dim);
    matrix("bigram", 8, "bigram_proj", dim, recipe.bigram_dim);
    vector("bigram_scale", 1, 1);
  }
  if (recipe.smear) vector("smear_gate", 1, dim);
  for (let layer = 0; layer < recipe.num_layers; layer++) {
    vector(`${layer}.attn_scale`, 1, dim);
    vector(`${layer}.mlp_scale`, 1, dim);
    vector(`${layer}.mix`, 2, dim);
    matrix("attention", 0, `${layer}.q`, dim, dim);
    matrix("attention", 1, `${layer}.k`, num_kv_heads * headWidth, dim);
    matrix("attention", 2, `${layer}.v`, num_kv_heads * headWidth, dim);
    matrix("attention", 3, `${layer}.o`, dim, dim);
    vector(`${layer}.q_gain`, 1, num_heads);
    if (recipe.gate_channels) matrix("attention", 9, `${layer}.gate`, num_heads, recipe.gate_channels);
    matrix("mlp", 4, `${layer}.up`, hidden, dim);
    matrix("mlp", 5, `${layer}.down`, dim, hidden);
  }
  return tensors;
}
