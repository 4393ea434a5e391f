// The exact network (exact.md, sections 2 to 4): one token at a time of every lane.
import { Attention } from "./attention.mjs";
import { demand } from "./binary.mjs";
import { Stream, clamp, fixed, inverseRms, powerOfTwo, rint } from "./fixed_point.mjs";
import { makeSigmoid } from "./integer_math.mjs";
import { Linear, demandScale } from "./linear.mjs";
import { layerPasses } from "./recipe.mjs";

/** What a lane carries: where it is in its document, its token before, its row x, x0, and what encoders returned. */
class LaneState {
  constructor(dim, hidden, encoders) {
    Object.assign(this, { position: -1, before: -1, seen: 0, inverseRms: 0, stream: new Stream(dim) });
    this.embedded = new Int32Array(dim);
    this.embeddedBefore = new Int32Array(dim);
    this.x0 = new Float32Array(dim); // integers, as float32
    this.y = new Float32Array(dim);
    this.hidden = new Float32Array(hidden);
    this.encoders = Array.from({ length: encoders }, () => new Stream(dim));
  }
}

export class Network {
  constructor(arena, { recipe, tensors, tokenizer }, lanes) {
    const { dim } = recipe;
    const layers = layerPasses(recipe);
    const encoders = Math.floor(layers.length / 2); // D of section 4
    Object.assign(this, { recipe, dim, encoders, bos: tokenizer.bos, linears: [] });
    this.linear = (name, matrices, carried, exponents) => {
      this.linears.push(new Linear(arena, name, lanes, matrices, carried, exponents));
      return this.linears.at(-1);
    };
    this.attention = new Attention(arena, recipe, layers.length, lanes);
    this.states = Array.from({ length: lanes }, () => new LaneState(dim, recipe.hidden, encoders));
    this.row = new Float32Array(dim);
    this.gates = new Float32Array(recipe.num_heads);
    this.makeEmbedding(tensors);
    const headFactor = Math.fround(65536 / recipe.softcap);
    this.head = this.linear("embed.tokens", [tensors.get("embed.tokens")], () => headFactor);
    const made = Array.from({ length: recipe.num_layers }, (_, layer) => this.makeLayer(tensors, layer));
    const skips = tensors.get("skips");
    this.passes = layers.map((layer, i) => {
      const j = i - encoders;
      return { ...made[layer], skip: j >= 0 && j < encoders ? { from: encoders - 1 - j, row: skips.subarray(j * dim, (j + 1) * dim) } : null };
    });
  }

  /** Sections 2 and 3: the table of embeddings with 22 fraction bits, the bigrams and the smear's gates. */
  makeEmbedding(tensors) {
    const { codes, columns, columnExponents, rowScale } = tensors.get("embed.tokens");
    this.table = Int32Array.from(codes, (code, i) => {
      const weight = Math.fround(code * rowScale(Math.floor(i / columns), columnExponents[i % columns]));
      demand(Math.abs(weight) <= 64, "the model's embeddings are beyond exact arithmetic");
      return rint(weight * 2 ** 22);
    });
    this.smear = tensors.get("embed.smear_gate")?.map(makeSigmoid);
    this.bigramTable = tensors.get("embed.bigram_table");
    if (!this.bigramTable) return;
    const { rows, rowScale: tableScale, columnExponents: tableExponents } = this.bigramTable;
    this.bigramScales = Float32Array.from({ length: rows }, (_, row) => demandScale(tableScale(row, 0), "embed.bigram_table"));
    const projection = tensors.get("embed.bigram_proj");
    const factor = Math.fround(tensors.get("embed.bigram_scale")[0] * 2 ** 22);
    const exponents = projection.columnExponents.map((exponent, j) => exponent + tableExponents[j]);
    this.bigram = this.linear("embed.bigram_proj", [projection], () => factor, exponents);
  }

  /** Section 4: a layer's matrices, and what their rows carry. */
  makeLayer(tensors, layer) {
    const { dim, recipe } = this;
    const get = (name) => tensors.get(`blocks.${layer}.${name}`);
    const depth = recipe.layer_scale ? Math.fround(1 / Math.sqrt(layer + 1)) : 1;
    const make = (names, carried) => this.linear(`layer ${layer}'s ${names.join(", ")}`, names.map(get), carried);
    const exponents = ["attn.q", "attn.k", "attn.v"].map((name) => get(name).columnExponents.join());
    demand(exponents.every((list) => list === exponents[0]), `the model's q, k and v of layer ${layer} do not share their columns' scales`);
    return {
      qkv: make(["attn.q", "attn.k", "attn.v"], () => depth),
      gate: recipe.gate_channels ? make(["attn.gate"], () => depth * 2 ** 14) : null,
      o: make(["attn.o"], (row) => get("attn_scale")[row] * 2 ** 16),
      up: make(["mlp.up"], () => depth),
      down: make(["mlp.down"], (row) => get("mlp_scale")[row] * 2 ** 16),
      factors: this.attention.scoreFactors(get("attn.q_gain")),
      mix: [get("mix").subarray(0, dim), get("mix").subarray(dim)],
      exclusive: layer >= recipe.num_layers - recipe.exclusive_layers,
      parallel: layer >= recipe.num_layers - recipe.parallel_layers,
    };
  }

  /** Feed a token to each of the first lanes; then `head` and the states' inverseRms predict the next ones. */
  step(kernels, tokens, lanes) {
    const active = this.states.slice(0, lanes);
    active.forEach((state, lane) => this.begin(state, lane, tokens[lane]));
    this.bigram?.multiply(kernels, lanes);
    active.forEach((state, lane) => this.embed(state, lane, tokens[lane]));
    this.passes.forEach((pass, index) => this.runPass(kernels, pass, index, active));
    this.multiply(kernels, this.head, active);
  }

  /** Take up a token: its position, how many keys it sees (section 6), and the bigram's input (section 2). */
  begin(state, lane, token) {
    const { document_aware, window, bigram_rows } = this.recipe;
    if (document_aware && token === this.bos) Object.assign(state, { position: -1, before: -1 });
    const { before } = state;
    state.position += 1;
    state.seen = Math.min(state.position + 1, window);
    state.before = token;
    state.first = before < 0;
    if (!this.bigram) return;
    const hash = (Math.imul(36313, token) ^ Math.imul(27191, before)) >>> 0;
    const row = before < 0 || bigram_rows === 1 ? bigram_rows - 1 : hash % (bigram_rows - 1);
    const { codes, columns } = this.bigramTable;
    this.bigram.encode(lane, codes.subarray(row * columns, (row + 1) * columns));
    this.bigram.tokenScales[lane] *= this.bigramScales[row];
  }

  /** Sections 2 and 3: the normalized embedding with the bigram's product, smeared. */
  embed(state, lane, token) {
    const { dim, smear, row } = this;
    const { stream, embeddedBefore: before, embedded, x0 } = state;
    const { x } = stream;
    stream.e = 0;
    x.set(this.table.subarray(token * dim, (token + 1) * dim));
    if (this.bigram) this.addProduct(this.bigram, state, lane);
    const scale = Math.fround(inverseRms(x) * 65536);
    for (let i = 0; i < dim; i++) embedded[i] = x[i] = fixed(Math.fround(Math.fround(x[i]) * scale));
    const keeps = !smear || (state.first && this.recipe.document_aware);
    for (let i = 0; !keeps && i < dim; i++) x[i] += fixed(Math.fround(Math.fround(before[i] - x[i]) * smear[i]));
    [state.embedded, state.embeddedBefore] = [before, embedded];
    x0.set(x);
    stream.e = 0;
  }

  /** Multiply a matrix with the rows x of all lanes, and find their 1/rms. */
  multiply(kernels, linear, active) {
    active.forEach((state, lane) => {
      state.inverseRms = inverseRms(state.stream.x);
      linear.encode(lane, state.stream.x);
    });
    linear.multiply(kernels, active.length);
  }

  /** Write a product of normalized x: (acc · r) · (token_scale · 1/rms(x)). */
  normalized(linear, state, lane, out) {
    linear.product(lane, Math.fround(linear.tokenScales[lane] * state.inverseRms), out);
  }

  addProduct(linear, state, lane) {
    linear.product(lane, linear.tokenScales[lane], this.row);
    state.stream.add(this.row);
  }

  /** Section 4: one pass through a layer, for all lanes. */
  runPass(kernels, pass, index, active) {
    const { attention, encoders, gates } = this;
    const { qkv, gate, o, up, down } = pass;
    for (const state of active) this.mixIn(pass, state);
    this.multiply(kernels, qkv, active);
    if (gate) this.multiply(kernels, gate, active);
    if (pass.parallel) this.multiply(kernels, up, active);
    active.forEach((state, lane) => {
      const { position, seen, y } = state;
      const scale = Math.fround(qkv.tokenScales[lane] * state.inverseRms);
      attention.attend(kernels, lane, index, qkv, scale, position, seen, pass, y);
      if (gate) this.normalized(gate, state, lane, gates);
      if (gate) attention.gateHeads(gates, y);
      o.encode(lane, y);
    });
    o.multiply(kernels, active.length);
    active.forEach((state, lane) => this.addProduct(o, state, lane));
    if (!pass.parallel) this.multiply(kernels, up, active);
    active.forEach((state, lane) => {
      this.normalized(up, state, lane, state.hidden);
      this.activate(state.hidden);
      down.encode(lane, state.hidden);
    });
    down.multiply(kernels, active.length);
    active.forEach((state, lane) => {
      this.addProduct(down, state, lane);
      if (index < encoders) state.encoders[index].copy(state.stream);
    });
  }

  /** Section 4: add an encoder's output, then mix with x0. */
  mixIn({ skip, mix }, { stream, x0, encoders }) {
    const { row, dim } = this;
    const { x } = stream;
    if (skip) {
      const { x: output, e } = encoders[skip.from];
      const power = powerOfTwo(e);
      for (let i = 0; i < dim; i++) row[i] = Math.fround(Math.fround(output[i]) * skip.row[i]) * power;
      stream.add(row);
    }
    const [first, second] = mix;
    const power = powerOfTwo(stream.e);
    for (let i = 0; i < dim; i++) row[i] = Math.fround(Math.fround(x[i]) * first[i]) * power;
    x.fill(0);
    stream.e = 0;
    stream.add(row);
    for (let i = 0; i < dim; i++) row[i] = x0[i] * second[i];
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
