// A group of lanes of one chunk: it predicts all their next tokens, is told them, and goes on.
import { Distribution, sumMasses } from "./frequencies.mjs";
import { makeSoftcapTable } from "./integer_math.mjs";
import { Arena } from "./kernels.mjs";
import { DocumentMemory } from "./memory.mjs";
import { Network } from "./network.mjs";

const BLOCK_TOKENS = 8192;
const BLOCK_MS = 250;
const ALTERNATIVES = 5;

export class LaneGroup {
  /**
   * @param lanes [{first, count}]: where each lane's coded tokens stand in the chunk, the longest lane first
   * @param details whether to tell bits, alternatives and shares of every token
   */
  constructor(artifact, lanes, details) {
    const { recipe, tokenizer } = artifact;
    const { vocabulary, bos } = tokenizer;
    const arena = new Arena();
    const network = new Network(arena, artifact, lanes.length);
    const memory = recipe.ngram || recipe.neural_cache;
    this.memory = memory ? new DocumentMemory(arena, recipe, vocabulary, bos, network.head, lanes.length) : null;
    this.kernels = arena.allocate();
    network.fill();
    Object.assign(this, { network, lanes, vocabulary, bos });
    this.step = 0;
    this.active = lanes.length;
    this.fed = new Uint16Array(lanes.length).fill(bos);
    this.table = makeSoftcapTable(recipe.softcap);
    this.logits = new Int32Array(vocabulary);
    this.sums = new Float64Array(lanes.length * (vocabulary + 1));
    this.additions = memory ? new Float64Array(lanes.length * (vocabulary + 1)) : null;
    this.rests = new Float64Array(lanes.length);
    this.distribution = new Distribution(vocabulary);
    this.details = details ? new Details(vocabulary) : null;
  }

  /** Predict the next token of each lane that has one; null at the end. See Distribution for what it means. */
  predict() {
    const { network, lanes, sums, additions, rests, vocabulary, memory, kernels } = this;
    while (this.active && lanes[this.active - 1].count <= this.step) this.active--;
    if (this.active === 0) return null;
    network.step(kernels, this.fed, this.active);
    memory?.beginStep();
    for (let lane = 0; lane < this.active; lane++) {
      const at = lane * (vocabulary + 1);
      const scale = Math.fround(network.head.tokenScales[lane] * network.inverseRms[lane]);
      sumMasses(this.table, network.head, lane, scale, this.logits, sums, at);
      if (memory) rests[lane] = memory.predict(kernels, lane, additions, at);
    }
    return { lanes: this.active, sums, additions, rests };
  }

  /** Take the tokens of the lanes that were predicted. */
  accept(tokens) {
    const { memory, distribution, vocabulary } = this;
    for (let lane = 0; lane < this.active; lane++) {
      const token = tokens[lane];
      this.fed[lane] = token;
      if (memory || this.details) distribution.set(this.sums, this.additions, lane * (vocabulary + 1), this.rests[lane]);
      if (this.details) {
        const added = memory ? memory.additionsTo(lane, token) : [0, 0];
        this.details.add(this.lanes[lane].first + this.step, token, distribution, added);
      }
      if (memory) memory.learn(lane, token, distribution.network(token + 1) - distribution.network(token));
    }
    this.step++;
  }

  /** Return a block of details if it is full or old, or at the end; else null. */
  takeDetails(atEnd) {
    return this.details?.take(atEnd) ?? null;
  }
}

/** What is told of tokens: where they stand, what they cost, what else was likely and who predicted them. */
class Details {
  constructor(vocabulary) {
    this.vocabulary = vocabulary;
    this.clear();
  }

  clear() {
    this.began = performance.now();
    Object.assign(this, { start: [], token: [], bits: [], top: [], topBits: [], shares: [] });
  }

  add(start, token, distribution, [fromNgrams, fromCache]) {
    const bitsOf = (symbol) => 30 - Math.log2(distribution.cumulative(symbol + 1) - distribution.cumulative(symbol));
    const frequency = distribution.cumulative(token + 1) - distribution.cumulative(token);
    this.start.push(start);
    this.token.push(token);
    this.bits.push(bitsOf(token));
    for (const symbol of distribution.likeliest(ALTERNATIVES)) {
      this.top.push(symbol);
      this.topBits.push(bitsOf(symbol));
    }
    const ngrams = fromNgrams / frequency;
    const cache = fromCache / frequency;
    this.shares.push(1 - ngrams - cache, ngrams, cache);
  }

  take(atEnd) {
    const isDue = this.start.length >= BLOCK_TOKENS || performance.now() - this.began > BLOCK_MS;
    if (this.start.length === 0 || !(atEnd || isDue)) return null;
    const block = {
      start: Uint32Array.from(this.start),
      token: Uint16Array.from(this.token),
      bits: Float32Array.from(this.bits),
      top: Uint16Array.from(this.top),
      topBits: Float32Array.from(this.topBits),
      shares: Float32Array.from(this.shares),
    };
    this.clear();
    return block;
  }
}
