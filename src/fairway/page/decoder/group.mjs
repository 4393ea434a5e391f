// A group of lanes of one chunk: it predicts all their next tokens, is told them, and goes on.
import { Distribution, sumMasses } from "./frequencies.mjs";
import { makeSoftcapTable } from "./integer_math.mjs";
import { Arena } from "./kernels.mjs";
import { LaneMemory, SharedMemory } from "./memory.mjs";
import { Network } from "./network.mjs";

const BLOCK_TOKENS = 8192;
const BLOCK_MS = 250;
const ALTERNATIVES = 5;
const FLOATS = Float32Array;
const DETAILS = { start: Uint32Array, token: Uint16Array, bits: FLOATS, top: Uint16Array, topBits: FLOATS, shares: FLOATS };

export class LaneGroup {
  /**
   * @param lanes [{first, count}]: where each lane's coded tokens stand in the chunk, the longest lane first
   * @param details whether to tell bits, alternatives and shares of every token
   */
  constructor(artifact, lanes, details) {
    const { recipe, tokenizer: { vocabulary, bos } } = artifact;
    const arena = new Arena(), network = new Network(arena, artifact, lanes.length);
    const shared = (recipe.ngram || recipe.neural_cache) && new SharedMemory(arena, recipe, vocabulary, bos, network.head);
    this.memories = lanes.map(() => shared && new LaneMemory(arena, shared)); this.kernels = arena.allocate();
    for (const linear of network.linears) linear.fill();
    Object.assign(this, { network, lanes, details, step: 0, active: lanes.length });
    this.fed = new Uint16Array(lanes.length).fill(bos); this.table = makeSoftcapTable(recipe.softcap);
    this.products = new Float32Array(vocabulary); this.sums = lanes.map(() => new Float64Array(vocabulary + 1));
    this.additions = lanes.map(() => shared && new Float64Array(vocabulary + 1)); this.beginBlock();
  }

  /** Predict the next token of each lane that has one: arrays of what Distribution takes, and a block of details. */
  predict() {
    const { network, lanes, kernels, memories } = this;
    while (this.active && lanes[this.active - 1].count <= this.step) this.active--;
    if (this.active) network.step(kernels, this.fed, this.active);
    for (let lane = 0; lane < this.active; lane++) {
      network.normalized(network.head, lane, this.products);
      sumMasses(this.table, this.products, this.sums[lane]);
      if (memories[lane]) memories[lane].predict(kernels, lane, this.additions[lane]);
    }
    const [sums, additions] = [this.sums, this.additions].map((list) => list.slice(0, this.active));
    return { sums, additions, rests: memories.slice(0, this.active).map(({ rest }) => rest), details: this.takeBlock() };
  }

  /** Take the tokens of the lanes that were predicted. */
  accept(tokens) {
    for (let lane = 0; lane < this.active; lane++) {
      const token = (this.fed[lane] = tokens[lane]), memory = this.memories[lane];
      if (!memory && !this.details) continue;
      const distribution = new Distribution(this.sums[lane], this.additions[lane], memory.rest);
      const support = memory ? memory.supportOf(token) : { fromNgrams: 0, fromCache: 0 };
      if (this.details) this.addDetails(this.lanes[lane].first + this.step, token, distribution, support);
      if (memory) memory.learn(token, distribution.network(token + 1) - distribution.network(token), support.right);
    }
    this.step++;
  }

  beginBlock() {
    this.block = Object.fromEntries(Object.keys(DETAILS).map((name) => [name, []]));
    this.blockBegan = performance.now();
  }

  /** Tell where a token stands, what it costs, what else was likely and who predicted it. */
  addDetails(start, token, distribution, { fromNgrams, fromCache }) {
    const { block } = this;
    const bitsOf = (symbol) => 30 - Math.log2(distribution.frequency(symbol));
    const top = distribution.likeliest(ALTERNATIVES);
    const [ngrams, cache] = [fromNgrams, fromCache].map((part) => part / distribution.frequency(token));
    block.start.push(start); block.token.push(token); block.bits.push(bitsOf(token)); block.top.push(...top);
    block.topBits.push(...top.map(bitsOf)); block.shares.push(1 - ngrams - cache, ngrams, cache);
  }

  /** Return the details since the last block if they are many or old, or at the end; else null. */
  takeBlock() {
    const count = this.block.start.length;
    const isDue = !this.active || count >= BLOCK_TOKENS || performance.now() - this.blockBegan > BLOCK_MS;
    if (!count || !isDue) return null;
    const block = Object.fromEntries(Object.entries(DETAILS).map(([name, Type]) => [name, Type.from(this.block[name])]));
    this.beginBlock();
    return block;
  }
}
