// A group of lanes of one chunk: it predicts all their next tokens, is told them, and goes on.
import { demand } from "./binary.mjs";
import { TOTAL, cumulate, likeliest } from "./frequencies.mjs";
import { makeSoftcapTable } from "./integer_math.mjs";
import { Arena } from "./kernels.mjs";
import { LaneMemory } from "./memory.mjs";
import { Network } from "./network.mjs";

const LANE_BYTES = 2 ** 17; // what a lane takes besides the kernels' arrays
const LANES_LIMIT = 2 ** 32;
const BLOCK_TOKENS = 8192;
const BLOCK_MS = 250;
const ALTERNATIVES = 5;

export class LaneGroup {
  /**
   * @param lanes [{first, count}]: where each lane's coded tokens stand in the chunk, the longest
   *   lane first
   * @param details whether to tell bits, alternatives and shares of every token
   */
  constructor(artifact, lanes, details) {
    const { recipe, tokenizer } = artifact;
    const { vocabulary, bos } = tokenizer;
    const isRoom = lanes.length * (LANE_BYTES + 30 * vocabulary) <= LANES_LIMIT;
    demand(isRoom, "the proof's lanes ask for more memory than there is");
    const arena = new Arena();
    const network = new Network(arena, artifact, lanes.length);
    const hasMemory = recipe.ngram > 0 || recipe.neural_cache > 0;
    const makeMemory = () => new LaneMemory(arena, recipe, vocabulary, bos, network.head);
    this.memories = hasMemory ? lanes.map(makeMemory) : [];
    arena.allocate();
    Object.assign(this, { network, lanes, details, step: 0, active: lanes.length });
    this.fed = new Uint16Array(lanes.length).fill(bos);
    this.table = makeSoftcapTable(recipe.softcap);
    this.products = new Float32Array(vocabulary);
    // Cumulative frequencies, [lanes, V + 1], with the memory and of the network alone; by lanes.
    const width = vocabulary + 1;
    const byLanes = (all) => lanes.map((_, i) => all.subarray(i * width, (i + 1) * width));
    this.frequencies = new Uint32Array(lanes.length * width);
    this.mixed = byLanes(this.frequencies);
    this.own = hasMemory ? byLanes(this.frequencies.slice()) : this.mixed;
    this.beginBlock();
  }

  /** Predict the next token of each lane that has one: frequencies, and a block of details. */
  predict() {
    const { network, lanes, frequencies, mixed, own, products } = this;
    while (this.active && lanes[this.active - 1].count <= this.step) this.active--;
    if (this.active) network.step(this.fed, this.active);
    for (let lane = 0; lane < this.active; lane++) {
      network.head.normalized(lane, products);
      cumulate(this.table, products, own[lane]);
      this.memories[lane]?.predict(lane, own[lane], mixed[lane]);
    }
    return { frequencies, count: this.active, details: this.takeBlock() };
  }

  /** Take the tokens of the lanes that were predicted. */
  accept(tokens) {
    tokens.forEach((token, lane) => {
      if (this.details) this.addDetails(lane, token);
      this.memories[lane]?.learn(token, this.own[lane][token + 1] - this.own[lane][token]);
    });
    this.fed.set(tokens);
    this.step++;
  }

  beginBlock() {
    this.block = { start: [], token: [], bits: [], top: [], topBits: [], shares: [] };
    this.blockBegan = performance.now();
  }

  /** Tell where a token stands, what it costs, what else was likely and who predicted it. */
  addDetails(lane, token) {
    const cumulative = this.mixed[lane];
    const frequency = (symbol) => cumulative[symbol + 1] - cumulative[symbol];
    const bitsOf = (symbol) => -Math.log2(frequency(symbol) / TOTAL);
    const memory = this.memories[lane];
    const ngrams = memory ? memory.fromNgrams[token] / frequency(token) : 0;
    const cache = memory ? memory.fromCache[token] / frequency(token) : 0;
    const top = likeliest(cumulative, ALTERNATIVES);
    const { block } = this;
    block.start.push(this.lanes[lane].first + this.step);
    block.token.push(token);
    block.bits.push(bitsOf(token));
    block.top.push(...top);
    block.topBits.push(...top.map(bitsOf));
    block.shares.push(1 - ngrams - cache, ngrams, cache);
  }

  /** Return the details since the last block if they are many or old, or at the end; else null. */
  takeBlock() {
    const { block, blockBegan } = this;
    const count = block.start.length;
    const isOld = performance.now() - blockBegan > BLOCK_MS;
    if (!count || (this.active && count < BLOCK_TOKENS && !isOld)) return null;
    this.beginBlock();
    return block;
  }
}
