// The exact network (exact.md, sections 2 to 6): one token at a time of every lane.
import { demand } from "./binary.mjs";
import { addToStream, fixed, inverseRootMeanSquare, rint } from "./fixed_point.mjs";
import { makeSigmoid } from "./integer_math.mjs";
import { Attention } from "./attention.mjs";
import { Linear, demandScale } from "./linear.mjs";
import { layerPasses } from "./recipe.mjs";

export class Network {
  constructor(arena, artifact, lanes) {
    const { recipe, tensors, tokenizer } = artifact;
    const { dim } = recipe;
    Object.assign(this, { recipe, dim, bos: tokenizer.bos });
    const passes = layerPasses(recipe);
    this.attention = new Attention(arena, recipe, passes.length, lanes);
    this.makeEmbedding(arena, artifact, lanes);
    const layers = [];
    for (let layer = 0; layer < recipe.num_layers; layer++) layers.push(this.makeLayer(arena, artifact, layer, lanes));
    // the first half of the passes encodes; those after it take the encoders' outputs, the last one first
    const skips = tensors.get("skips");
    const decoders = Math.floor(passes.length / 2);
    this.passes = passes.map((layer, pass) => {
      const row = pass - decoders;
      const skip = row >= 0 && row < decoders ? { source: decoders - 1 - row, weights: skips.subarray(row * dim, (row + 1) * dim) } : null;
      return { ...layers[layer], skip };
    });
    const tokens = tensors.get("embed.tokens");
    const headFactor = Math.fround(65536 / recipe.softcap);
    this.head = new Linear(arena, "tokens", [tokens], lanes, () => headFactor);
    this.linears = [this.head, ...layers.flatMap(({ linears }) => linears)];
    if (this.bigram) this.linears.push(this.bigram);

    // The lanes' states: positions in their documents, tokens before, streams with their exponents.
    this.positions = new Int32Array(lanes);
    this.seen = new Int32Array(lanes);
    this.before = new Int32Array(lanes).fill(-1);
    this.embedded = new Int32Array(lanes * dim);
    this.embeddedBefore = new Int32Array(lanes * dim);
    this.x = new Int32Array(lanes * dim);
    this.x0 = new Int32Array(lanes * dim);
    this.exponents = new Int32Array(lanes);
    this.inverseRms = new Float32Array(lanes);
    this.row = new Float32Array(dim);
    this.y = new Float32Array(lanes * dim);
    this.hidden = new Float32Array(recipe.hidden);
    this.outputs = Array.from({ length: decoders }, () => ({
      x: new Int32Array(lanes * dim),
      exponents: new Int32Array(lanes),
    }));
  }

  /** Section 2: the table of embeddings with 22 fraction bits, the bigrams and SmearGate's gates. */
  makeEmbedding(arena, artifact, lanes) {
    const { recipe, tensors } = artifact;
    const { codes, columns, columnExponents, rowScale } = tensors.get("embed.tokens");
    this.table = Int32Array.from(codes, (code, i) => {
      const weight = Math.fround(code * rowScale(Math.floor(i / columns), columnExponents[i % columns]));
      demand(Math.abs(weight) <= 64, "the model's embeddings are beyond exact arithmetic");
      return rint(weight * 2 ** 22);
    });
    this.bigram = null;
    if (recipe.bigram_rows) {
      const table = tensors.get("embed.bigram_table");
      const projection = tensors.get("embed.bigram_proj");
      const factor = Math.fround(tensors.get("embed.bigram_scale")[0] * 2 ** 22);
      const columns = projection.columnExponents.map((exponent, j) => exponent + table.columnExponents[j]);
      for (let row = 0; row < table.rows; row++) demandScale(table.rowScale(row, 0), "embed.bigram_table");
      this.bigramTable = table;
      this.bigram = new Linear(arena, "bigram_proj", [projection], lanes, () => factor, columns);
    }
    this.smear = recipe.smear ? tensors.get("embed.smear_gate").map((gamma) => makeSigmoid(gamma) * 2 ** -24) : null;
  }

  /** Section 4: a layer's matrices and vectors. */
  makeLayer(arena, artifact, layer, lanes) {
    const { recipe, tensors } = artifact;
    const { dim } = recipe;
    const get = (name) => tensors.get(`blocks.${layer}.${name}`);
    const depth = recipe.layer_scale ? Math.fround(1 / Math.sqrt(layer + 1)) : 1;
    const attentionScale = get("attn_scale").map((scale) => scale * 65536);
    const mlpScale = get("mlp_scale").map((scale) => scale * 65536);
    const make = (name, matrices, rowFactor) => new Linear(arena, `blocks.${layer}.${name}`, matrices, lanes, rowFactor);
    const fromEnd = recipe.num_layers - layer;
    const qkv = [get("attn.q"), get("attn.k"), get("attn.v")];
    const shared = qkv.every(({ columnExponents }) => columnExponents.every((e, i) => e === qkv[0].columnExponents[i]));
    demand(shared, `the model's q, k and v of layer ${layer} have different scales of columns`);
    const parts = {
      qkv: make("attn.q, k, v", qkv, () => depth),
      o: make("attn.o", [get("attn.o")], (row) => attentionScale[row]),
      up: make("mlp.up", [get("mlp.up")], () => depth),
      down: make("mlp.down", [get("mlp.down")], (row) => mlpScale[row]),
      gate: recipe.gate_channels ? make("attn.gate", [get("attn.gate")], () => Math.fround(depth * 2 ** 14)) : null,
    };
    return {
      ...parts,
      linears: Object.values(parts).filter((linear) => linear),
      factors: this.attention.scoreFactors(get("attn.q_gain")),
      mix: [get("mix").subarray(0, dim), get("mix").subarray(dim)],
      exclusive: fromEnd <= recipe.exclusive_layers,
      parallel: fromEnd <= recipe.parallel_layers,
    };
  }

  /** Put the operands in their places, when the arena is allocated. */
  fill() {
    for (const linear of this.linears) linear.fill();
  }

  /** Feed a token to each of the first `lanes` lanes; then head.sums, head.tokenScales and inverseRms predict. */
  step(kernels, tokens, lanes) {
    for (let lane = 0; lane < lanes; lane++) this.startToken(lane, tokens[lane]);
    if (this.bigram) this.bigram.multiply(kernels, lanes);
    for (let lane = 0; lane < lanes; lane++) this.embed(lane, tokens[lane]);
    this.passes.forEach((pass, index) => this.runPass(kernels, pass, index, lanes));
    for (let lane = 0; lane < lanes; lane++) {
      this.head.encode(lane, this.x, lane * this.dim);
      this.inverseRms[lane] = inverseRootMeanSquare(this.x, lane * this.dim, (lane + 1) * this.dim);
      this.before[lane] = tokens[lane];
    }
    this.head.multiply(kernels, lanes);
  }

  /** Take up a token: its position, how many keys it sees (section 6), and the bigram's input. */
  startToken(lane, token) {
    if (this.before[lane] < 0 || (this.recipe.document_aware && token === this.bos)) {
      this.positions[lane] = 0;
      this.before[lane] = -1;
    } else this.positions[lane]++;
    this.seen[lane] = Math.min(this.positions[lane] + 1, this.recipe.window);
    if (!this.bigram) return;
    const rows = this.recipe.bigram_rows;
    const before = this.before[lane];
    const hash = (Math.imul(36313, token) ^ Math.imul(27191, before)) >>> 0;
    const row = rows === 1 || before < 0 ? rows - 1 : hash % (rows - 1);
    const { codes, columns, rowScale } = this.bigramTable;
    this.bigram.encode(lane, codes, row * columns);
    this.bigram.tokenScales[lane] = Math.fround(this.bigram.tokenScales[lane] * rowScale(row, 0));
  }

  /** Sections 2 and 3: x = x0 = the normalized embedding with the bigram's product, smeared. */
  embed(lane, token) {
    const { dim, x, x0, table, row, embedded, embeddedBefore, smear } = this;
    const at = lane * dim;
    for (let i = 0; i < dim; i++) x[at + i] = table[token * dim + i];
    if (this.bigram) {
      this.productRow(this.bigram, lane, this.bigram.tokenScales[lane]);
      addToStream(x, at, 0, row);
    }
    const scale = Math.fround(inverseRootMeanSquare(x, at, at + dim) * 65536);
    for (let i = at; i < at + dim; i++) {
      embedded[i] = fixed(Math.fround(Math.fround(x[i]) * scale));
      x[i] = embedded[i];
    }
    if (smear && (this.before[lane] >= 0 || !this.recipe.document_aware)) {
      for (let i = 0; i < dim; i++) {
        const difference = Math.fround(embeddedBefore[at + i] - embedded[at + i]);
        x[at + i] += fixed(Math.fround(smear[i] * difference));
      }
    }
    for (let i = at; i < at + dim; i++) {
      embeddedBefore[i] = embedded[i];
      x0[i] = x[i];
    }
    this.exponents[lane] = 0;
  }

  /** 1.4: write a lane's product, with this scale of its token, to `row`. */
  productRow(linear, lane, scale) {
    const { row } = this;
    const { sums, rowScales } = linear;
    const at = lane * linear.capacity;
    for (let i = 0; i < row.length; i++) row[i] = Math.fround(Math.fround(sums[at + i]) * rowScales[i]) * scale;
  }

  /** Section 4: one layer, for all lanes. */
  runPass(kernels, pass, index, lanes) {
    const { dim, x, exponents, y, row, inverseRms } = this;
    const { qkv, o, up, down, gate } = pass;
    for (let lane = 0; lane < lanes; lane++) {
      this.mixIn(pass, lane);
      const at = lane * dim;
      inverseRms[lane] = inverseRootMeanSquare(x, at, at + dim);
      qkv.encode(lane, x, at);
      if (gate) gate.encode(lane, x, at);
      if (pass.parallel) up.encode(lane, x, at);
    }
    qkv.multiply(kernels, lanes);
    if (gate) gate.multiply(kernels, lanes);
    for (let lane = 0; lane < lanes; lane++) {
      const scale = Math.fround(qkv.tokenScales[lane] * inverseRms[lane]);
      const { positions, seen } = this;
      const { attention } = this;
      attention.attend(kernels, lane, index, qkv, scale, positions[lane], seen[lane], pass.factors, pass.exclusive);
      if (gate) attention.gateHeads(lane, gate, Math.fround(gate.tokenScales[lane] * inverseRms[lane]));
      o.encode(lane, attention.y, 0);
    }
    o.multiply(kernels, lanes);
    for (let lane = 0; lane < lanes; lane++) {
      const at = lane * dim;
      this.productRow(o, lane, o.tokenScales[lane]);
      exponents[lane] = addToStream(x, at, exponents[lane], row);
      if (pass.parallel) continue;
      inverseRms[lane] = inverseRootMeanSquare(x, at, at + dim);
      up.encode(lane, x, at);
    }
    up.multiply(kernels, lanes);
    for (let lane = 0; lane < lanes; lane++) this.activate(up, down, lane);
    down.multiply(kernels, lanes);
    for (let lane = 0; lane < lanes; lane++) {
      this.productRow(down, lane, down.tokenScales[lane]);
      exponents[lane] = addToStream(x, lane * dim, exponents[lane], row);
    }
    if (index < this.outputs.length) {
      this.outputs[index].x.set(x.subarray(0, lanes * dim));
      this.outputs[index].exponents.set(exponents.subarray(0, lanes));
    }
  }

  /** Section 4: add the encoder's output, then mix with x0. */
  mixIn({ skip, mix }, lane) {
    const { dim, x, x0, row, exponents } = this;
    const at = lane * dim;
    if (skip) {
      const output = this.outputs[skip.source];
      const scale = 2 ** output.exponents[lane];
      for (let i = 0; i < dim; i++) row[i] = Math.fround(skip.weights[i] * Math.fround(output.x[at + i])) * scale;
      exponents[lane] = addToStream(x, at, exponents[lane], row);
    }
    const scale = 2 ** exponents[lane];
    for (let i = 0; i < dim; i++) row[i] = Math.fround(mix[0][i] * Math.fround(x[at + i])) * scale;
    x.fill(0, at, at + dim);
    const exponent = addToStream(x, at, 0, row);
    for (let i = 0; i < dim; i++) row[i] = mix[1][i] * Math.fround(x0[at + i]);
    exponents[lane] = addToStream(x, at, exponent, row);
  }

  /** Section 4: h = relu or leaky relu of up's product; h · h is down's input. */
  activate(up, down, lane) {
    const { hidden, inverseRms } = this;
    const scale = Math.fround(up.tokenScales[lane] * inverseRms[lane]);
    const leak = this.recipe.activation === "leaky2" ? 0.5 : 0;
    const at = lane * up.capacity;
    for (let i = 0; i < hidden.length; i++) {
      const z = Math.fround(Math.fround(Math.fround(up.sums[at + i]) * up.rowScales[i]) * scale);
      const limited = Math.min(Math.max(z, -(2 ** 50)), 2 ** 50);
      const h = Math.max(limited, limited * leak);
      hidden[i] = h * h;
    }
    down.encode(lane, hidden, 0);
  }
}
