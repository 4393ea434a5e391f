// The exact network (exact.md, sections 2 to 4): one token at a time of every lane.
import { Attention } from "./attention.mjs";
import { demand } from "./binary.mjs";
import { Stream, clamp, fixed, inverseRms, powerOfTwo, rint } from "./fixed_point.mjs";
import { makeSigmoid } from "./integer_math.mjs";
import { Linear, demandScale } from "./linear.mjs";
import { layerPasses } from "./recipe.mjs";

/** What a lane carries: its place in its document, the token before (-1: none), and its rows. */
class LaneState {
  constructor(dim, hidden, encoders) {
    Object.assign(this, { position: -1, before: -1, isFirst: true });
    this.stream = new Stream(dim); // x
    this.encoders = Array.from({ length: encoders }, () => new Stream(dim)); // what passes returned
    this.embedded = new Int32Array(dim); // section 2's x, and that of the token before
    this.embeddedBefore = new Int32Array(dim);
    this.x0 = new Float32Array(dim);
    this.y = new Float32Array(dim); // of attention
    this.hidden = new Float32Array(hidden);
  }
}

export class Network {
  constructor(arena, { recipe, tensors, tokenizer }, lanes) {
    const { dim, hidden, num_heads, softcap } = recipe;
    const layers = layerPasses(recipe);
    const encoders = Math.floor(layers.length / 2); // D of section 4
    Object.assign(this, { arena, recipe, tensors, lanes, dim, bos: tokenizer.bos });
    this.states = Array.from({ length: lanes }, () => new LaneState(dim, hidden, encoders));
    this.attention = new Attention(arena, recipe, layers.length, lanes);
    this.row = new Float32Array(dim);
    this.gates = new Float32Array(num_heads);
    this.makeEmbedding();
    this.head = this.linear(["embed.tokens"], () => Math.fround(65536 / softcap));
    const made = Array.from({ length: recipe.num_layers }, (_, layer) => this.makeLayer(layer));
    this.passes = layers.map((layer, i) => {
      const j = i - encoders;
      const isDecoder = j >= 0 && j < encoders;
      const skip = isDecoder ? tensors.get("skips").subarray(j * dim, (j + 1) * dim) : null;
      return { ...made[layer], skip, from: encoders - 1 - j };
    });
  }

  /** Make the operand of named matrices. */
  linear(names, carried, exponents) {
    const matrices = names.map((name) => this.tensors.get(name));
    return new Linear(this.arena, names.join(", "), this.lanes, matrices, carried, exponents);
  }

  /** Sections 2 and 3: the embeddings with 22 fraction bits, bigrams, the smear's gates. */
  makeEmbedding() {
    const get = (name) => this.tensors.get(`embed.${name}`);
    const { codes, columns, columnExponents, rowScale } = get("tokens");
    this.table = Int32Array.from(codes, (code, i) => {
      const step = rowScale(Math.floor(i / columns), columnExponents[i % columns]);
      const weight = Math.fround(code * step);
      demand(Math.abs(weight) <= 64, "the model's embeddings are beyond exact arithmetic");
      return rint(weight * 2 ** 22);
    });
    this.smear = get("smear_gate")?.map(makeSigmoid);
    const table = get("bigram_table");
    if (!table) return;
    const scaleOf = (_, row) => demandScale(table.rowScale(row, 0), "embed.bigram_table");
    this.bigramScales = Float32Array.from({ length: table.rows }, scaleOf);
    this.bigramTable = table;
    const own = get("bigram_proj").columnExponents;
    const exponents = own.map((exponent, j) => exponent + table.columnExponents[j]);
    const carried = () => get("bigram_scale")[0] * 2 ** 22;
    this.bigram = this.linear(["embed.bigram_proj"], carried, exponents);
  }

  /** Section 4: a layer's matrices, and what their rows carry. */
  makeLayer(layer) {
    const { recipe, dim } = this;
    const get = (name) => this.tensors.get(`blocks.${layer}.${name}`);
    const make = (carried, ...names) =>
      this.linear(names.map((name) => `blocks.${layer}.${name}`), carried);
    const depth = recipe.layer_scale ? Math.fround(1 / Math.sqrt(layer + 1)) : 1;
    const isLast = (count) => layer >= recipe.num_layers - count;
    const exponents = ["q", "k", "v"].map((name) => get(`attn.${name}`).columnExponents.join());
    const sentence = `q, k and v of the model's layer ${layer} do not share their columns' scales`;
    demand(new Set(exponents).size === 1, sentence);
    return {
      qkv: make(() => depth, "attn.q", "attn.k", "attn.v"),
      gate: recipe.gate_channels ? make(() => depth * 2 ** 14, "attn.gate") : null,
      o: make((row) => get("attn_scale")[row] * 2 ** 16, "attn.o"),
      up: make(() => depth, "mlp.up"),
      down: make((row) => get("mlp_scale")[row] * 2 ** 16, "mlp.down"),
      factors: this.attention.scoreFactors(get("attn.q_gain")),
      mix: [get("mix").subarray(0, dim), get("mix").subarray(dim)],
      exclusive: isLast(recipe.exclusive_layers),
      parallel: isLast(recipe.parallel_layers),
    };
  }

  /** Feed a token to each of the first lanes; then head.normalized() predicts the next ones. */
  step(tokens, lanes) {
    const active = this.states.slice(0, lanes);
    active.forEach((state, lane) => this.begin(state, lane, tokens[lane]));
    this.bigram?.multiply(lanes);
    active.forEach((state, lane) => this.embed(state, lane, tokens[lane]));
    this.passes.forEach((pass, index) => this.runPass(pass, index, active));
    this.multiply(this.head, active);
  }

  /** Take up a token: its position (section 6), and the bigram's input (section 2). */
  begin(state, lane, token) {
    const { document_aware, bigram_rows: rows } = this.recipe;
    if (document_aware && token === this.bos) Object.assign(state, { position: -1, before: -1 });
    const { position, before } = state;
    Object.assign(state, { position: position + 1, before: token, isFirst: before < 0 });
    if (!this.bigram) return;
    const hash = (Math.imul(36313, token) ^ Math.imul(27191, before)) >>> 0;
    const row = before < 0 || rows === 1 ? rows - 1 : hash % (rows - 1);
    const { codes, columns } = this.bigramTable;
    this.bigram.encode(lane, codes.subarray(row * columns, (row + 1) * columns));
    this.bigram.tokenScales[lane] *= this.bigramScales[row];
  }

  /** Sections 2 and 3: the normalized embedding with the bigram's product, smeared. */
  embed(state, lane, token) {
    const { dim, smear } = this;
    const { stream, embeddedBefore: before, embedded } = state;
    const { x } = stream;
    stream.set({ x: this.table.subarray(token * dim, (token + 1) * dim), e: 0 });
    if (this.bigram) this.addProduct(this.bigram, state, lane);
    stream.e = 0;
    const scale = Math.fround(inverseRms(x) * 65536);
    for (let i = 0; i < dim; i++) x[i] = fixed(Math.fround(Math.fround(x[i]) * scale));
    embedded.set(x);
    const keeps = !smear || (state.isFirst && this.recipe.document_aware);
    for (let i = 0; !keeps && i < dim; i++) {
      x[i] += fixed(Math.fround(Math.fround(before[i] - x[i]) * smear[i]));
    }
    state.x0.set(x);
    [state.embedded, state.embeddedBefore] = [before, embedded];
  }

  /** Multiply a matrix with the rows x of all lanes. */
  multiply(linear, active) {
    active.forEach(({ stream }, lane) => linear.encodeRow(lane, stream.x));
    linear.multiply(active.length);
  }

  addProduct(linear, state, lane) {
    linear.product(lane, linear.tokenScales[lane], this.row);
    state.stream.add(this.row);
  }

  /** Section 4: one pass through a layer, for all lanes. */
  runPass(pass, index, active) {
    const { attention, gates } = this;
    const { qkv, gate, o, up, down } = pass;
    for (const state of active) this.mixIn(pass, state);
    this.multiply(qkv, active);
    if (gate) this.multiply(gate, active);
    if (pass.parallel) this.multiply(up, active);
    active.forEach(({ position, y }, lane) => {
      attention.attend(lane, index, position, pass, y);
      gate?.normalized(lane, gates);
      if (gate) attention.gateHeads(gates, y);
      o.encode(lane, y);
    });
    o.multiply(active.length);
    active.forEach((state, lane) => this.addProduct(o, state, lane));
    if (!pass.parallel) this.multiply(up, active);
    active.forEach(({ hidden }, lane) => {
      up.normalized(lane, hidden);
      this.activate(hidden);
      down.encode(lane, hidden);
    });
    down.multiply(active.length);
    active.forEach((state, lane) => {
      this.addProduct(down, state, lane);
      state.encoders[index]?.set(state.stream);
    });
  }

  /** Section 4: add an encoder's output, then mix with x0. */
  mixIn({ skip, from, mix: [first, second] }, { stream, x0, encoders }) {
    const { row } = this;
    const scaled = ({ x, e }, weights) => {
      const power = powerOfTwo(e);
      for (let i = 0; i < row.length; i++) {
        row[i] = Math.fround(Math.fround(x[i]) * weights[i]) * power;
      }
    };
    if (skip) scaled(encoders[from], skip);
    if (skip) stream.add(row);
    scaled(stream, first);
    stream.x.fill(0);
    stream.e = 0;
    stream.add(row);
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
