// A group of lanes of one chunk: it predicts all their next tokens, is told them, and goes on.
import { Distribution, sumMasses } from "./frequencies.mjs";
import { makeSoftcapTable } from "./integer_math.mjs";
import { Arena } from "./kernels.mjs";
import { LaneMemory, SharedMemory } from "./memory.mjs";
import { Network } from "./network.mjs";

const BLOCK_TOKENS = 8192;
const BLOCK_MS = 250;
const ALTERNATIVES = 5;
const DETAILS = { start: Uint32Array, token: Uint16Array, bits: Float32Array, top: Uint16Array, topBits: Float32Array, shares: Float32Array };

export class LaneGroup {
  /**
   * @param lanes [{first, count}]: where each lane's coded tokens stand in the chunk, the longest lane first
   * @param details whether to tell bits, alternatives and shares of every token
   */
  constructor(artifact, lanes, details) {
    const { recipe, tokenizer: { vocabulary, bos } } = artifact;
    const arena = new Arena();
    const network = new Network(arena, artifact, lanes.length);
    const remembers = recipe.ngram > 0 || recipe.neural_cache > 0;
    const shared = remembers && new SharedMemory(arena, recipe, vocabulary, bos, network.head);
    this.memories = lanes.map(() => remembers && new LaneMemory(arena, shared));
    this.kernels = arena.allocate();
    for (const linear of network.linears) linear.fill();
    Object.assign(this, { network, lanes, vocabulary, details, remembers, step: 0, active: lanes.length });
    this.fed = new Uint16Array(lanes.length).fill(bos);
    this.table = makeSoftcapTable(recipe.softcap);
    this.products = new Float32Array(vocabulary);
    const make = () => Array.from(lanes, () => new Float64Array(vocabulary + 1));
    [this.sums, this.additions] = [make(), remembers ? make() : []];
    this.clearDetails();
  }

  /** Predict the next token of each lane that has one: arrays of what Distribution takes; null at the end. */
  predict() {
    const { network, lanes, sums, additions, kernels, memories } = this;
    while (this.active && lanes[this.active - 1].count <= this.step) this.active--;
    if (this.active === 0) return null;
    network.step(kernels, this.fed, this.active);
    for (let lane = 0; lane < this.active; lane++) {
      network.normalized(network.head, network.states[lane], lane, this.products);
      sumMasses(this.table, this.products, sums[lane]);
      if (memories[lane]) memories[lane].predict(kernels, lane, additions[lane]);
    }
    const rests = memories.slice(0, this.active).map(({ rest }) => rest);
    return { sums: sums.slice(0, this.active), additions: additions.slice(0, this.active), rests };
  }

  /** Take the tokens of the lanes that were predicted. */
  accept(tokens) {
    for (let lane = 0; lane < this.active; lane++) {
      const token = (this.fed[lane] = tokens[lane]);
      const memory = this.memories[lane];
      if (!memory && !this.details) continue;
      const distribution = new Distribution(this.sums[lane], this.additions[lane], memory.rest);
      const support = memory ? memory.supportOf(token) : { fromNgrams: 0, fromCache: 0 };
      if (this.details) this.addDetails(this.lanes[lane].first + this.step, token, distribution, support);
      if (memory) memory.learn(token, distribution.network(token + 1) - distribution.network(token), support.right);
    }
    this.step++;
  }

  clearDetails() {
    this.block = Object.fromEntries(Object.keys(DETAILS).map((name) => [name, []]));
    this.blockBegan = performance.now();
  }

  /** Tell where a token stands, what it costs, what else was likely and who predicted it. */
  addDetails(start, token, distribution, { fromNgrams, fromCache }) {
    const { block } = this;
    const bitsOf = (symbol) => 30 - Math.log2(distribution.frequency(symbol));
    const top = distribution.likeliest(ALTERNATIVES);
    const [ngrams, cache] = [fromNgrams / distribution.frequency(token), fromCache / distribution.frequency(token)];
    block.start.push(start);
    block.token.push(token);
    block.bits.push(bitsOf(token));
    block.top.push(...top);
    block.topBits.push(...top.map(bitsOf));
    block.shares.push(1 - ngrams - cache, ngrams, cache);
  }

  /** Return the details since the last block if they are many or old, or at the end; else null. */
  takeDetails(atEnd) {
    const count = this.block.start.length;
    const isDue = atEnd || count >= BLOCK_TOKENS || performance.now() - this.blockBegan > BLOCK_MS;
    if (count === 0 || !isDue) return null;
    const typed = Object.entries(DETAILS).map(([name, Type]) => [name, Type.from(this.block[name])]);
    this.clearDetails();
    return Object.fromEntries(typed);
  }
}
