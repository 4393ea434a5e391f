// The exact network (exact.md, sections 2 to 4): one token at a time of every lane.
import { Attention } from "./attention.mjs";
import { demand } from "./binary.mjs";
import { Stream, clamp, fixed, inverseRms, powerOfTwo, rint } from "./fixed_point.mjs";
import { makeSigmoid } from "./integer_math.mjs";
import { Linear, demandScale } from "./linear.mjs";
import { layerPasses } from "./recipe.mjs";

/** What a lane carries: its place in its document, its token before, its row x, x0, and what encoders returned. */
function newState(dim, hidden, encoders) {
  return {
    ...{ position: -1, before: -1, isFirst: true, inverseRms: 0, stream: new Stream(dim), y: new Float32Array(dim) },
    ...{ embedded: new Int32Array(dim), embeddedBefore: new Int32Array(dim), x0: new Float32Array(dim) },
    ...{ hidden: new Float32Array(hidden), encoders: Array.from({ length: encoders }, () => new Stream(dim)) },
  };
}

export class Network {
  constructor(arena, { recipe, tensors, tokenizer }, lanes) {
    const { dim, hidden, num_heads, softcap } = recipe;
    const layers = layerPasses(recipe);
    const encoders = Math.floor(layers.length / 2); // D of section 4
    const states = Array.from({ length: lanes }, () => newState(dim, hidden, encoders));
    Object.assign(this, { recipe, dim, encoders, states, tensors, bos: tokenizer.bos, linears: [] });
    this.attention = new Attention(arena, recipe, layers.length, lanes);
    this.makeLinear = (name, matrices, carried, exponents) => {
      this.linears.push(new Linear(arena, name, lanes, matrices, carried, exponents));
      return this.linears.at(-1);
    };
    this.row = new Float32Array(dim); this.gates = new Float32Array(num_heads); this.makeEmbedding();
    this.head = this.makeLinear("embed.tokens", [tensors.get("embed.tokens")], () => Math.fround(65536 / softcap));
    const made = Array.from({ length: recipe.num_layers }, (_, layer) => this.makeLayer(layer));
    const skips = tensors.get("skips");
    this.passes = layers.map((layer, i) => {
      const j = i - encoders;
      const skip = j >= 0 && j < encoders ? { from: encoders - 1 - j, row: skips.subarray(j * dim, (j + 1) * dim) } : null;
      return { ...made[layer], skip };
    });
  }

  /** Sections 2 and 3: the table of embeddings with 22 fraction bits, the bigrams and the smear's gates. */
  makeEmbedding() {
    const get = (name) => this.tensors.get(`embed.${name}`);
    const [tokens, table, projection] = ["tokens", "bigram_table", "bigram_proj"].map(get);
    const { columns, columnExponents } = tokens;
    this.table = Int32Array.from(tokens.codes, (code, i) => {
      const weight = Math.fround(code * tokens.rowScale(Math.floor(i / columns), columnExponents[i % columns]));
      demand(Math.abs(weight) <= 64, "the model's embeddings are beyond exact arithmetic");
      return rint(weight * 2 ** 22);
    });
    this.smear = get("smear_gate")?.map(makeSigmoid);
    if (!table) return;
    this.bigramTable = table;
    const scaleOf = (_, row) => demandScale(table.rowScale(row, 0), "embed.bigram_table");
    this.bigramScales = Float32Array.from({ length: table.rows }, scaleOf);
    const [scale] = get("bigram_scale");
    const exponents = projection.columnExponents.map((exponent, j) => exponent + table.columnExponents[j]);
    this.bigram = this.makeLinear("embed.bigram_proj", [projection], () => scale * 2 ** 22, exponents);
  }

  /** Section 4: a layer's matrices, and what their rows carry. */
  makeLayer(layer) {
    const { dim, recipe } = this;
    const get = (name) => this.tensors.get(`blocks.${layer}.${name}`);
    const depth = recipe.layer_scale ? Math.fround(1 / Math.sqrt(layer + 1)) : 1;
    const make = (carried, ...names) => this.makeLinear(`layer ${layer}'s ${names.join(", ")}`, names.map(get), carried);
    const isLast = (count) => layer >= recipe.num_layers - count;
    const [q, k, v] = ["attn.q", "attn.k", "attn.v"].map((name) => get(name).columnExponents.join());
    demand(q === k && k === v, `q, k and v of the model's layer ${layer} do not share their columns' scales`);
    return {
      qkv: make(() => depth, "attn.q", "attn.k", "attn.v"),
      gate: recipe.gate_channels ? make(() => depth * 2 ** 14, "attn.gate") : null,
      o: make((row) => get("attn_scale")[row] * 2 ** 16, "attn.o"),
      up: make(() => depth, "mlp.up"),
      down: make((row) => get("mlp_scale")[row] * 2 ** 16, "mlp.down"),
      factors: this.attention.scoreFactors(get("attn.q_gain")),
      mix: [get("mix").subarray(0, dim), get("mix").subarray(dim)],
      ...{ exclusive: isLast(recipe.exclusive_layers), parallel: isLast(recipe.parallel_layers) },
    };
  }

  /** Feed a token to each of the first lanes; then normalized(head, ...) predicts the next ones. */
  step(kernels, tokens, lanes) {
    const active = this.states.slice(0, lanes);
    active.forEach((state, lane) => this.begin(state, lane, tokens[lane]));
    this.bigram?.multiply(kernels, lanes);
    active.forEach((state, lane) => this.embed(state, lane, tokens[lane]));
    this.passes.forEach((pass, index) => this.runPass(kernels, pass, index, active));
    this.multiply(kernels, this.head, active);
  }

  /** Take up a token: its position (section 6), and the bigram's input (section 2). */
  begin(state, lane, token) {
    const { document_aware, bigram_rows } = this.recipe;
    if (document_aware && token === this.bos) Object.assign(state, { position: -1, before: -1 });
    const { before } = state;
    Object.assign(state, { position: state.position + 1, before: token, isFirst: before < 0 });
    if (!this.bigram) return;
    const hash = (Math.imul(36313, token) ^ Math.imul(27191, before)) >>> 0;
    const row = before < 0 || bigram_rows === 1 ? bigram_rows - 1 : hash % (bigram_rows - 1);
    const { codes, columns } = this.bigramTable;
    this.bigram.encode(lane, codes.subarray(row * columns, (row + 1) * columns));
    this.bigram.tokenScales[lane] *= this.bigramScales[row];
  }

  /** Sections 2 and 3: the normalized embedding with the bigram's product, smeared. */
  embed(state, lane, token) {
    const { dim, smear } = this;
    const { stream, stream: { x }, embeddedBefore: before, embedded } = state;
    x.set(this.table.subarray(token * dim, (token + 1) * dim)); stream.e = 0;
    if (this.bigram) this.addProduct(this.bigram, state, lane);
    stream.e = 0;
    const scale = Math.fround(inverseRms(x) * 65536);
    for (let i = 0; i < dim; i++) embedded[i] = x[i] = fixed(Math.fround(Math.fround(x[i]) * scale));
    const keeps = !smear || (state.isFirst && this.recipe.document_aware);
    for (let i = 0; !keeps && i < dim; i++) x[i] += fixed(Math.fround(Math.fround(before[i] - x[i]) * smear[i]));
    [state.embedded, state.embeddedBefore] = [before, embedded]; state.x0.set(x);
  }

  /** Multiply a matrix with the rows x of all lanes, and find their 1/rms. */
  multiply(kernels, linear, active) {
    active.forEach((state, lane) => {
      state.inverseRms = inverseRms(state.stream.x); linear.encode(lane, state.stream.x);
    });
    linear.multiply(kernels, active.length);
  }

  /** Write a product of normalized x: (acc · r) · (token_scale · 1/rms(x)). */
  normalized(linear, lane, out) {
    linear.product(lane, Math.fround(linear.tokenScales[lane] * this.states[lane].inverseRms), out);
  }

  addProduct(linear, state, lane) {
    linear.product(lane, linear.tokenScales[lane], this.row); state.stream.add(this.row);
  }

  /** Section 4: one pass through a layer, for all lanes. */
  runPass(kernels, pass, index, active) {
    const { attention, encoders, gates } = this;
    const { qkv, gate, o, up, down } = pass;
    for (const state of active) this.mixIn(pass, state);
    this.multiply(kernels, qkv, active);
    if (gate) this.multiply(kernels, gate, active);
    if (pass.parallel) this.multiply(kernels, up, active);
    active.forEach(({ position, y, inverseRms: norm }, lane) => {
      attention.attend(kernels, lane, index, qkv, Math.fround(qkv.tokenScales[lane] * norm), position, pass, y);
      if (gate) this.normalized(gate, lane, gates);
      if (gate) attention.gateHeads(gates, y);
      o.encode(lane, y);
    });
    o.multiply(kernels, active.length); active.forEach((state, lane) => this.addProduct(o, state, lane));
    if (!pass.parallel) this.multiply(kernels, up, active);
    active.forEach(({ hidden }, lane) => {
      this.normalized(up, lane, hidden); this.activate(hidden); down.encode(lane, hidden);
    });
    down.multiply(kernels, active.length);
    active.forEach((state, lane) => {
      this.addProduct(down, state, lane);
      if (index < encoders) state.encoders[index].copy(state.stream);
    });
  }

  /** Section 4: add an encoder's output, then mix with x0. */
  mixIn({ skip, mix: [first, second] }, { stream, x0, encoders }) {
    const { row } = this;
    const scaled = ({ x, e }, weights) => {
      const power = powerOfTwo(e);
      for (let i = 0; i < row.length; i++) row[i] = Math.fround(Math.fround(x[i]) * weights[i]) * power;
    };
    if (skip) scaled(encoders[skip.from], skip.row);
    if (skip) stream.add(row);
    scaled(stream, first); stream.x.fill(0); stream.e = 0; stream.add(row);
    for (let i = 0; i < row.length; i++) row[i] = x0[i] * second[i];
    stream.add(row);
  }

  /** Section 4: what goes into down's product, hidden · hidden of the activation. */
  activate(hidden) {
    const leak = this.recipe.activation === "leaky2" ? 0.5 : 0;
    for (let i = 0; i < hidden.length; i++) {
      const z = clamp(hidden[i], -(2 ** 50), 2 ** 50);
      hidden[i] = z > 0 ? z * z : z * leak * (z * leak);
    }
  }
}
